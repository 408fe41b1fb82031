"""What can happen to the aggregator; messages and the link's own events come as ``protocol.link`` has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from protocol.link import LinkEvent
from protocol.messages import CommandAction
from protocol.surveys import AskedKind


@dataclass(frozen=True, slots=True)
class ScheduleDue:
    """The interval or the cron line says that a version should be made."""


@dataclass(frozen=True, slots=True)
class MetricsDue:
    """Time to tell how things are."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline that the core asked for has come."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """SIGTERM: say goodbye and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRequested:
    """An operator asks for the figures, live."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequested:
    """An operator wants the parameters of an older version back, as a new version."""

    request_id: str
    target: int
    parameters: bytes
    """The target's float32 little-endian vector, read from the registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCommandRequested:
    """An operator commands one device, or all of them (``device_id`` empty)."""

    request_id: str
    device_id: str
    action: CommandAction


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRequested:
    """An operator puts a device into quarantine, or (``reason`` empty) releases it."""

    request_id: str
    device_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyRequested:
    """An operator asks the fleet; the survey gets the id of the request."""

    request_id: str
    kind: AskedKind
    fraction: float
    min_examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyCloseRequested:
    """An operator has heard enough."""

    request_id: str
    survey: str


CanaryAction: TypeAlias = Literal["publish", "withdraw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRequested:
    """An operator decides on the candidate."""

    request_id: str
    action: CanaryAction


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFailed:
    """The batch with these messages could not be stored; the core was restored to what the store holds."""

    reason: str
    lost: tuple[Event, ...]


OperatorEvent: TypeAlias = (
    StatusRequested
    | RollbackRequested
    | DeviceCommandRequested
    | QuarantineRequested
    | SurveyRequested
    | SurveyCloseRequested
    | CanaryRequested
)
Event: TypeAlias = LinkEvent | ScheduleDue | MetricsDue | Tick | StopRequested | OperatorEvent | StoreFailed

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
