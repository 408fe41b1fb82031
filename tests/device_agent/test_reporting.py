from __future__ import annotations

import pytest

from device_agent import commands as do
from device_agent import events as ev
from device_agent.settings import OutboxSettings
from protocol.link import Published
from protocol.messages import ModelUpdate, UpdateChunk
from protocol.packing import decode_update
from tests.device_agent.harness import DEVICE, EPOCH, INCARNATION, UP, Driver, manifest, settings

SMALL = OutboxSettings(receipt_timeout_s=20.0, resend_max_s=600.0, chunk_bytes=256)
DELTA = bytes(range(256)) * 6


def trained(driver: Driver, *versions: int, delta: bytes = b"\x01" * 64) -> None:
    for version in versions:
        driver.hold(version)
        driver.finish_training(delta=delta)


def ready(*versions: int, chunked: bool = False, connect: bool = True) -> Driver:
    driver = Driver(settings(outbox=SMALL) if chunked else None)
    driver.start()
    trained(driver, *versions, delta=DELTA if chunked else b"\x01" * 64)
    if not connect:
        driver.cut()
    return driver


def test_an_update_is_on_disk_before_it_is_sent() -> None:
    driver = Driver()
    driver.start()
    driver.hold(3)
    commands = driver.finish_training(before={"accuracy": 0.5, "loss": float("nan")}, after={"accuracy": 0.75})
    kinds = [type(command) for command in commands if isinstance(command, do.Persist | do.LoadUpdate | do.Publish)]
    assert kinds[:2] == [do.Persist, do.LoadUpdate]
    persist = driver.all(do.Persist, commands)[0]
    assert persist.put is not None
    assert (persist.put.entry.sequence, persist.state.next_sequence) == (1, 2)
    assert persist.state.trained is not None
    assert (persist.state.trained.version, persist.state.trained.count) == (3, 1)
    [message] = driver.sent(commands)
    assert message == ModelUpdate(
        federation="fed",
        epoch=EPOCH,
        device_id=DEVICE,
        incarnation=INCARNATION,
        sequence=1,
        base_version=3,
        num_examples=10,
        num_steps=2,
        codec="f32",
        layout="a" * 64,
        delta=b"\x01" * 64,
        metrics={"holdout_accuracy_before": 0.5, "holdout_accuracy": 0.75},
    )


def test_one_update_at_a_time_in_order_and_the_next_only_with_the_receipt() -> None:
    driver = ready(1, 2, 3)
    assert driver.updates() == [1]
    assert driver.updates(driver.answer(1)) == [2]
    assert driver.updates(driver.answer(2, "stale", reason="too old")) == [3]
    driver.answer(3, "duplicate")
    assert driver.disk.rows == {}
    counters = driver.disk.durable.counters
    assert (counters.updates_accepted, counters.updates_stale, counters.updates_duplicate) == (1, 1, 1)
    assert counters.refusals == {"too old": 1}


def test_the_same_bytes_are_sent_again_when_no_receipt_comes() -> None:
    driver = ready(1)
    first = driver.last(do.Publish)
    sent = [command for command in driver.all(do.Publish) if command.topic == UP]
    assert driver.updates(driver.wait(19.9)) == []
    driver.wait(600.0)
    again = [command for command in driver.all(do.Publish) if command.topic == UP]
    assert len(again) > len(sent)
    assert {command.payload for command in again} == {sent[0].payload}
    assert len({command.token for command in again}) == len(again)
    assert first.qos == 1


def test_resends_become_rare_but_never_end() -> None:
    driver = ready(1)
    early = len(driver.updates(driver.wait(1000.0)))
    driver.wait(20_000.0)
    late = len(driver.updates(driver.wait(10_000.0)))
    assert early > 3
    assert 10_000 / 620 < late < 10_000 / 30


@pytest.mark.parametrize(
    "wrong",
    [{"incarnation": "2" * 16}, {"epoch": "f" * 16}, {"sequence": 7}, {"device_id": "other"}, {"federation": "other"}],
)
def test_receipts_that_are_not_for_this_update_are_ignored(wrong: dict[str, str]) -> None:
    driver = ready(1)
    driver.answer(**({"sequence": 1} | wrong))  # type: ignore[arg-type]
    assert list(driver.disk.rows) == [1]


def test_a_receipt_that_comes_twice_counts_once() -> None:
    driver = ready(1)
    driver.answer(1)
    driver.answer(1)
    assert driver.disk.durable.counters.updates_accepted == 1


