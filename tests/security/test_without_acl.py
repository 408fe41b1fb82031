"""The second line: a broker that lets everybody do everything, and a real aggregator that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmq.embedded_broker import EmbeddedBroker
from protocol.messages import ModelUpdate
from protocol.packing import encode
from protocol.status import AggregatorClaim, AggregatorState, DeviceMetrics, DeviceState, encode_status
from protocol.topics import Topics
from tests.support.federation import Federation, wait_until
from tests.support.secure import Guest

TOPICS = Topics("test")
A, B = "press-07", "press-08"
ZEROS = "0" * 16


def update(device_id: str, **more: Any) -> bytes:
    plain: dict[str, Any] = {
        "federation": "test", "epoch": ZEROS, "device_id": device_id, "incarnation": ZEROS, "sequence": 1,
        "base_version": 0, "num_examples": 10, "num_steps": 1, "codec": "f32", "layout": "0" * 64, "delta": b"",
    }  # fmt: skip
    return encode(ModelUpdate(**{**plain, **more}))


class Watch:
    """What the aggregator says of itself."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self.figures: dict[str, Any] = {}
        self.states: list[AggregatorState] = []
        guest.subscribe(TOPICS.aggregator_metrics)

    def refusals(self) -> dict[str, int]:
        while not self._guest.messages.empty():
            self.figures = json.loads(self._guest.messages.get().payload)
        found: dict[str, int] = self.figures.get("refusals", {})
        return found


AS_B: dict[str, tuple[Callable[[], tuple[str, bytes]], str]] = {
    "an update of A under B's name": (lambda: (TOPICS.update(B), update(A)), "wrong-device"),
    "an update of another federation": (lambda: (TOPICS.update(A), update(A, federation="other")), "other-federation"),
    "an update of an epoch that never was": (lambda: (TOPICS.update(A), update(A)), "other-epoch"),
    "an update in a wrong shard": (lambda: (f"{TOPICS.root}/up/63/{A}", update(A)), "malformed"),
    "a state of A under B's name": (
        lambda: (TOPICS.device_state(B), encode_status(DeviceState(device_id=A, state="stopped"))), "wrong-device",
    ),
    "figures of A under B's name": (
        lambda: (TOPICS.device_metrics(B), encode_status(DeviceMetrics(device_id=A))), "wrong-device",
    ),
    "an update of the aggregator": (
        lambda: (f"{TOPICS.root}/up/1/role:aggregator", update("role:aggregator")), "malformed",
    ),
    "noise": (lambda: (TOPICS.update(A), b"\x93\x01\x02\x03"), "malformed"),
}  # fmt: skip


def test_what_is_not_of_its_topics_owner_is_counted_and_changes_nothing(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with (
        Federation(tmp_path, broker.port) as federation,
        Guest(broker.port, None) as stranger,
        Guest(broker.port, None) as other,
    ):
        federation.start_aggregator()
        federation.wait_for_version(0)
        watch = Watch(other)
        wait_until(lambda: bool(watch.refusals() or watch.figures), "the aggregator's figures")
        for what, (make, reason) in AS_B.items():
            before = watch.refusals().get(reason, 0)
            stranger.publish(*make())
            wait_until(lambda: watch.refusals().get(reason, 0) > before, f"{reason!r} for {what}")  # noqa: B023 - now
        assert federation.accepted() == []
        assert watch.figures["updates_accepted"] == 0
        assert federation.stop("aggregator") == 0


@pytest.mark.parametrize("status", ["offline", "online"])
def test_a_false_state_or_claim_does_not_silence_the_aggregator(
    broker: EmbeddedBroker, tmp_path: Path, status: str
) -> None:
    """Its own state stands again at once; a question is answered, whoever asks."""
    with Federation(tmp_path, broker.port, goal=1) as federation, Guest(broker.port, None) as stranger:
        process = federation.start_aggregator()
        federation.wait_for_version(0)
        stranger.subscribe(TOPICS.aggregator_state)
        ours = json.loads(stranger.hear().payload)
        # "online" of a larger name; of a smaller one only the ACL, or a signature, could tell truth from lie.
        false = AggregatorState(federation="test", epoch=ZEROS, instance=ZEROS, store="g" * 16, status=status)  # type: ignore[arg-type]  # one of two
        stranger.publish(TOPICS.aggregator_state, encode_status(false), retain=True)
        stranger.publish(TOPICS.aggregator_claim, encode_status(AggregatorClaim(instance=ZEROS, store="0")))
        assert json.loads(stranger.hear().payload)["store"] == "g" * 16
        assert json.loads(stranger.hear().payload) == ours
        federation.start_agent(0)
        federation.wait_for_version(1)
        assert process.poll() is None
        federation.stop_all()
        federation.check(agents=1)


def test_a_false_model_misleads_the_aggregator_in_nothing(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Devices are protected by signatures; the aggregator works on, and its next manifest stands again."""
    with Federation(tmp_path, broker.port, goal=1) as federation, Guest(broker.port, None) as stranger:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.wait_for_version(1)
        for topic in (TOPICS.current_model, TOPICS.blob("a" * 64, 0), TOPICS.receipt("device-0"), TOPICS.command_all):
            stranger.publish(topic, b"a lie", retain=True)
        federation.wait_for_versions_more(2)
        stranger.subscribe(TOPICS.current_model)
        assert stranger.hear().payload != b"a lie"
        federation.stop_all()
        federation.check(agents=1)


def test_a_retained_state_with_a_number_that_nothing_can_store_does_not_end_the_aggregator(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    """The broker would deliver it again after each restart. For this a device needs no more than its own topic."""
    with Federation(tmp_path, broker.port, goal=1) as federation, Guest(broker.port, None) as device:
        for number, version in enumerate((2**64, -(2**70), 10**400)):
            text = f'{{"device_id":"evil-{number}","state":"idle","version":{version}}}'
            device.publish(TOPICS.device_state(f"evil-{number}"), text.encode(), retain=True)
        process = federation.start_aggregator()
        federation.start_agent(0)
        federation.wait_for_version(1)
        assert process.poll() is None
        federation.stop_all()
        federation.check(agents=1)
