"""Signed commands, sealed updates, and what checking them costs an idle device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_agent import commands as do
from device_agent import events as ev
from protocol.messages import DeviceCommand, ModelUpdate, SealedUpdate
from protocol.packing import decode_update, encode
from protocol.signing import Signer
from tests.device_agent.harness import DEVICE, TOPICS, Driver
from tests.device_agent.secure import (
    FIRST,
    GENERATION,
    K1,
    OPENER,
    PUBLIC,
    STRANGER,
    announce,
    fresh,
    hold,
    refused,
    signed,
)

# -- commands --------------------------------------------------------------------------------------------------------


def order(driver: Driver, signer: Signer | None = FIRST, **fields: Any) -> list[do.Command]:
    good: dict[str, Any] = {
        "federation": "fed",
        "request_id": "7" * 16,
        "action": "pause",
        "target": DEVICE,
        "issued": GENERATION + 50,
    }
    body = encode(DeviceCommand(**(good | fields)))
    return driver.receive(TOPICS.command(DEVICE), signer.sign("command", body) if signer else body)


def paused(driver: Driver) -> bool:
    return driver.disk.durable.paused


def test_a_signed_command_is_obeyed_once() -> None:
    driver = fresh()
    hold(driver, signed())
    order(driver)
    assert paused(driver)
    assert order(driver) == []
    order(driver, action="resume", request_id="8" * 16, issued=GENERATION + 51)
    assert not paused(driver)
    assert "command replayed" not in driver.core._parts.ledger.state.counters.refusals


FORGED: dict[str, tuple[dict[str, Any], Signer | None]] = {
    "command unsigned": ({}, None),
    "command unknown-key": ({}, STRANGER),
    "command other-target": ({"target": "press-08"}, FIRST),
    "command other-federation": ({"federation": "other"}, FIRST),
    "command replayed": ({"issued": GENERATION + 1}, FIRST),
}


@pytest.mark.parametrize("code", FORGED)
def test_a_command_that_is_not_for_us_or_not_by_who_may_is_refused(code: str) -> None:
    driver = fresh()
    hold(driver, signed())
    fields, signer = FORGED[code]
    refused(driver, code, order(driver, signer, **fields))
    assert not paused(driver)


def test_an_old_command_is_refused_also_after_a_restart_and_many_others() -> None:
    driver = fresh()
    hold(driver, signed())
    order(driver)
    for number in range(40):
        order(driver, action="resume", request_id=f"{number:016x}", issued=GENERATION + 100 + number)
    driver = driver.restarted()
    driver.start()
    refused(driver, "command replayed", order(driver))
    assert not paused(driver)


def test_a_device_with_a_new_store_obeys_no_command_from_before_the_aggregators_start() -> None:
    driver = fresh()
    announce(driver, signed(issued=GENERATION + 1000))
    refused(driver, "command replayed", order(driver, issued=GENERATION + 999))


# -- sealing ---------------------------------------------------------------------------------------------------------


def test_what_is_stored_and_sent_is_sealed_and_stays_the_same() -> None:
    driver = fresh()
    hold(driver, signed(sealing=OPENER.sealing))
    delta = bytes(range(200))
    driver.finish_training(delta=delta, train_loss=0.25)

    stored = driver.disk.rows[1].payload
    update = decode_update(stored)
    assert isinstance(update, SealedUpdate)
    assert delta[:16] not in stored
    opened = OPENER.open(update)
    assert (opened.delta, opened.sequence, opened.base_version, opened.metrics) == (delta, 1, 1, {"train_loss": 0.25})
    driver.wait(120.0)
    again = driver.restarted()
    again.start()
    again.wait(60.0)
    sent = [publish.payload for publish in (*driver.all(do.Publish), *again.all(do.Publish)) if "/up/" in publish.topic]
    assert len(sent) > 1
    assert set(sent) == {stored}


@pytest.mark.parametrize("sealed_as", [0, 2])
def test_an_update_that_was_not_sealed_under_its_name_never_leaves(sealed_as: int) -> None:
    driver = fresh()
    hold(driver, signed(sealing=OPENER.sealing))
    task = driver.last(do.Train)
    sealed = b"x" if sealed_as else b""
    driver.give(
        ev.TrainingDone(
            task=task.task, num_examples=1, num_steps=1, delta=b"d", duration_s=1.0, sealed=sealed, sealed_as=sealed_as
        )
    )
    assert driver.disk.rows == {}
    driver.wait(60.0)
    assert len(driver.all(do.Train)) == 2
    driver.finish_training()
    assert not [message for message in driver.sent() if isinstance(message, ModelUpdate)]
    assert len(driver.disk.rows) == 1


# -- memory ----------------------------------------------------------------------------------------------------------


def test_the_same_manifest_after_a_restart_needs_no_cryptography(tmp_path: Path) -> None:
    """In a process of its own: what was verified before is only compared, and the next one takes Python's OpenSSL."""
    payload, other = (FIRST.sign("manifest", encode(signed(version))) for version in (1, 2))
    driver = fresh()
    announce(driver, payload)
    (tmp_path / "state.json").write_bytes(msgspec.json.encode(driver.disk.durable))
    (tmp_path / "payload").write_bytes(payload)
    (tmp_path / "other").write_bytes(other)
    script = f"""
import sys, random, msgspec
from pathlib import Path
from device_agent.core import DeviceCore
from device_agent.records import DurableState, RestoredState
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings
from device_agent import events as ev
from protocol.link import LinkUp, Received
folder = Path({str(tmp_path)!r})
durable = msgspec.json.decode((folder / "state.json").read_bytes(), type=DurableState)
settings = AgentSettings(
    device=DeviceSettings(id={DEVICE!r}, federation="fed", state_dir="/nowhere"), data=DataSettings(path="x.npz")
)
restored = RestoredState(incarnation="1" * 16, durable=durable)
core = DeviceCore(settings, restored, boot="b" * 16, rng=random.Random(1), pins=({PUBLIC[K1]!r},))
core.handle(ev.Started(), 1.0)
core.handle(LinkUp(session_present=False, protocol="5"), 1.0)
for name in ("payload", "other"):
    received = Received(topic={TOPICS.current_model!r}, payload=(folder / name).read_bytes(), retain=True)
    commands = core.handle(received, 2.0)
    assert any(type(command).__name__ == "Subscribe" for command in commands), commands
    print(name, "ctypes" in sys.modules, "cryptography" in sys.modules)
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert child.stdout.split() == ["payload", "False", "False", "other", "True", "False"], child.stderr
