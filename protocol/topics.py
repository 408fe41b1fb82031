"""Every topic of a federation, made and read in this one module (see docs/protocol.md for the table)."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Literal

from protocol.errors import ProtocolError
from protocol.identifiers import check_identifier

SHARDS = 64
"""Fixed for ever: a device's shard is part of its topic, and aggregators of a tree divide the fleet by it."""

_BLOB = re.compile(r"([0-9a-f]{64})/(0|[1-9][0-9]{0,8})")
"""One spelling for every chunk: no leading zeros, no digits of other scripts."""

EVERYBODY = "all"
"""Stands for the whole fleet in command topics, so no device may be called that."""

UpKind = Literal["update", "state", "metrics"]


def shard(device_id: str) -> int:
    """Return the shard, 0 to 63, in which the device's updates travel: CRC-32 of its id modulo 64."""
    return zlib.crc32(device_id.encode()) % SHARDS


def sender_of(topic: str) -> str:
    """Return what all topics of one device have in common, its id: by their form alone, of whatever federation.

    That of a topic on which no device publishes is the topic itself. For counting before anything is checked: a device
    may publish in every shard, and would otherwise count as 66.
    """
    match topic.split("/", 6):
        case [_, _, _, "up", _, device_id] | [_, _, _, "device", device_id, _]:
            return device_id
    return topic


@dataclass(frozen=True, slots=True)
class DeviceTopic:
    """A topic that a device publishes on: which device, and what."""

    device_id: str
    kind: UpKind


class Topics:
    """The topics of one federation. Raises ``ProtocolError`` for an id that is no topic segment."""

    def __init__(self, federation: str) -> None:
        self.federation = check_identifier(federation, "federation")
        self.root = f"fedmq/v1/{federation}"
        self.aggregator_state = f"{self.root}/aggregator/state"
        self.aggregator_claim = f"{self.root}/aggregator/claim"
        self.aggregator_metrics = f"{self.root}/aggregator/metrics"
        self.current_model = f"{self.root}/model/current"
        self.all_updates = f"{self.root}/up/+/+"
        self.all_device_states = f"{self.root}/device/+/state"
        self.all_device_metrics = f"{self.root}/device/+/metrics"
        self.command_all = f"{self.root}/command/{EVERYBODY}"

    def blob(self, digest: str, index: int) -> str:
        """Return the retained topic of chunk ``index`` of the blob with this digest."""
        return f"{self.root}/blob/{digest}/{index}"

    def update(self, device_id: str) -> str:
        """Return the topic on which the device publishes updates, their chunks and probes."""
        return f"{self.root}/up/{shard(device_id)}/{check_identifier(device_id)}"

    def receipt(self, device_id: str) -> str:
        """Return the topic on which the device hears what became of its updates."""
        return f"{self.root}/receipt/{check_identifier(device_id)}"

    def device_state(self, device_id: str) -> str:
        """Return the retained topic of the device's state; its will is published here too."""
        return f"{self.root}/device/{check_identifier(device_id)}/state"

    def device_metrics(self, device_id: str) -> str:
        """Return the topic of the device's figures."""
        return f"{self.root}/device/{check_identifier(device_id)}/metrics"

    def command(self, device_id: str) -> str:
        """Return the topic on which the aggregator commands one device."""
        return f"{self.root}/command/{check_identifier(device_id)}"

    def parse_device_topic(self, topic: str) -> DeviceTopic:
        """Return whose topic this is and what for; raise ``ProtocolError`` when no device publishes there."""
        if not topic.startswith(self.root + "/"):
            raise ProtocolError(f"topic {topic[:200]!r} is not of federation {self.federation!r}")
        match topic[len(self.root) + 1 :].split("/"):
            case ["up", number, device_id] if number == str(shard(check_identifier(device_id))):
                return DeviceTopic(device_id, "update")
            case ["up", number, device_id]:
                raise ProtocolError(f"device {device_id!r} belongs to shard {shard(device_id)}, not {number[:8]!r}")
            case ["device", device_id, "state"]:
                return DeviceTopic(check_identifier(device_id), "state")
            case ["device", device_id, "metrics"]:
                return DeviceTopic(check_identifier(device_id), "metrics")
        raise ProtocolError(f"no device publishes on {topic[:200]!r}")

    def parse_blob_topic(self, topic: str) -> tuple[str, int]:
        """Return digest and chunk index of a blob topic; raise ``ProtocolError`` for any other."""
        prefix = f"{self.root}/blob/"
        if topic.startswith(prefix):
            found = _BLOB.fullmatch(topic, len(prefix))
            if found:
                return found[1], int(found[2])
        raise ProtocolError(f"{topic[:200]!r} is no blob topic of federation {self.federation!r}")
