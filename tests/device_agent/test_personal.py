"""What is this device's alone: it is trained, kept, laid over every version, and in no update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from device_agent import commands as do
from device_agent.adapters.belongings import Belongings
from device_agent.adapters.drift_file import DriftFile
from device_agent.adapters.model_cache import ModelCache
from device_agent.adapters.personalizing import personal_parameters
from device_agent.adapters.workbench import Workbench
from device_agent.commands import Evaluate, Train
from device_agent.composing import update_of
from device_agent.events import EvaluationDone, TrainingDone
from device_agent.sensing.adapters.serving import Exchange
from device_agent.sensing.recent import Recent
from device_agent.sensing.rows import Row
from models import Personal, build
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from tests.device_agent.harness import Driver
from tests.device_agent.interruptions import SPEC, Device, Word, same, stopped
from tests.device_agent.secure import announce, fresh, hold, signed
from tests.device_agent.test_orders import order

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEAD = {"private": ["dense1.*"]}


class Person(Device):
    """A device of a federation that leaves the head to it."""

    def __init__(self, folder: Path, personal: dict[str, Any] | None = None, **more: Any) -> None:
        super().__init__(folder, **more)
        self.sequence = 1
        self.model = build(SPEC)
        self.split = Personal.from_data(personal or HEAD).split(self.model)
        self.announce(personal=personal or HEAD)

    def task(self) -> Train:
        return replace_task(super().task(), self.sequence)

    @property
    def version(self) -> NDArray[np.float32]:
        """The parameters as they came."""
        return tensors.decode("f32", self._data, self.model.layout.size)

    @property
    def own(self) -> NDArray[np.float32]:
        """The private ones that hold."""
        found = personal_parameters(self.folder, self.manifest, self.model, self.version)
        assert np.array_equal(self.split.shared_of(found), self.split.shared_of(self.version))
        return self.split.private_of(found)

    @property
    def file(self) -> Path:
        return self.folder / "personal"

    def publish(self, version: int) -> None:
        """Another version, in whose head nothing has changed: the aggregator never learns of one."""
        rng = np.random.default_rng(version)
        shared = rng.normal(size=self.split.shared.size).astype(np.float32)
        vector = self.split.overlaid(self.split.spread(shared), self.split.private_of(self.version))
        self._data = tensors.encode("f32", vector, rng)
        self.announce(version=version, parameters=digest_of(self._data), blob=blob_of(self._data, "f32"))

    def done(self, **how: Any) -> TrainingDone:
        answer = self.train(**how)
        assert isinstance(answer, TrainingDone)
        return answer


def replace_task(task: Train, sequence: int) -> Train:
    return Train(
        task=task.task,
        manifest=task.manifest,
        contribution=task.contribution,
        incarnation=task.incarnation,
        sequence=sequence,
    )


def test_an_update_holds_what_is_shared_and_says_so(tmp_path: Path) -> None:
    whole, person = Device(tmp_path / "whole").train(), Person(tmp_path / "person")
    done = person.done()

    delta = tensors.decode("f32", done.delta, person.split.shared.size)
    everything = tensors.decode("f32", whole.delta, person.model.layout.size)
    assert np.array_equal(delta, person.split.shared_of(everything)), "trained as if nothing were private"
    update = update_of(done, person.manifest, "a", ("1" * 16, 1))
    assert update.layout == person.split.shared.digest != person.manifest.layout
    trained = person.split.private_of(person.version) + person.split.private_of(everything)
    assert np.allclose(person.own, trained, atol=1e-6)


def test_a_new_device_begins_with_what_the_version_brings(tmp_path: Path) -> None:
    person = Person(tmp_path)
    assert np.array_equal(person.own, person.split.private_of(person.version))
    assert same(person.done(), Person(tmp_path / "another").done())


def test_private_parameters_outlive_versions_and_processes(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.done()
    first = person.own
    assert not np.array_equal(first, person.split.private_of(person.version))

    person.publish(5)
    person.sequence = 2
    assert np.array_equal(person.own, first)
    done = person.done()
    assert not np.array_equal(person.own, first), "they were trained on"
    start = person.split.overlaid(person.version, first)
    assert done.before == person.model.evaluate(start, samples(person)).summary(), "from where they were"


def samples(person: Person) -> Any:
    bench, _ = person.process()
    with ModelCache(person.folder).open() as file:
        bench.evaluate(Evaluate(task=1, manifest=person.manifest), file, Word())
    return bench._supply.held.holdout


def test_a_kill_between_the_file_and_the_outbox_changes_no_bit(tmp_path: Path) -> None:
    """The file is written first; the update never got its place, so the same name is trained again."""
    person = Person(tmp_path)
    person.done()
    person.publish(5)
    person.sequence = 2
    wanted = person.done()
    content = person.file.read_bytes()

    again = person.done()

    assert same(again, wanted)
    assert person.file.read_bytes() == content


def test_a_kill_while_the_file_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.done()
    own = person.own
    (tmp_path / "personal.part").write_bytes(person.file.read_bytes()[:50])
    assert np.array_equal(person.own, own)
    person.sequence = 2
    person.done()
    assert not (tmp_path / "personal.part").exists()


@pytest.mark.parametrize("epochs", [0, 2])
def test_an_interrupted_training_goes_on_with_its_private_parameters(tmp_path: Path, epochs: int) -> None:
    personal = HEAD | {"private_epochs": epochs}
    first, second = (Person(tmp_path / name, personal) for name in ("whole", "interrupted"))
    for person in (first, second):
        person.done()
        person.publish(5)
        person.sequence = 2
    wanted = first.done()
    for step in (1, 5, 8):
        assert stopped(second.train(stop_after=step)).kept_share
    assert same(second.done(), wanted)
    assert second.resumed() == [1, 6, 14]
    assert np.array_equal(second.own, first.own)


def test_a_training_begun_with_other_private_parameters_does_not_go_on(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.done()
    person.sequence = 2
    person.contribution = 1
    stopped(person.train(stop_after=3))
    person.file.unlink()
    person.done()
    assert person.notes() == ["a training begins anew: the parameters of the device's own are others now"]


def test_a_damaged_file_is_put_aside_and_the_device_begins_as_a_new_one(tmp_path: Path) -> None:
    wanted = Person(tmp_path / "new").done()
    person = Person(tmp_path / "old")
    person.done()
    good = person.file.read_bytes()
    cases = [good[:30], good[:-1], good + b"?", b"", good[:60] + bytes([good[60] ^ 1]) + good[61:]]
    cases.append(good[:-3] + bytes([good[-3] ^ 64]) + good[-2:])
    for number, data in enumerate(cases, start=1):
        person.file.write_bytes(data)
        assert np.array_equal(person.own, person.split.private_of(person.version))
        assert same(person.done(), wanted)
        assert len(person.notes()) == number
        assert person.file.with_suffix(".aside").read_bytes() == data


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"personal": {"private": ["dense0.*"]}}, "the federation leaves other parameters to its devices now"),
        ({"federation": "g"}, "it is of federation f"),
    ],
)
def test_what_is_of_something_else_is_put_aside(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    person = Person(tmp_path)
    person.done()
    person.announce(**change)
    person.done()
    assert any(note.endswith(reason) for note in person.notes())
    assert person.file.with_suffix(".aside").exists()


def test_a_full_disk_costs_one_training_of_the_head_and_nothing_else(tmp_path: Path) -> None:
    wanted = Person(tmp_path / "good").done()
    person = Person(tmp_path / "full")
    bench, _ = person.process()
    (person.folder / "personal.part").symlink_to("/dev/full")
    assert same(person.train(on=bench), wanted)
    assert [note.rpartition(": ")[2] for note in person.notes()] == ["No space left on device"]
    assert np.array_equal(person.own, person.split.private_of(person.version))


def test_what_is_forgotten_during_a_training_does_not_come_back(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.done()
    belongings = Belongings(tmp_path)

    class Forgetful(Word):
        def wait_and_stop(self) -> bool:
            belongings.forget()
            return False

    bench = Workbench(person.settings, person.process()[1], belongings, person.told.append, DriftFile(tmp_path))
    person.sequence = 2
    bench.train(person.task(), ModelCache(tmp_path).open(), Forgetful())
    assert not list(tmp_path.glob("personal*"))


def test_forget_erases_private_parameters_and_nothing_less_does() -> None:
    driver: Driver = fresh()
    hold(driver, signed())
    assert not driver.all(do.DropPersonal)
    assert driver.all(do.DropPersonal, order(driver, action="forget"))
    assert not driver.all(do.DropPersonal, announce(driver, signed(2, epoch="f" * 16)))


def test_figures_of_global_personal_and_local_models(tmp_path: Path) -> None:
    person = Person(tmp_path, HEAD | {"compare_local": True})
    plain = Person(tmp_path / "plain").done()
    done = person.done()
    assert done.delta == plain.delta, "a comparison changes nothing of what is compared"
    holdout = samples(person)
    own = person.split.overlaid(person.version, person.own)
    assert done.others["global"] == person.model.evaluate(person.version, holdout).summary()
    assert done.others["personal"] == person.model.evaluate(own, holdout).summary()
    metrics = update_of(done, person.manifest, "a", ("1" * 16, 1)).metrics
    assert {f"holdout_accuracy_{whose}" for whose in ("global", "personal", "local")} <= set(metrics)
    person.sequence, person.contribution = 2, 1
    assert person.done().others["local"]["loss"] < done.others["local"]["loss"], "it is trained on"
    assert plain.others.keys() == {"global", "personal"}


def test_an_evaluation_is_of_what_the_device_predicts_with(tmp_path: Path) -> None:
    person = Person(tmp_path)
    done = person.done()
    bench, _ = person.process()
    with ModelCache(tmp_path).open() as file:
        found = bench.evaluate(Evaluate(task=2, manifest=person.manifest), file, Word())
    assert isinstance(found, EvaluationDone)
    assert found.metrics == done.others["personal"]


def test_the_cache_stays_the_federation_s(tmp_path: Path) -> None:
    """So that deltas lead from version to version, whatever a device has of its own."""
    person = Person(tmp_path)
    before = (tmp_path / "cache" / "model").read_bytes()
    person.done()
    assert (tmp_path / "cache" / "model").read_bytes() == before


def test_predictions_are_by_the_device_s_own_parameters(tmp_path: Path) -> None:
    person = Person(tmp_path)
    person.done()
    person.announce(features={"channels": ["t"], "max_gap_s": 60, "window": 4, "compute": "raw"})
    exchange = Exchange(ModelCache(tmp_path).open, tmp_path, tflite=False)
    served = exchange.newest()
    assert served is not None
    recent = Recent(served.cut)
    for number in range(4):
        recent.add(Row(source="s", channels=("t",), values=(float(number),), time=1e9 + number))
    answer = served.ask(recent)
    assert answer is not None
    own = person.split.overlaid(person.version, person.own)
    mine, others = (person.model.predict(each, np.arange(4.0).reshape(1, 4))[0] for each in (own, person.version))
    assert answer.output == pytest.approx(mine.tolist())
    assert answer.output != pytest.approx(others.tolist())


@pytest.mark.parametrize("private", [["dense1.*"], []])
def test_a_version_is_fine_tuned_before_it_is_predicted_with(tmp_path: Path, private: list[str]) -> None:
    plain = Person(tmp_path / "plain", {"private": private} if private else {"compare_local": True}).done()
    person = Person(tmp_path, {"private": private, "fine_tune_epochs": 4})
    done = person.done()
    assert done.delta == plain.delta, "it is in no update"

    found = personal_parameters(tmp_path, person.manifest, person.model, person.version)
    assert not np.array_equal(person.split.shared_of(found), person.split.shared_of(person.version))
    assert done.others["personal"] == person.model.evaluate(found, samples(person)).summary()
    bench, _ = person.process()
    with ModelCache(tmp_path).open() as file:
        evaluated = bench.evaluate(Evaluate(task=2, manifest=person.manifest), file, Word())
    assert isinstance(evaluated, EvaluationDone)
    assert evaluated.metrics == done.others["personal"]

    person.publish(5)
    assert person.own.size == person.split.private.size, "another version is not what was tuned"
    person.sequence = 2
    again = person.done()
    trained = person.file.read_bytes()
    assert same(person.done(), again), "nor does a training begin with it"
    assert person.file.read_bytes() == trained
