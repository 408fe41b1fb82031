"""What devices say of themselves, on their state and metrics topics."""

from __future__ import annotations

from aggregator.admission import check_sender
from aggregator.commands import Command, Log
from aggregator.fleet import Fleet
from protocol.link import Received
from protocol.status import DeviceMetrics, DeviceState, decode_status
from protocol.topics import DeviceTopic


def note(fleet: Fleet, origin: DeviceTopic, received: Received, wall: float) -> list[Command]:
    """Take the report into the fleet's record; raise ``ProtocolError`` or ``Refused`` for one that is wrong."""
    if not received.payload:
        return []  # an operator cleared a retained state
    if origin.kind == "state":
        return _note_state(fleet, origin, received, wall)
    metrics = decode_status(received.payload, DeviceMetrics)
    check_sender(origin.device_id, metrics.device_id or origin.device_id)
    fleet.note_metrics(origin.device_id, metrics, wall)
    return []


def _note_state(fleet: Fleet, origin: DeviceTopic, received: Received, wall: float) -> list[Command]:
    state = decode_status(received.payload, DeviceState)
    check_sender(origin.device_id, state.device_id)
    known = fleet.devices.get(origin.device_id)
    drifted = known is not None and known.drifting
    fleet.note_state(origin.device_id, state, wall, retained=received.retain)
    told = _drift_told(origin.device_id, drifted, fleet.devices[origin.device_id].drifting)
    said_now = state.boot and state.state != "lost" and not received.retain
    if said_now and fleet.identities.note(origin.device_id, state.boot):
        two = f"two agents say that they are device {origin.device_id}: one is a copy of the other"
        return [*told, Log("warning", two)]
    return told


def _drift_told(device_id: str, before: bool, now: bool) -> list[Command]:
    if before == now:
        return []
    if now:
        return [Log("warning", f"device {device_id} does worse on new samples than on earlier ones: its data drift")]
    return [Log("info", f"the data of device {device_id} drift no more")]
