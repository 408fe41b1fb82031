"""A model card: all that is known of one version, as one document for operators, auditors and data scientists.

Pure: records of the store go in, the card comes out, with the same fields whatever is missing; ``missing`` says what,
and what to do about it. Nothing is estimated. As JSON its field names are stable for a ``card`` number: fields may be
added under it, none is renamed, taken away, or given another meaning.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from aggregator.spreads import Spread
from protocol.clock import utc

CARD_FORMAT = 1


class Export(Struct, frozen=True, kw_only=True):
    """A file that was made of a version, as the log of exports keeps it."""

    sha256: str
    """Of the whole file."""
    epoch: str
    version: int
    file: str
    """Where it was written."""
    format: str
    """``npz`` or ``tflite``."""
    weights: str
    """``float32`` or ``int8``."""
    bytes: int
    parameters: str
    """SHA-256 of the parameters that it was made of, as in ``hashes``."""
    calibration: str = ""
    """SHA-256 of the file that int8 was calibrated with."""
    made: float = 0.0
    """Seconds since 1970."""


class Share(Struct, frozen=True, kw_only=True):
    """What one device gave to a version."""

    device: str
    updates: int
    examples: int
    weight_share: float
    """Of the version's whole weight, 0 to 1."""
    staleness: int
    """Of its oldest update, in versions."""


class Contents(Struct, frozen=True, kw_only=True):
    """What a version was made of."""

    updates: int
    devices: int
    examples: int
    steps: int
    weight: float
    """Sum of examples times the weight of their update's staleness."""
    step_norm: float
    """Length of the step from the parent."""
    clipped: int
    """Updates that were shortened because they were far longer than most."""
    staleness: dict[str, int]
    """Updates by staleness in versions."""
    weight_by_staleness: dict[str, float]
    """Share of the whole weight, 0 to 1."""
    heaviest: list[Share]
    """The devices with the most weight."""
    more_devices: int
    """So many are not listed; ``show --json`` has every update."""


class Tried(Struct, frozen=True, kw_only=True):
    """How a part of the fleet found a version, against its parent, before it was published."""

    why: str
    """Why it was published."""
    devices: int
    """Those that compared it on examples of their own."""
    figures: dict[str, float]
    """``worse`` (how much, below 0: better), ``margin`` (how much is allowed), ``fleet_accuracy`` and the like."""


class Withheld(Struct, frozen=True, kw_only=True):
    """A candidate that was not published."""

    when: str
    reason: str
    updates: int


class Lineage(Struct, frozen=True, kw_only=True):
    """Where a version comes from, and what became of it."""

    parent: int | None
    """The version before it; None for the first."""
    parameters_of: int | None
    """Of a rollback: the version whose parameters it has."""
    state: str
    """``current``, ``superseded`` or ``withdrawn``."""
    withdrawn_by: int | None
    """The version that took it back."""
    withheld_before: list[Withheld]
    """Candidates in its place, before it, that the gate refused."""
    withdrawn_before: list[Withheld] = []
    """The same that a part of the fleet tried, and that were withdrawn."""
    tried: Tried | None = None
    """None: it was published at once."""
    set_aside: int
    """Of a rollback: updates of the open buffer that were not used."""
    made_of: Contents | None


class Evaluation(Struct, frozen=True, kw_only=True):
    """A survey that asked devices to evaluate, as far as they held this version when they answered."""

    survey: str
    asked: str
    open: bool
    answered: int
    devices: int
    """Those that had examples."""
    examples: int
    overall: dict[str, float]
    """Means over all examples."""
    figures: list[Spread]


class Measurements(Struct, frozen=True, kw_only=True):
    """How good the version is, by who measured it."""

    aggregator: dict[str, float]
    """On the aggregator's own data; empty without any."""
    held_out: list[Spread]
    """By devices that trained from this version, on what they hold out, before they trained."""
    surveys: list[Evaluation]


class Sizes(Struct, frozen=True, kw_only=True):
    """How large it is, in bytes unless said otherwise."""

    parameters: int | None
    """How many."""
    parameter_bytes: int | None
    blob_bytes: int
    """As devices fetch it whole."""
    blob_encoding: str
    delta_bytes: int | None
    """As devices fetch it that have the parent; None where no delta is offered."""
    delta_encoding: str
    update_bytes: int | None
    """All updates in it, as encoded."""
    mean_update_bytes: float | None


class Hashes(Struct, frozen=True, kw_only=True):
    """SHA-256, hexadecimal."""

    parameters: str
    """Of float32, little-endian, in the layout's order: what every device must come to."""
    blob: str
    delta: str


class Card(Struct, frozen=True, kw_only=True):
    """The whole card. Times are UTC, as in RFC 3339, by the aggregator's clock."""

    card: int = CARD_FORMAT
    federation: str
    epoch: str
    version: int
    kind: str
    """``initial``, ``statistics``, ``aggregate`` or ``rollback``."""
    created: str
    parameters_kept: bool
    """Whether it can still be exported and rolled back to."""
    lineage: Lineage
    model: dict[str, Any]
    """``spec`` with ``parameters`` (name, shape, how many); empty when it is not known."""
    terms: dict[str, Any]
    """Under which it was made (see ``aggregator.terms``); empty when they were not noted."""
    measured: Measurements
    data: dict[str, Any]
    """Statistics of the federation's examples, and of which survey; empty when none were asked."""
    size: Sizes
    hashes: Hashes
    exports: list[Export]
    drifting: list[str]
    """Devices that say, now, that their data drift: they hold this version. Of the current version only."""
    missing: dict[str, str]
    """By part: why it is not there, and what brings it."""


def when(seconds: float) -> str:
    """Return a time as text, to the second."""
    return utc(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
