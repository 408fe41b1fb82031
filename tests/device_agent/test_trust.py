"""A device with pinned keys: whom it believes, and what it does when it does not."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from msgspec.structs import replace

from device_agent import commands as do
from device_agent.records import Trusted
from device_agent.trust import trusted_at_start
from protocol.messages import BackboneRef, Candidate, DeltaRef, DeviceCommand, Manifest, Participation, Sealing
from protocol.packing import encode
from protocol.signing import Signer
from protocol.surveys import Survey
from protocol.thresholds import Threshold
from tests.device_agent.harness import TOPICS, Driver, manifest
from tests.device_agent.secure import (
    FIRST,
    GENERATION,
    K1,
    K2,
    K3,
    K4,
    PUBLIC,
    SECOND,
    STRANGER,
    announce,
    fresh,
    held,
    hold,
    refused,
    signed,
)


def test_a_signed_manifest_is_believed_and_the_mark_stored_before_it_is_followed() -> None:
    driver = fresh()

    commands = announce(driver, signed())

    kinds = [type(command) for command in commands]
    assert kinds.index(do.Persist) < kinds.index(do.Subscribe)
    trust = driver.disk.durable.trust
    assert trust
    assert trust.mark == (GENERATION, 1, GENERATION + 1)
    assert trust.keys == [PUBLIC[K1], PUBLIC[K2]]


ALTERED: dict[str, Any] = {
    "federation": "evil",
    "epoch": "f" * 16,
    "version": 3,
    "generation": GENERATION + 1,
    "issued": GENERATION + 2,
    "model": {"kind": "linear", "inputs": 4, "outputs": 2},
    "layout": "b" * 64,
    "parameters": "c" * 64,
    "blob": manifest(3).blob,
    "deltas": [],
    "training": {"epochs": 9},
    "features": {"channels": ["x"]},
    "personal": {"private": ["head.*"]},
    "backbone": BackboneRef(blob=manifest(3).blob, inputs=9, outputs=4),
    "anomaly": Threshold(error=1.0, quantile=0.5, version=1),
    "trains": False,
    "surveys": [Survey(id="a" * 16, kind="statistics")],
    "candidate": Candidate(survey="a" * 16, version=2, parameters="c" * 64, blob=manifest(3).blob),
    "participation": Participation(codec="f32", sampling_fraction=0.5),
    "signing_keys": [PUBLIC[K4]],
    "sealing": Sealing(suite="x25519", key=b"e" * 32),
}


def test_every_field_of_a_manifest_is_tried() -> None:
    assert set(ALTERED) == set(Manifest.__struct_fields__)


@pytest.mark.parametrize("field", ALTERED)
def test_an_altered_manifest_is_refused(field: str) -> None:
    driver = fresh()
    hold(driver, signed())
    good = encode(signed(2, deltas=[DeltaRef(base_version=1, blob=manifest(2).blob)]))
    body = encode(replace(signed(2), **{field: ALTERED[field]}))
    assert body != good
    envelope = FIRST.sign("manifest", good)

    refused(driver, "manifest bad-signature", announce(driver, forge(envelope, body)))
    assert held(driver) == 1


def forge(envelope: bytes, body: bytes) -> bytes:
    packed: bytes = msgpack.packb(msgpack.unpackb(envelope) | {"body": body})
    return packed


def test_a_plain_manifest_is_refused() -> None:
    driver = fresh()
    refused(driver, "manifest unsigned", announce(driver, encode(signed())))


def test_a_strangers_manifest_is_refused_and_says_what_to_do() -> None:
    driver = fresh()
    refused(driver, "manifest unknown-key", announce(driver, signed(), STRANGER))
    assert "enrol the device again" in driver.states()[-1].reason


def test_a_signed_manifest_cut_anywhere_is_refused() -> None:
    driver = fresh()
    payload = FIRST.sign("manifest", encode(signed()))
    for length in range(1, len(payload), 13):
        assert not driver.subscribed(announce(driver, payload[:length]))
    assert driver.core._parts.ledger.state.counters.refusals.keys() == {"manifest unsigned"}


def test_signed_nonsense_is_refused_as_malformed() -> None:
    driver = fresh()
    refused(driver, "manifest malformed", announce(driver, FIRST.sign("manifest", b"nonsense")))


def test_another_federations_manifest_is_refused_though_the_key_is_the_same() -> None:
    driver = fresh()
    refused(driver, "manifest other-federation", announce(driver, signed(federation="other")))


OLDER: dict[str, dict[str, Any]] = {
    "an older version": {"version": 4},
    "an older epoch with a higher version": {"generation": GENERATION - 1, "epoch": "d" * 16, "version": 900},
    "an older announcement of the same version": {"issued": GENERATION},
    "an older epoch of the same name": {"generation": 0},
}


@pytest.mark.parametrize("what", OLDER)
@pytest.mark.parametrize("then", ["at once", "after a restart", "after forget", "after a cut"])
def test_what_is_older_is_refused(what: str, then: str) -> None:
    driver = fresh()
    hold(driver, signed(5))
    if then == "after a restart":
        driver = driver.restarted()
        driver.start()
    elif then == "after forget":
        command = DeviceCommand(federation="fed", request_id="2" * 16, action="forget", target="all", issued=2**50)
        driver.receive(TOPICS.command_all, FIRST.sign("command", encode(command)))
        assert driver.disk.model is None
    elif then == "after a cut":
        driver.cut()
        driver.connect()

    fields = {"version": 5} | OLDER[what]
    refused(driver, "manifest replayed", announce(driver, signed(**fields)))


def test_a_new_epoch_is_followed_and_the_old_one_cannot_come_back() -> None:
    driver = fresh()
    hold(driver, signed(5))
    hold(driver, signed(1, generation=GENERATION + 9, epoch="d" * 16))

    refused(driver, "manifest replayed", announce(driver, signed(6)))
    assert held(driver) == 1


def test_the_last_good_model_is_trained_on_and_reported() -> None:
    driver = fresh()
    hold(driver, signed())
    announce(driver, signed(2), STRANGER)
    driver.wait(10.0)

    assert driver.last(do.Train).manifest.version == 1
    driver.finish_training()
    assert driver.updates() == [1]


def test_the_next_good_manifest_clears_the_reason() -> None:
    driver = fresh()
    announce(driver, signed(), STRANGER)
    driver.wait(1.0)
    assert driver.states()[-1].reason
    hold(driver, signed(2))
    assert driver.states()[-1].reason == ""


def test_a_flood_of_forgeries_costs_no_transactions_and_one_line_of_log() -> None:
    driver = fresh()
    hold(driver, signed())
    seen = len(driver.commands)
    for version in range(2, 300):
        announce(driver, signed(version, STRANGER), STRANGER)
    assert not driver.all(do.Persist, driver.commands[seen:])
    assert len(driver.all(do.Log, driver.commands[seen:])) == 1


def test_security_codes_have_their_place_in_a_full_table() -> None:
    driver = fresh()
    for number in range(40):
        driver.core._parts.ledger.refuse(f"reason {number}")
    announce(driver, signed(), STRANGER)
    driver.wait(1.0)
    assert driver.last(do.PublishMetrics).metrics.refusals["manifest unknown-key"] == 1


# -- keys change -----------------------------------------------------------------------------------------------------


def test_keys_rotate_twice_and_a_device_that_missed_one_follows() -> None:
    there, away = fresh(), fresh()
    for driver in (there, away):
        hold(driver, signed(1))
    hold(there, signed(2, SECOND), SECOND)
    third = Signer([K3, K2], PUBLIC[K4])
    away = away.restarted()
    away.start()

    for driver in (there, away):
        hold(driver, signed(3, third), third)
    assert away.disk.durable.trust
    assert away.disk.durable.trust.keys == [PUBLIC[K3], PUBLIC[K2], PUBLIC[K4]]


def test_a_device_that_missed_two_changes_refuses_and_keeps_its_model() -> None:
    driver = fresh()
    hold(driver, signed())
    last = Signer([K4])
    refused(driver, "manifest unknown-key", announce(driver, signed(9, last), last))
    assert held(driver) == 1


def test_the_overlap_is_believed_by_who_knows_only_the_old_key() -> None:
    driver = fresh()
    hold(driver, signed(1, SECOND), SECOND)
    alone = Signer([K2])
    hold(driver, signed(2, alone), alone)
    refused(driver, "manifest unknown-key", announce(driver, signed(3), FIRST))


def test_a_key_that_was_taken_out_cannot_come_back_by_an_older_announcement() -> None:
    driver = fresh()
    hold(driver, signed(1, SECOND), SECOND)
    alone = Signer([K2])
    announce(driver, signed(1, alone, issued=GENERATION + 5), alone)
    refused(driver, "manifest replayed", announce(driver, signed(1, SECOND), SECOND))
    refused(driver, "manifest unknown-key", announce(driver, signed(2, FIRST), FIRST))


def test_adopted_keys_survive_a_kill_right_after_they_were_stored() -> None:
    driver = fresh()
    announce(driver, signed())  # ... and nothing else is done with it
    driver = driver.restarted()
    driver.start()
    alone = Signer([K2])
    hold(driver, signed(2, alone), alone)


def test_a_manifest_that_names_no_keys_changes_none() -> None:
    driver = fresh()
    hold(driver, signed(1, signing_keys=[]))
    assert driver.disk.durable.trust
    assert driver.disk.durable.trust.keys == [PUBLIC[K1]]


def test_other_keys_in_the_file_are_believed_over_those_from_the_air() -> None:
    before = Trusted(pins=[PUBLIC[K1]], keys=[PUBLIC[K2], PUBLIC[K3]], mark=(5, 6, 7), seen="x", obeyed=8)

    assert trusted_at_start(before, (PUBLIC[K1],)) == before
    assert trusted_at_start(before, ()) is None
    shared = trusted_at_start(before, (PUBLIC[K3],))
    assert shared == replace(before, pins=[PUBLIC[K3]], keys=[PUBLIC[K3]], seen="")
    anew = trusted_at_start(before, (PUBLIC[K4],))
    assert anew == Trusted(pins=[PUBLIC[K4]], keys=[PUBLIC[K4]])


def test_who_had_a_key_that_the_file_no_longer_names_holds_no_device_for_ever() -> None:
    """A thief of K1 announces keys of his own, and the highest numbers; K1 is rotated out, and all enroll again."""
    driver = fresh((PUBLIC[K1], PUBLIC[K2]))
    hold(driver, signed(5))
    highest = 2**53 - 1
    announce(driver, signed(highest, generation=highest, issued=highest, signing_keys=[PUBLIC[K4]]))
    trust = driver.disk.durable.trust
    assert trust
    assert (trust.keys, trust.mark[0]) == ([PUBLIC[K4]], highest)

    enrolled = driver.restarted(pins=(PUBLIC[K2], PUBLIC[K3]))
    enrolled.start()
    rotated = Signer([K2], PUBLIC[K3])
    hold(enrolled, signed(6, rotated), rotated)

    after = enrolled.disk.durable.trust
    assert after
    assert after.mark[1] == 6
    assert after.signers == [PUBLIC[K2]]


def test_the_mark_stays_as_long_as_the_file_names_a_key_that_has_signed_it() -> None:
    before = Trusted(pins=[PUBLIC[K1]], keys=[PUBLIC[K1]], mark=(5, 6, 7), seen="x", signers=[PUBLIC[K1]])
    kept = trusted_at_start(before, (PUBLIC[K2], PUBLIC[K1]))
    assert kept
    assert kept.mark == (5, 6, 7)
    begun = trusted_at_start(replace(before, keys=[PUBLIC[K1], PUBLIC[K2]]), (PUBLIC[K2],))
    assert begun == Trusted(pins=[PUBLIC[K2]], keys=[PUBLIC[K2]])


def test_a_model_from_before_keys_were_pinned_is_dropped() -> None:
    open_air = Driver()
    open_air.start()
    open_air.hold(3)
    driver = open_air.restarted(pins=(PUBLIC[K1],))
    commands = driver.start()

    assert [type(command) for command in commands[:2]] == [do.DropModel, do.Persist]
    driver.wait(20.0)
    assert not driver.all(do.Train)


def test_pins_that_are_taken_away_are_forgotten_at_once() -> None:
    driver = fresh()
    hold(driver, signed(5))
    plain = driver.restarted(pins=())
    plain.start()
    assert plain.disk.durable.trust is None
    plain.hold(6)
    again = plain.restarted(pins=(PUBLIC[K1],))
    again.start()
    assert again.disk.model is None


# -- devices without pins --------------------------------------------------------------------------------------------


def test_a_device_without_pins_refuses_envelopes_and_says_to_enrol_it() -> None:
    driver = Driver()
    driver.start()
    refused(driver, "manifest signed", announce(driver, signed()))
    assert "enrol it" in driver.states()[-1].reason
