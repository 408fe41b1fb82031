"""An aggregator with keys: what it signs, how it numbers, and which updates it opens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from aggregator.commands import Publish, Reply, SaveIssued
from aggregator.configuration import AdmissionTable
from aggregator.events import DeviceCommandRequested
from aggregator.keyring import Keyring
from aggregator.manifests import largest_manifest_bytes
from aggregator.numbering import next_generation, next_number
from protocol.clock import EARLIEST_S
from protocol.messages import MAX_MANIFEST_BYTES, DeviceCommand, Manifest, Participation, SealedUpdate
from protocol.packing import decode_command, decode_manifest
from protocol.sealing import Opener, seal
from protocol.signing import Signer, verified_body
from tests.aggregator.harness import SIZE, Bench, only, settings_with

SIGNER = Signer([b"n" * 32, b"o" * 32], standby=Signer([b"x" * 32]).public_keys[0])
OLD_KEY, NEW_KEY = b"1" * 32, b"2" * 32
OPENER = Opener([("x25519", NEW_KEY), ("x25519", OLD_KEY)])
BEFORE = Opener([("x25519", OLD_KEY)])
STRANGER = Opener([("x25519", b"3" * 32)])


def secure(**tables: Any) -> Bench:
    bench = Bench(settings_with(**tables), keys=Keyring(signer=SIGNER, opener=OPENER))
    bench.restored = replace(bench.restored, generation=5_000, issued=6_000)
    return bench.restart()


def manifest(bench: Bench) -> Manifest:
    payload = bench.broker[bench.topics.current_model]
    return decode_manifest(verified_body(payload, "manifest", SIGNER.public_keys[1:2]))


def sealed(bench: Bench, opener: Opener = OPENER, **fields: Any) -> SealedUpdate:
    return seal(bench.update(**fields), opener.sealing)


def test_a_manifest_is_signed_numbered_and_carries_the_keys() -> None:
    bench = secure()

    found = manifest(bench)

    assert (found.generation, found.issued) == (5_000, 6_000)
    assert found.signing_keys == list(SIGNER.public_keys)
    assert found.sealing == OPENER.sealing
    assert len(found.signing_keys) == 3


def test_without_keys_everything_is_plain() -> None:
    bench = Bench()

    found = decode_manifest(bench.broker[bench.topics.current_model])

    assert (found.signing_keys, found.sealing) == ([], None)
    assert bench.answer(bench.update()).status == "accepted"


@pytest.mark.parametrize("suite", ["x25519", "mlkem768-x25519"])
def test_the_longest_secure_manifest_fits(suite: Any) -> None:
    key = bytes(range(96)) if suite != "x25519" else OLD_KEY
    keys = Keyring(signer=SIGNER, opener=Opener([(suite, key)]))
    bench = Bench(keys=keys)

    assert largest_manifest_bytes(bench.settings, bench.model, keys) < MAX_MANIFEST_BYTES - 512


def test_a_sealed_update_counts_as_if_it_had_come_in_the_clear() -> None:
    open_air, bench = Bench(), secure()
    update = bench.update(delta=np.arange(SIZE), metrics={"loss": 0.5})

    plain, found = open_air.answer(update), bench.answer(seal(update, OPENER.sealing))

    assert (plain.status, found.status) == ("accepted", "accepted")
    assert bench.bits() == open_air.bits()
    assert bench.restored.journal[0].delta == open_air.restored.journal[0].delta
    assert bench.restored.journal[0].contribution.metrics == {"loss": 0.5}


def test_the_same_sealed_bytes_again_are_a_duplicate_also_after_a_restart() -> None:
    bench = secure()
    message = sealed(bench)
    assert bench.answer(message).status == "accepted"

    assert bench.answer(message).status == "duplicate"
    assert bench.restart().answer(message).status == "duplicate"


def test_an_update_in_the_clear_is_refused() -> None:
    bench = secure()
    before = bench.bits()

    for answer in (bench.answer(bench.update()), bench.send(bench.chunks(bench.update(), 90_000)[0])):
        receipt = answer if not isinstance(answer, list) else bench.receipts(answer)[0]
        assert receipt.status == "rejected"
        assert receipt.reason.startswith("unsealed: ")
    assert bench.bits() == before
    assert bench.refusals == {"unsealed": 2}


MOVES: dict[str, Any] = {"incarnation": "d" * 16, "sequence": 999, "device_id": "other"}


@pytest.mark.parametrize("field", MOVES)
def test_an_update_moved_to_another_device_or_number_is_refused(field: str) -> None:
    bench = secure()
    before = bench.bits()
    moved = structs.replace(sealed(bench), **{field: MOVES[field]})

    receipt = bench.answer(moved, moved.device_id)

    assert receipt.status == "rejected"
    assert receipt.reason.startswith("cannot-open: ")
    assert bench.bits() == before


def test_an_update_moved_to_another_base_version_is_refused() -> None:
    bench = secure()
    message = sealed(bench, sequence=500)
    while bench.version == 0:
        assert bench.answer(sealed(bench)).status == "accepted"

    receipt = bench.answer(structs.replace(message, base_version=1))

    assert receipt.reason.startswith("cannot-open: ")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"federation": "other"}, "other-federation"),
        ({"epoch": "f" * 16}, "other-epoch"),
        ({"base_version": 7}, "unknown-version"),
        ({"device_id": "other"}, "wrong-device"),
    ],
)
def test_cheap_checks_come_before_opening(fields: dict[str, Any], code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = secure()
    monkeypatch.setattr(OPENER, "open", None)

    receipt = bench.answer(structs.replace(sealed(bench), **fields))

    assert receipt.reason.startswith(code + ": ")


def test_a_device_that_had_its_turn_costs_no_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = secure(participation=Participation(codec="f32", contributions_per_version=1))
    assert bench.answer(sealed(bench)).status == "accepted"
    monkeypatch.setattr(OPENER, "open", None)

    receipt = bench.answer(sealed(bench))

    assert (receipt.status, receipt.reason.split(":")[0]) == ("retry", "one-per-version")


def test_the_key_before_still_opens_and_a_strangers_does_not() -> None:
    bench = secure()

    assert bench.answer(sealed(bench, BEFORE)).status == "accepted"
    assert bench.answer(sealed(bench, STRANGER)).reason.startswith("cannot-open: ")
    no_key = Bench(keys=Keyring(signer=SIGNER))
    assert no_key.answer(sealed(no_key)).reason.startswith("cannot-open: ")


def test_a_flood_of_sealed_garbage_changes_nothing() -> None:
    bench = secure()
    before = bench.bits()
    for number in range(1, 200):
        garbage = structs.replace(sealed(bench), sealed=bytes([number]) * number)
        assert bench.answer(garbage).reason.startswith("cannot-open: ")
    assert bench.bits() == before
    assert bench.refusals == {"cannot-open": 199}


def test_what_was_sealed_is_checked_like_any_update() -> None:
    bench = secure(admission=AdmissionTable(max_update_norm=1.0))

    faults: dict[str, dict[str, Any]] = {
        "not-finite": {"delta": np.full(SIZE, np.nan, "<f4").tobytes()},
        "other-layout": {"layout": "b" * 64},
        "norm": {},
    }
    for code, fields in faults.items():
        assert bench.answer(sealed(bench, **fields)).reason.startswith(code + ": ")


def test_a_sealed_update_in_chunks_is_opened_when_it_is_whole() -> None:
    bench = secure()
    message = sealed(bench)
    chunks = bench.chunks(message, 64)
    assert len(chunks) > 3

    receipts = [receipt for chunk in reversed(chunks) for receipt in bench.receipts(bench.send(chunk))]

    assert [receipt.status for receipt in receipts] == ["accepted"]
    others = [structs.replace(chunk, sequence=500) for chunk in chunks]
    refused = [receipt for chunk in others for receipt in bench.receipts(bench.send(chunk))]
    assert [receipt.reason.split(":")[0] for receipt in refused] == ["malformed"]


def commanded(bench: Bench, device: str = "", action: Any = "pause") -> tuple[DeviceCommand, int]:
    event = DeviceCommandRequested(request_id="a" * 16, device_id=device, action=action)
    commands = bench.feed(event)
    kinds = [type(command) for command in commands]
    assert kinds.index(SaveIssued) < kinds.index(Publish) < kinds.index(Reply)
    payload = only(commands, Publish)[0].payload
    signed = decode_command(verified_body(payload, "command", SIGNER.public_keys[:1]))
    return signed, only(commands, SaveIssued)[0].issued


def test_commands_are_signed_for_one_device_or_all_with_a_number_that_only_grows() -> None:
    bench = secure()

    found = [commanded(bench), commanded(bench, "press-07"), commanded(bench.restart(), "press-07")]
    bench = bench.restart()
    found.append(commanded(bench))

    assert [command.target for command, _ in found] == ["all", "press-07", "press-07", "all"]
    numbers = [command.issued for command, _ in found]
    assert numbers == [stored for _, stored in found]
    assert numbers[0] > 6_000
    assert numbers[:2] == sorted(set(numbers[:2]))
    assert numbers[3] > numbers[1]
    assert manifest(bench).issued >= numbers[1], "a manifest of this start is not above what went before"


def test_numbers_are_the_clock_or_one_more_than_the_last() -> None:
    assert next_number(5, 2.0) == 2000
    assert next_number(5000, 2.0) == 5001
    assert next_generation(0, EARLIEST_S, signed=True) == EARLIEST_S * 1000
    assert next_generation(EARLIEST_S * 2000, EARLIEST_S, signed=True) == EARLIEST_S * 2000 + 1
    with pytest.raises(ValueError, match="set the clock"):
        next_generation(0, EARLIEST_S - 1, signed=True)
    assert next_generation(7, 0.0, signed=False) == 8
