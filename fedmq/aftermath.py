"""What the aggregator's store says of the model when all processes have ended: how good it is, where, and as files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from aggregator.adapters.errors import ExportFailed, StoreError
from aggregator.adapters.registry import NotKept, open_registry
from aggregator.downlink import vector_of
from aggregator.measured import Measured, measured
from fedmq.baseline import Score, judge
from fedmq.portable import port
from models import build

if TYPE_CHECKING:
    from aggregator.adapters.registry import Registry
    from aggregator.buffer import Contribution
    from fedmq.demo_task import Dealt
    from fedmq.portable import Ported
    from fedmq.workshop import Workshop

USUAL = "error_p99"
"""An error that 99 of 100 of a device's usual examples stay below. The median of all devices' is the threshold: two of
the study's people move twice as fast as the others, and are reconstructed badly; a high quantile over all examples
together is theirs alone, and nothing would stand out (tried: 0 % found)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What the fleet says of its own errors."""

    value: float
    devices: int
    """Who have said."""
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """How good the last version is."""

    score: Score | None = None
    """On what nobody has; None: it cannot be told."""
    own: dict[str, Measured] = field(default_factory=dict)
    """What devices measured on data of their own: ``global``, ``personal``, ``local``; the last of each."""
    threshold: Threshold | None = None
    ported: Ported | None = None
    trouble: str = ""
    """Why some of it is missing."""


def look_back(workshop: Workshop, dealt: Dealt, survey: str = "") -> Aftermath:
    """Read the aggregator's store; write files of the last version into the workshop.

    ``survey``: in which the fleet said how large its errors are.
    """
    try:
        with open_registry(workshop.aggregator_state()) as registry:
            return _read(registry, workshop, dealt, survey)
    except (StoreError, NotKept, ExportFailed, OSError) as exc:
        return Aftermath(trouble=str(exc))


def _read(registry: Registry, workshop: Workshop, dealt: Dealt, survey: str) -> Aftermath:
    version = registry.versions(1)[-1].version
    threshold = _threshold(registry, survey) if survey else None
    limit = threshold.value if threshold else None
    score = None
    if dealt.odd is None or limit is not None:
        vector = vector_of(registry.parameters(version)).astype(np.float32)
        score = judge(build(registry.spec()), vector, dealt, limit)
    ported = port(registry, version, workshop, dealt, limit) if version else None
    return Aftermath(
        score=score,
        own=measured(_contributions(registry)) if dealt.odd is None else {},
        threshold=threshold,
        ported=ported,
    )


def _contributions(registry: Registry) -> list[Contribution]:
    return [found for line in registry.versions() for found in registry.lineage(line.version).contributions]


def _threshold(registry: Registry, survey: str) -> Threshold | None:
    answers = [answer for answer in registry.answers(survey) if USUAL in answer.figures]
    if not answers:
        return None
    value = float(np.median([answer.figures[USUAL] for answer in answers]))
    return Threshold(value=value, devices=len(answers), examples=sum(answer.examples for answer in answers))