def test_retry_keeps_the_update_and_waits_as_long_as_asked() -> None:
    driver = ready(1)
    assert driver.updates(driver.answer(1, "retry", next_after_s=50.0)) == []
    driver.cut()
    assert driver.updates(driver.connect()) == []  # a new connection does not end a rest that was asked for
    assert driver.updates(driver.wait(45.0)) == []
    assert driver.updates(driver.wait(10.0)) == [1]
    assert list(driver.disk.rows) == [1]


def test_retries_without_a_wait_do_not_become_a_storm() -> None:
    driver = ready(1)
    for _ in range(50):
        driver.answer(1, "retry")
    assert len(driver.updates()) < 6
    driver.wait(700.0)
    assert len(driver.updates()) >= 5


def test_after_a_cut_the_update_is_sent_again() -> None:
    driver = ready(1)
    driver.cut()
    assert driver.updates(driver.wait(100.0)) == []
    assert driver.updates(driver.connect()) == [1]


def test_a_publish_that_the_broker_refused_is_not_lost() -> None:
    driver = Driver()
    driver.acknowledge = False
    driver.start()
    trained(driver, 1)
    driver.give(Published(token=driver.all(do.Publish)[-1].token or tokens(driver)[-1], error="not authorized"))
    assert driver.updates(driver.wait(60.0)) == [1]


def tokens(driver: Driver) -> list[str]:
    return [command.token for command in driver.all(do.Publish) if command.token]


def test_acknowledgements_of_an_earlier_attempt_mean_nothing() -> None:
    driver = Driver()
    driver.acknowledge = False
    driver.start()
    trained(driver, 1)
    [old] = tokens(driver)
    driver.cut()
    driver.connect()
    driver.give(Published(token=old))
    assert driver.core.deadline(driver.now) is not None
    assert driver.updates(driver.wait(30.0)) == []  # still waiting for the broker, not for the receipt


def test_what_is_left_is_sent_after_a_restart_with_the_same_bytes() -> None:
    driver = ready(1, 2)
    payload = driver.disk.rows[1].payload
    again = driver.restarted()
    again.start()
    assert again.updates() == [1]
    assert again.last(do.Publish).payload == payload or payload in [c.payload for c in again.all(do.Publish)]
    again.answer(1)
    assert again.updates() == [1, 2]
    again.answer(2)
    again.hold(5)
    again.finish_training()
    assert again.updates() == [1, 2, 3]


def test_sequences_go_on_when_the_outbox_is_empty_after_a_restart() -> None:
    driver = ready(1)
    driver.answer(1)
    again = driver.restarted()
    again.start()
    again.hold(2)
    again.finish_training()
    assert again.updates() == [2]


def test_an_update_larger_than_a_message_goes_in_chunks_at_most_four_unacknowledged() -> None:
    driver = Driver(settings(outbox=SMALL))
    driver.acknowledge = False
    driver.start()
    trained(driver, 1, delta=DELTA)
    assert driver.chunk_indices() == [0, 1, 2, 3]
    seen = 0
    while len(tokens(driver)) > seen:
        driver.give(Published(token=tokens(driver)[seen]))
        seen += 1
        assert len(tokens(driver)) - seen <= 4
    chunks = [message for message in driver.sent() if isinstance(message, UpdateChunk)]
    assert [chunk.index for chunk in chunks] == list(range(chunks[0].blob.chunk_count))
    assert chunks[0].blob.encoding == "update"
    body = b"".join(chunk.data for chunk in chunks)
    assert body == driver.disk.rows[1].payload
    update = decode_update(body)
    assert isinstance(update, ModelUpdate)
    assert update.delta == DELTA
    driver.answer(1)
    assert driver.disk.rows == {}


def test_only_the_missing_chunks_are_sent_again() -> None:
    driver = ready(1, chunked=True)
    assert driver.chunk_indices(driver.answer(1, "retry", missing=[2, 5, 9999])) == [2, 5]


def test_after_a_partial_send_the_aggregator_is_asked_first() -> None:
    driver = ready(1, chunked=True)
    driver.cut()
    commands = driver.connect()
    assert (driver.probes(commands), driver.chunk_indices(commands)) == ([1], [])
    assert driver.chunk_indices(driver.answer(1, "retry", missing=[1])) == [1]
    assert driver.probes(driver.wait(60.0)) == [1]  # no receipt: asked again
    assert len(driver.chunk_indices(driver.answer(1, "retry"))) > 4  # it knows nothing of it: all of them
    driver.answer(1)
    assert driver.disk.rows == {}


def test_a_chunked_update_of_an_earlier_run_is_asked_for_first() -> None:
    driver = ready(1, chunked=True)
    again = driver.restarted()
    again.start()
    assert (again.probes(), again.chunk_indices()) == ([1], [])


