"""One device that lies about candidates, among real ones: good ones are published, bad ones withdrawn all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack

from fedmq.embedded_broker import EmbeddedBroker
from tests.integration.test_canary import MODEL, SIZE, buffered, canary, on_trial, tried
from tests.support.federation import Federation, wait_until
from tests.support.foreign_device import ForeignDevice, Trained

HUGE = 1e18
COUNT = 1000


def figures(mean_loss: float) -> dict[str, Any]:
    return {"count": COUNT, "correct": 0, "loss_sum": mean_loss * COUNT}


def with_candidate(liar: ForeignDevice, version: int) -> dict[str, Any]:
    manifest = liar.manifest(version)
    while manifest.get("candidate") is None:
        manifest = liar.manifest(version)
    return manifest


def report(liar: ForeignDevice, manifest: dict[str, Any], sequence: int, before: float, after: float) -> bytes:
    content = {"examples": COUNT, "metrics": figures(before), "candidate": figures(after)}
    body = {
        "type": "report",
        "federation": liar.federation,
        "epoch": manifest["epoch"],
        "device_id": liar.device_id,
        "incarnation": liar.incarnation,
        "sequence": sequence,
        "base_version": manifest["version"],
        "survey": manifest["candidate"]["survey"],
        "content": msgpack.packb(content),
    }
    packed: bytes = msgpack.packb(body)
    return packed


def test_a_liar_neither_kills_a_good_candidate_nor_hides_a_bad_one(broker: EmbeddedBroker, tmp_path: Path) -> None:
    # No verdict without the liar's word: four of four answer. Updates are not shortened, and there are no other gates.
    more = canary(measure='"loss"', max_worse=0.5, min_answers=4) + "[admission]\nclip_factor = 0.0\n"
    with Federation(tmp_path, broker.port, goal=4, interval_s=0.0, model=MODEL, more=more) as federation:
        federation.start_aggregator()
        for number in range(3):
            federation.start_agent(number)
        with ForeignDevice("test", "liar", federation.port) as liar:
            wait_until(lambda: buffered(federation) == 3, "updates of the three")
            nothing = Trained(delta=[0.0] * SIZE, steps=1, examples=1)
            liar.send(liar.update(liar.manifest(0), nothing, 1))
            assert liar.receipt(1)["status"] == "accepted"
            liar.send(report(liar, with_candidate(liar, 0), 2, before=0.0, after=HUGE))
            assert liar.receipt(2)["status"] == "accepted"
            federation.wait_for_version(1)

            wait_until(lambda: buffered(federation) == 3 and not on_trial(federation), "updates of version 1")
            poison = [8.0 if index % 3 else -8.0 for index in range(SIZE)]
            liar.send(liar.update(liar.manifest(1), Trained(delta=poison, steps=1, examples=COUNT), 3))
            assert liar.receipt(3)["status"] == "accepted"
            liar.send(report(liar, with_candidate(liar, 1), 4, before=HUGE, after=0.0))
            assert liar.receipt(4)["status"] == "accepted"
            wait_until(lambda: [line["outcome"] for line in tried(federation)] == ["withdrawn"], "the verdict")

        assert federation.version() == 1
        (found,) = tried(federation)
        assert found["metrics"]["devices"] == 4
        assert found["metrics"]["fleet_loss_before"] < 10.0, "the figures are those of the honest"
        federation.stop_all()
        federation.check(agents=3)
