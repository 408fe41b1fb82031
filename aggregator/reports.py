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
        state = decode_status(received.payload, DeviceState)
        check_sender(origin.device_id, state.device_id)
        fleet.note_state(origin.device_id, state, wall, retained=received.retain)
        said_now = state.boot and state.state != "lost" and not received.retain
        if said_now and fleet.identities.note(origin.device_id, state.boot):
            return [
                Log("warning", f"two agents say that they are device {origin.device_id}: one is a copy of the other")
            ]
    else:
        metrics = decode_status(received.payload, DeviceMetrics)
        check_sender(origin.device_id, metrics.device_id or origin.device_id)
        fleet.note_metrics(origin.device_id, metrics, wall)
    return []