def test_a_probe_that_finds_the_update_settled_ends_it() -> None:
    driver = ready(1, chunked=True)
    driver.cut()
    driver.connect()
    driver.answer(1, "duplicate")
    assert driver.disk.rows == {}


def test_when_full_the_stalest_update_goes_even_if_it_is_in_flight() -> None:
    driver = Driver(settings(outbox=OutboxSettings(max_updates=2)))
    driver.start()
    trained(driver, 1, 2, 3)
    assert list(driver.disk.rows) == [2, 3]
    assert driver.updates() == [1, 2]
    driver.answer(1)  # its late receipt
    counters = driver.disk.durable.counters
    assert (counters.updates_created, counters.updates_dropped, counters.updates_accepted) == (3, 1, 0)
    assert counters.refusals == {"outbox full": 1}
    driver.answer(2)
    driver.answer(3)
    assert driver.disk.rows == {}


def test_the_outbox_is_bounded_in_bytes() -> None:
    driver = Driver(settings(outbox=OutboxSettings(max_bytes=4096)))
    driver.start()
    trained(driver, 1, 2, 3, delta=b"\x01" * 1500)
    assert list(driver.disk.rows) == [2, 3]
    trained(driver, 4, delta=b"\x01" * 5000)
    assert list(driver.disk.rows) == [2, 3]
    assert driver.disk.durable.counters.updates_dropped == 2
    driver.wait(2.0)
    assert "larger than the whole outbox" in driver.states()[-1].reason
    trained(driver, 5)
    assert driver.all(do.Train)[-1].manifest.version == 5


def test_a_full_disk_discards_the_result_and_training_is_repeated_later() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.disk.write_error = "database or disk is full"
    driver.finish_training()
    driver.wait(0.5)
    assert "disk is full" in driver.states()[-1].reason
    assert driver.updates() == []
    assert len(driver.all(do.Train)) == 1
    driver.wait(10.0)
    assert len(driver.all(do.Train)) == 2
    driver.disk.write_error = ""
    driver.finish_training()
    assert driver.updates() == [1]
    driver.wait(1.0)
    assert driver.states()[-1].reason == ""


def test_rows_that_could_not_be_deleted_are_deleted_later() -> None:
    driver = ready(1)
    driver.disk.write_error = "database or disk is full"
    driver.answer(1)
    assert list(driver.disk.rows) == [1]
    driver.disk.write_error = ""
    driver.wait(60.0)
    assert driver.disk.rows == {}
    assert driver.disk.durable.counters.updates_accepted == 1


def test_a_row_that_cannot_be_read_is_given_up_and_counted() -> None:
    driver = ready(1, 2)
    driver.cut()
    del driver.disk.rows[1]
    driver.connect()
    assert driver.updates()[-1] == 2
    assert driver.disk.durable.counters.refusals == {"unreadable in the outbox": 1}


def test_a_new_epoch_voids_model_and_updates_of_the_old_one() -> None:
    driver = ready(1, 2)
    other = manifest(0, epoch="f" * 16)
    driver.announce(other)
    assert driver.disk.rows == {}
    assert driver.disk.model is None
    assert driver.disk.durable.counters.refusals == {"of another epoch": 2}
    driver.hold(0, epoch="f" * 16)
    assert driver.last(do.Train).manifest == other


def test_a_training_for_an_old_epoch_is_stopped_and_its_result_not_wanted() -> None:
    driver = Driver()
    driver.start()
    driver.hold(7)
    task = driver.last(do.Train).task
    driver.hold(1, epoch="f" * 16)
    assert driver.all(do.StopTask)
    assert len(driver.all(do.Train)) == 1
    driver.give(ev.TrainingDone(task=task, num_examples=1, num_steps=1, delta=b"x", duration_s=1.0))
    assert driver.disk.rows == {}
    assert driver.last(do.Train).manifest.epoch == "f" * 16


def test_a_receipt_of_an_unknown_history_makes_the_device_read_the_manifest_again() -> None:
    driver = ready(1)
    assert driver.subscribed(driver.answer(1, "rejected", epoch="f" * 16))
    assert driver.subscribed(driver.answer(1, "rejected", epoch="f" * 16)) == []
    driver.wait(6.0)
    assert driver.subscribed(driver.answer(1, "accepted", version=9))
    assert driver.disk.rows == {}


def test_reasons_from_outside_cannot_grow_the_books() -> None:
    driver = Driver()
    driver.start()
    for number in range(1, 41):
        trained(driver, number)
        driver.answer(number, "rejected", reason=f"reason {number}")
    refusals = driver.disk.durable.counters.refusals
    assert len(refusals) <= 17
    assert sum(refusals.values()) == 40
