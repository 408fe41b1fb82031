"""A training that is interrupted on a device goes on in another process, with the bits of one that was not."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from device_agent.adapters import sitting
from device_agent.adapters.checkpoint_file import MAGIC, CheckpointFile
from device_agent.adapters.keeper import Keeper
from device_agent.adapters.model_cache import ModelCache
from device_agent.adapters.trainer import Trainer
from device_agent.events import Event, TaskStopped, TrainingDone
from models.network import Workspace
from protocol.messages import Participation
from tests.device_agent.interruptions import PLAN, Device, Word, same, stopped
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

PLANS: dict[str, dict[str, Any]] = {
    "sgd": PLAN | {"optimizer": "sgd"},
    "momentum": PLAN | {"optimizer": "sgd", "momentum": 0.9, "clip_norm": 0.5},
    "adam": PLAN,
    "proximal": PLAN | {"proximal": 0.3, "max_steps": 11},
}


@pytest.mark.parametrize("codec", ["f32", "int8"])
@pytest.mark.parametrize("plan", PLANS)
def test_an_interruption_at_any_step_changes_no_bit_of_the_update(tmp_path: Path, plan: str, codec: str) -> None:
    wanted = Device(tmp_path / "whole", plan=PLANS[plan], codec=codec).train()
    device = Device(tmp_path / "interrupted", plan=PLANS[plan], codec=codec)

    for step in range(wanted.num_steps):
        answer = stopped(device.train(stop_after=step))
        assert answer.kept_share == (pytest.approx(step / wanted.num_steps) if step else None)
        assert same(device.train(), wanted)
        device.process()[1].drop()

    assert device.resumed() == list(range(1, wanted.num_steps))
    assert device.notes() == []


def test_a_training_of_a_step_a_process_comes_to_the_same_end(tmp_path: Path) -> None:
    wanted = Device(tmp_path / "whole").train()
    device = Device(tmp_path / "interrupted")
    answers = [device.train(stop_after=1) for _ in range(wanted.num_steps)]

    assert all(stopped(answer).kept_share for answer in answers[:-1])
    assert same(answers[-1], wanted)


def test_a_training_goes_on_in_the_same_process(tmp_path: Path) -> None:
    wanted = Device(tmp_path / "whole").train()
    device = Device(tmp_path / "interrupted")
    bench, _ = device.process()
    stopped(device.train(stop_after=3, on=bench))
    stopped(device.train(stop_after=2, on=bench))
    assert same(device.train(on=bench), wanted)
    assert device.resumed() == [3, 5]


def test_what_nobody_wants_to_go_on_with_is_not_kept(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert stopped(device.train(stop_after=3, keeps=False)).kept_share is None
    assert not device.kept.exists()


def test_nothing_is_written_when_nothing_was_done_since(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.train(stop_after=3)
    before = device.kept.stat()
    assert stopped(device.train(stop_after=0)).kept_share
    assert device.kept.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda device: device.announce(version=5), "it is of version 4, and version 5 is the one to train"),
        (lambda device: device.announce(epoch="f" * 16), "version 4"),
        (lambda device: device.announce(training=PLAN | {"epochs": 4}), "plan"),
        (lambda device: device.announce(model=device.manifest.model | {"activation": "tanh"}), "model"),
        (lambda device: device.save_samples(101), "the samples changed"),
        (lambda device: setattr(device, "contribution", 1), "that training is done"),
    ],
)
def test_another_training_begins_anew_and_says_why(tmp_path: Path, change: Any, reason: str) -> None:
    device, other = Device(tmp_path / "a"), Device(tmp_path / "b")
    device.train(stop_after=3)
    change(device)
    change(other)

    assert same(device.train(), other.train())

    assert device.resumed() == []
    (note,) = device.notes()
    assert note.startswith("a training begins anew: ")
    assert reason in note
    assert not device.kept.exists(), "it is of no use to anybody"


def test_the_same_samples_in_another_file_are_the_same(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.train(stop_after=3)
    content = (tmp_path / "samples.npz").read_bytes()
    (tmp_path / "samples.npz").unlink()
    (tmp_path / "samples.npz").write_bytes(content)
    device.train()
    assert device.resumed() == [3]


def damaged(data: bytes) -> dict[str, bytes]:
    found = {f"cut at {end}": data[:end] for end in (0, 7, 40, 43, 44, 300, len(data) - 1)}
    for place in (3, 7, 20, 41, 60, 400, len(data) - 1):
        found[f"bit {place}"] = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    found["longer"] = data + b"?"
    found["foreign"] = b"something else entirely" * 100
    found["newer"] = MAGIC[:-1] + b"2" + data[8:]
    found["long head"] = data[:40] + b"\xff" * 4 + data[44:]
    return found


def test_a_damaged_file_is_put_aside_and_the_training_begins_anew(tmp_path: Path) -> None:
    wanted = Device(tmp_path / "whole").train()
    device = Device(tmp_path / "damaged")
    device.train(stop_after=4)
    good = device.kept.read_bytes()

    for count, (what, data) in enumerate(damaged(good).items(), start=1):
        device.kept.write_bytes(data)
        assert same(device.train(), wanted), what
        assert len(device.notes()) == count, what
        assert "cannot be used" in device.notes()[-1]
        assert not device.kept.exists()
        assert device.aside.read_bytes() == data

    assert "another version of fedmq" in next(note for note in device.notes() if "another version" in note)
    assert len(list((tmp_path / "damaged").glob("training*"))) == 1, "only the last one is kept aside"
    device.kept.write_bytes(good)
    assert same(device.train(), wanted)
    assert device.resumed() == [4]


def test_the_rows_that_a_training_began_with_are_known_before_they_are_read(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.train(stop_after=4)
    bench, keeper = device.process()
    assert keeper.upto(device.manifest.epoch, 4) is None, "its samples are a file's"
    found = CheckpointFile(tmp_path).read()
    assert found is not None
    kept, vectors = found
    CheckpointFile(tmp_path).write(
        replace(kept, origin=replace(kept.origin, upto=77)), [memoryview(vector) for vector in vectors.values()]
    )
    assert keeper.upto(device.manifest.epoch, 4) == 77
    assert keeper.upto(device.manifest.epoch, 5) is None
    assert keeper.upto("f" * 16, 4) is None
    assert isinstance(device.train(on=bench), TrainingDone)
    assert device.notes() == ["a training begins anew: the samples changed"]


def test_half_a_file_of_a_kill_is_removed(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.train(stop_after=4)
    device.kept.with_suffix(".part").write_bytes(b"half")
    device.train()
    assert device.resumed() == [4]
    assert not device.kept.with_suffix(".part").exists()


def test_a_full_disk_throws_the_training_away_and_is_said(tmp_path: Path) -> None:
    wanted = Device(tmp_path / "whole").train()
    device = Device(tmp_path / "full")
    bench, _ = device.process()
    device.kept.with_suffix(".part").symlink_to("/dev/full")

    assert stopped(device.train(stop_after=4, on=bench)).kept_share is None

    assert device.notes() == ["an interrupted training could not be kept: No space left on device"]
    assert same(device.train(on=bench), wanted)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    wanted = Device(tmp_path / "whole").train()
    device = Device(tmp_path / "full")
    bench, _ = device.process()
    device.train(stop_after=4, on=bench)
    device.kept.with_suffix(".part").symlink_to("/dev/full")
    device.train(stop_after=4, on=bench)
    assert same(device.train(on=bench), wanted)
    assert device.resumed() == [4, 4]


def test_no_more_is_written_than_a_day_allows(tmp_path: Path) -> None:
    device = Device(tmp_path, checkpoint_daily_bytes=100)
    assert stopped(device.train(stop_after=4)).kept_share is None
    assert "checkpoint_daily_bytes" in device.notes()[0]
    assert not device.kept.exists()


def test_checkpoints_come_at_intervals_too(tmp_path: Path) -> None:
    """What a kill would find after every step."""
    wanted = Device(tmp_path / "whole").train()
    device = Device(tmp_path / "killed", checkpoint_s=1e-9)
    bench, _ = device.process()
    seen: list[int] = []

    class Look(Word):
        def wait_and_stop(self) -> bool:
            found = CheckpointFile(device.folder).look()
            seen.append(0 if found is None else found.num_steps)
            if len(seen) == 9:
                raise KeyboardInterrupt  # nothing more of this process
            return False

    with pytest.raises(KeyboardInterrupt):
        bench.train(device.task(), ModelCache(device.folder).open(), Look())
    assert seen == [0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert same(device.train(), wanted)
    assert device.resumed() == [7]


def test_a_passed_deadline_sends_the_part_that_is_done(tmp_path: Path) -> None:
    whole = Device(tmp_path / "whole", plan=PLAN | {"max_steps": 4}).train()
    device = Device(tmp_path / "four", plan=PLAN | {"deadline_s": 1e4, "on_deadline": "send"})
    device.train(stop_after=4)
    kept = CheckpointFile(device.folder)
    found = kept.read()
    assert found is not None
    head, vectors = found
    # As if these four steps had taken longer than the deadline.
    kept.write(replace(head, elapsed_s=1e5), [memoryview(vector) for vector in vectors.values()])

    part = device.train()

    assert part.delta == whole.delta
    assert part.num_steps == 4
    assert part.share_done == pytest.approx(4 / head.planned)
    assert part.num_examples == whole.num_examples * 4 // head.planned
    assert part.duration_s > 1e5


def test_a_deadline_that_is_passed_from_the_beginning_sends_one_step(tmp_path: Path) -> None:
    one = Device(tmp_path / "one", plan=PLAN | {"max_steps": 1}).train()
    device = Device(tmp_path / "part", plan=PLAN | {"deadline_s": 1e-9, "on_deadline": "send"})
    part = device.train()
    assert (part.delta, part.num_steps) == (one.delta, 1)
    assert part.num_examples == one.num_examples // 15


def test_a_passed_deadline_sets_aside_what_goes_on_later(tmp_path: Path) -> None:
    wanted = Device(tmp_path / "whole", plan=PLAN | {"deadline_s": 1e6}).train()
    device = Device(tmp_path / "part", plan=PLAN | {"deadline_s": 1e-9})
    answers = [device.train() for _ in range(wanted.num_steps)]
    assert {stopped(answer).rest_s for answer in answers[:-1]} == {1e-9}
    assert all(answer.kept_share for answer in answers[:-1])
    assert answers[-1].delta == wanted.delta


def test_what_cannot_be_kept_is_carried_through_its_deadline(tmp_path: Path) -> None:
    device = Device(tmp_path, plan=PLAN | {"deadline_s": 1e-9}, checkpoint_daily_bytes=1)
    assert isinstance(device.train(), TrainingDone)


def test_a_step_that_does_not_end_is_left_behind_and_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Device(tmp_path / "whole").train()
    device = Device(tmp_path / "slow")
    monkeypatch.setattr(sitting, "SLOW_STEP_S", 0.0)
    monkeypatch.setattr(sitting, "COPY_EVERY_S", 0.0)
    reached, go_on = threading.Event(), threading.Event()
    steps = iter(range(1000))
    plain = Workspace.loss_and_gradient

    def slow(self: Workspace, *batch: Any) -> float:
        if next(steps) == 5:
            reached.set()
            assert go_on.wait(PATIENCE_S)
        return plain(self, *batch)

    answers: queue.SimpleQueue[Event] = queue.SimpleQueue()
    trainer = Trainer(device.settings, answers.put)
    monkeypatch.setattr(Workspace, "loss_and_gradient", slow)
    trainer.start(device.task(), ModelCache(device.folder).open())
    assert reached.wait(PATIENCE_S)
    trainer.stop(keep=True)
    begun = time.monotonic()
    trainer.close(0.01)
    assert trainer.alive, "the step goes on"
    assert time.monotonic() - begun < 30
    head = CheckpointFile(device.folder).look()
    go_on.set()
    trainer.close(60.0)
    assert head is not None
    assert head.num_steps == 5
    assert same(device.train(), wanted)


def test_a_stop_in_the_middle_of_a_step_keeps_the_steps_before(tmp_path: Path) -> None:
    wanted = Device(tmp_path / "whole").train()
    device = Device(tmp_path / "left")
    bench, _ = device.process()

    class Hasty(Word):
        asked = 0

        def stopped(self) -> bool:
            self.asked += 1
            return self.asked > 50

    assert stopped(bench.train(device.task(), ModelCache(device.folder).open(), Hasty())).kept_share
    assert same(device.train(), wanted)
    assert device.resumed()[0] > 1


def test_a_stop_before_the_samples_are_read_measures_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)

    class Stopped(Word):
        def stopped(self) -> bool:
            return True

    bench, _ = device.process()
    assert stopped(bench.train(device.task(), ModelCache(device.folder).open(), Stopped())).kept_share is None


def test_the_trainer_says_how_much_is_done(tmp_path: Path) -> None:
    device = Device(tmp_path, step_interval_s=30.0)
    answers: queue.SimpleQueue[Event] = queue.SimpleQueue()
    trainer = Trainer(device.settings, answers.put)

    def share() -> float | None:
        return trainer.share

    assert share() is None
    trainer.start(device.task(), ModelCache(device.folder).open())
    deadline = time.monotonic() + 60
    while not (done := share()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert 0.0 < done <= 1.0
    trainer.stop(keep=True)
    answer = answers.get(timeout=PATIENCE_S)
    assert isinstance(answer, TaskStopped)
    assert answer.kept_share
    assert share() is None
    trainer.drop_checkpoint()
    assert not device.kept.exists()
    trainer.close(60.0)


def test_a_keeper_that_was_offered_nothing_rescues_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    Keeper(device.settings).rescue()
    assert not device.kept.exists()


def test_an_update_that_is_cut_short_can_be_coded_too(tmp_path: Path) -> None:
    device = Device(tmp_path, codec="int8")
    device.announce(participation=Participation(codec="f16"))
    assert isinstance(device.train(), TrainingDone)
