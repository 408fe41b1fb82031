"""From which error on an example is an anomaly: what the aggregator found over the fleet, and the manifest carries."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.fields import Version


class Threshold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reconstruction error, in the terms in which the model's examples are."""

    error: Annotated[float, Meta(ge=0.0)]
    """What is above is an anomaly."""
    quantile: Annotated[float, Meta(gt=0.0, lt=1.0)]
    """Share of the fleet's held-out examples that are not above."""
    version: Version
    """It was measured on this version, and on those that came until enough devices had answered."""
