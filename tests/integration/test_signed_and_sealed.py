"""Signatures and sealing with real processes over a real broker, which is believed nothing and shown nothing."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fedmq.embedded_broker import EmbeddedBroker
from protocol.adapters.key_files import (
    new_sealing_key,
    new_signing_key,
    public_signing_key,
    raw_public_signing_key,
    read_signer,
)
from protocol.adapters.pins import federation_json
from protocol.fields import SealingSuite
from protocol.packing import decode_manifest, decode_up, encode
from protocol.signing import verified_body
from tests.support.federation import Federation, wait_until

LARGE = {"kind": "mlp", "inputs": 64, "hidden": [2000, 60], "outputs": 10}
"""250,000 parameters: a float32 update of 1 MB, in chunks."""


class Keys:
    """A federation's key files in the tests' own folder."""

    def __init__(self, folder: Path, suite: SealingSuite = "x25519") -> None:
        self.folder = folder
        for name in ("k1", "k2", "k3", "k4"):
            self._write(f"{name}.key", new_signing_key())
            self._write(f"{name}.pub", public_signing_key(self._read(f"{name}.key")))
        for name in ("s1", "s2"):
            self._write(f"{name}.key", new_sealing_key(suite))
        self._write("federation.json", federation_json("test", [raw_public_signing_key(self._read("k1.key"))]))

    def _read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def _write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)
        (self.folder / name).chmod(0o600)

    def aggregator(self, *signing: str, standby: str = "", sealing: tuple[str, ...] = ("s1",)) -> dict[str, Any]:
        return {
            "signing_keys": [f"{name}.key" for name in signing],
            "standby_signing_key": f"{standby}.pub" if standby else "",
            "sealing_keys": [f"{name}.key" for name in sealing],
        }


def secured(tmp_path: Path, port: int, suite: SealingSuite = "x25519", **fields: Any) -> tuple[Federation, Keys]:
    keys = Keys(tmp_path, suite)
    federation = Federation(tmp_path, port, **fields)
    federation.aggregator_keys = keys.aggregator("k1", standby="k2")
    federation.agent_keys = {"federation_keys": "federation.json"}
    return federation, keys


@contextmanager
def overheard(port: int, folder: Path) -> Iterator[Path]:
    """Write all that passes through the broker to a file, in hexadecimal, as somebody who owns the broker could."""
    heard = folder / "heard"
    with heard.open("wb") as file:
        spy = subprocess.Popen(
            [shutil.which("mosquitto_sub") or "", "-p", str(port), "-t", "#", "-F", "%t %x"], stdout=file
        )
        try:
            yield heard
        finally:
            spy.terminate()  # and it writes what it still has to write
            spy.wait()


def overheard_on(heard: Path, topic: str | re.Pattern[str]) -> list[bytes]:
    """Return the payloads so far on topics in which this is found."""
    traffic = [line.split() for line in heard.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [bytes.fromhex(words[1]) for words in traffic if len(words) == 2 and re.search(topic, words[0])]


def trainings(metrics: list[bytes]) -> int:
    return max((json.loads(one).get("trainings", 0) for one in metrics), default=0)


def deltas(federation: Federation) -> list[bytes]:
    """What the aggregator opened and has in its journal."""
    with closing(sqlite3.connect(federation.directory / "aggregator-state" / "aggregator.sqlite")) as database:
        return [bytes(row[0]) for row in database.execute("SELECT delta FROM journal")]


@pytest.mark.parametrize("suite", ["x25519", "mlkem768-x25519"])
def test_devices_learn_together_and_the_broker_sees_nothing(
    broker: EmbeddedBroker, tmp_path: Path, suite: SealingSuite
) -> None:
    federation, _ = secured(tmp_path, broker.port, suite, codec="f32")
    with federation, overheard(broker.port, tmp_path) as heard:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(4)
        wait_until(lambda: len(overheard_on(heard, "/up/")) >= 10, "ten updates that were overheard")
        metrics = re.compile(r"/device/[^/]+/metrics$")
        wait_until(lambda: trainings(overheard_on(heard, metrics)) > 1, "figures of a second training")
        # From here on updates stay in the journal, where the test can find what was in them.
        federation.stop("aggregator")
        federation.goal, federation.interval_s = 50, 3600.0
        federation.start_aggregator()
        wait_until(lambda: len(deltas(federation)) == 2, "two updates in the journal")
        federation.stop_all()
        federation.check(agents=2)
        opened = deltas(federation)

    updates = overheard_on(heard, "/up/")
    assert {decode_up(payload).__struct_config__.tag for payload in updates} <= {"sealed", "probe"}
    told = [json.loads(payload) for payload in overheard_on(heard, metrics)]
    for name in ("num_examples", "train_loss", "holdout_accuracy", "holdout_loss", "holdout_accuracy_before"):
        assert not any(one.get(name) for one in told), name
    everything = heard.read_bytes().lower()
    for delta in opened:
        assert np.frombuffer(delta, "<f4").any()
        moved = np.flatnonzero(np.frombuffer(delta, "<f4"))[0] * 4
        assert delta[moved : moved + 16].hex().encode() not in everything
    for word in (b"num_examples", b"num_steps", b"delta\xc5"):
        assert word.hex().encode() not in b"".join(payload.hex().encode() for payload in updates)


def test_nothing_is_lost_under_kills(broker: EmbeddedBroker, tmp_path: Path) -> None:
    rng = random.Random(5)
    federation, _ = secured(tmp_path, broker.port)
    with federation:
        federation.start_aggregator()
        for number in range(3):
            federation.start_agent(number)
        federation.wait_for_version(2)
        for _ in range(4):
            victim = rng.choice(["aggregator", "device-0", "device-1", "device-2"])
            federation.kill(victim)
            if victim == "aggregator":
                federation.start_aggregator()
            else:
                federation.start_agent(int(victim[-1]))
            federation.wait_for_versions_more(2)
        federation.stop_all()

        federation.check(agents=3)
        for number in range(3):
            counters = federation.agent_counters(number)
            assert counters["updates_rejected"] == 0, counters
            assert not [name for name in counters["refusals"] if name.startswith(("manifest", "command"))]


def test_a_sealed_update_of_a_megabyte_in_chunks(broker: EmbeddedBroker, tmp_path: Path) -> None:
    federation, _ = secured(tmp_path, broker.port, codec="f32", model=LARGE, goal=1)
    with federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.wait_for_version(1)
        federation.kill("device-0")
        federation.start_agent(0)
        federation.wait_for_versions_more(1)
        federation.stop_all()
        federation.check(agents=1)
        size = federation.query("SELECT max(update_bytes) FROM lineage")[0][0]
        assert size > 1_000_000


def trust(federation: Federation, number: int) -> dict[str, Any]:
    state = federation.query("SELECT value FROM meta WHERE key = 'state'", f"device-{number}")
    found: dict[str, Any] = (json.loads(state[0][0])["trust"] if state else None) or {"keys": []}
    return found


def test_keys_rotate_while_one_device_is_away_and_one_is_killed(broker: EmbeddedBroker, tmp_path: Path) -> None:
    federation, keys = secured(tmp_path, broker.port, goal=1)
    with federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        for number in range(2):
            wait_until(lambda n=number: len(trust(federation, n)["keys"]) == 2, "the next key")  # type: ignore[misc]
        federation.kill("device-1")  # it knows k1 and k2, and is away while k2 takes over

        federation.stop("aggregator")
        federation.aggregator_keys = keys.aggregator("k2", "k1", standby="k3", sealing=("s2", "s1"))
        federation.start_aggregator()
        wait_until(lambda: len(trust(federation, 0)["keys"]) == 3, "three keys")
        federation.kill("device-0")
        federation.stop("aggregator")
        federation.aggregator_keys = keys.aggregator("k3", "k2", standby="k4", sealing=("s2",))
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        signer = read_signer([str(tmp_path / "k3.key"), str(tmp_path / "k2.key")], str(tmp_path / "k4.pub"))
        assert signer
        announced = [msgspec.to_builtins(key) for key in signer.public_keys]
        for number in range(2):
            wait_until(
                lambda n=number: trust(federation, n)["keys"] == announced,  # type: ignore[misc]
                "the keys of the second change",
            )
        federation.wait_for_versions_more(3)
        federation.stop_all()
        federation.check(agents=2)


def test_a_stranger_on_the_broker_is_refused_and_the_device_goes_on(broker: EmbeddedBroker, tmp_path: Path) -> None:
    federation, _ = secured(tmp_path, broker.port, goal=1)
    with federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.wait_for_version(2)
        federation.stop("aggregator")
        retained = shown(broker.port, "fedmq/v1/test/model/current")
        signer = read_signer([str(tmp_path / "k1.key")])
        stranger = read_signer([str(tmp_path / "k4.key")])
        assert signer
        assert stranger
        body = verified_body(retained, "manifest", signer.public_keys)
        manifest = decode_manifest(body)
        older = msgspec.structs.replace(manifest, version=manifest.version - 1)
        lies = {
            "manifest unsigned": body,
            "manifest unknown-key": stranger.sign("manifest", body),
            "manifest replayed": signer.sign("manifest", encode(older)),
            "manifest bad-signature": retained.replace(body[-8:], bytes(8)),
        }
        for code, payload in lies.items():
            publish(broker.port, tmp_path, "fedmq/v1/test/model/current", payload)
            wait_until(lambda c=code: f"{c}: refused" in federation.log("device-0"), code)  # type: ignore[misc]
            wait_until(lambda: refusing(broker.port), "the state to say so")
        publish(broker.port, tmp_path, "fedmq/v1/test/model/current", retained)
        federation.start_aggregator()
        federation.wait_for_versions_more(2)
        federation.stop_all()
        federation.check(agents=1)


def refusing(port: int) -> bool:
    state: dict[str, Any] = json.loads(shown(port, "fedmq/v1/test/device/device-0/state"))
    return str(state["reason"]).startswith("manifest refused: ")


def shown(port: int, topic: str) -> bytes:
    found = subprocess.run(
        ["mosquitto_sub", "-p", str(port), "-t", topic, "-C", "1", "-W", "100", "-N"], capture_output=True, check=True
    )
    return found.stdout


def publish(port: int, folder: Path, topic: str, payload: bytes) -> None:
    (folder / "lie").write_bytes(payload)
    subprocess.run(
        ["mosquitto_pub", "-p", str(port), "-t", topic, "-r", "-q", "1", "-f", str(folder / "lie")], check=True
    )


def test_a_device_without_pins_says_that_it_has_to_be_enrolled(broker: EmbeddedBroker, tmp_path: Path) -> None:
    federation, _ = secured(tmp_path, broker.port)
    federation.agent_keys = {}
    with federation:
        federation.start_aggregator()
        federation.start_agent(0)
        wait_until(lambda: "enrol it" in federation.log("device-0"), "the advice")
        federation.stop_all()
        assert federation.accepted() == []
