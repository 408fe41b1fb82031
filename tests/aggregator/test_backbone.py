"""A frozen network before the model: checked at the start, announced, published once, and kept through versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aggregator.adapters.backbones import load_backbone
from aggregator.adapters.errors import StoreRefused
from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import prepare
from aggregator.commands import Command, Publish
from aggregator.configuration import BackboneTable, DownlinkTable, RegistryTable, ScheduleTable
from aggregator.frozen import MAX_BACKBONE_BYTES, Backbone
from aggregator.manifests import largest_manifest_bytes
from models import build
from models.tflite import runtime as runtimes
from models.tflite.runtime import RuntimeUnavailable
from protocol.chunks import Assembly
from protocol.link import LinkDown, LinkUp, Published
from protocol.messages import Manifest
from protocol.packing import decode_manifest
from protocol.settings import ConfigurationError
from tests.aggregator.harness import Bench, only, settings_with
from tests.support.aggregators import write_config
from tests.support.backbones import backbone_bytes, write_backbone

MODEL = {"kind": "softmax", "inputs": 12, "outputs": 3}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    path = write_backbone(tmp_path_factory.mktemp("backbone") / "b.tflite")
    found = load_backbone(str(path), build(MODEL), 256)
    assert found is not None
    assert found.ref.blob.chunk_count > 20
    return found


def bench_of(backbone: Backbone, keep: int = 2) -> Bench:
    table = DownlinkTable(chunk_bytes=256, keep_versions=keep)
    settings = settings_with(
        schedule=ScheduleTable(goal=1), downlink=table, model=dict(MODEL), backbone=BackboneTable(path="b.tflite")
    )
    return Bench(settings, backbone=backbone)


def contribute(bench: Bench) -> list[Command]:
    delta = np.full(bench.model.layout.size, bench.sequence + 1, "<f4").tobytes()
    return bench.send(bench.update(delta=delta))


def manifest_on(bench: Bench) -> Manifest:
    return decode_manifest(bench.broker[bench.topics.current_model])


def fetched(bench: Bench, backbone: Backbone) -> bytes:
    announced = manifest_on(bench).backbone
    assert announced == backbone.ref
    assembly = Assembly(announced.blob)
    for index in assembly.missing:
        assembly.add(index, bench.broker[bench.topics.blob(announced.blob.digest, index)])
    return assembly.result()


def sent_of(commands: list[Command], backbone: Backbone) -> int:
    """How many chunks of the backbone were published."""
    return sum(f"/{backbone.ref.blob.digest}/" in publish.topic for publish in only(commands, Publish))


def test_versions_share_the_backbone_and_it_is_published_once(backbone: Backbone) -> None:
    bench = bench_of(backbone)
    for number in range(1, 6):
        assert not sent_of(contribute(bench), backbone)
        assert manifest_on(bench).version == number
        assert fetched(bench, backbone) == backbone.data
    found = {entry.digest for entry in bench.core.ledger.shelf}
    assert backbone.ref.blob.digest in found
    assert len(bench.core.ledger.shelf) <= 6


def test_another_connection_brings_all_of_it_again(backbone: Backbone) -> None:
    bench = bench_of(backbone)
    bench.feed(LinkDown(reason="broker died"))
    bench.broker.clear()
    bench.feed(LinkUp(session_present=False, protocol="3.1.1"))
    assert fetched(bench, backbone) == backbone.data


def test_a_restart_keeps_it(backbone: Backbone) -> None:
    bench = bench_of(backbone, keep=1)
    contribute(bench)
    again = bench.restart()
    contribute(again)
    contribute(again)
    assert fetched(again, backbone) == backbone.data


def test_the_manifest_comes_after_the_last_chunk_however_fast_versions_follow(backbone: Backbone) -> None:
    bench = bench_of(backbone)
    bench.feed(LinkDown(reason="cut"))
    bench.broker.clear()
    waiting = only(bench.handle(LinkUp(session_present=False, protocol="3.1.1")), Publish)
    sent = 0
    while waiting:
        # With every chunk that is acknowledged there is a newer version.
        publish = waiting.pop(0)
        if not publish.token:
            continue
        sent += f"/{backbone.ref.blob.digest}/" in publish.topic
        if publish.topic == bench.topics.current_model:
            assert fetched(bench, backbone) == backbone.data
        waiting += only(bench.handle(Published(token=publish.token)), Publish)
        if sent < backbone.ref.blob.chunk_count:
            delta = np.full(bench.model.layout.size, bench.sequence + 1, "<f4").tobytes()
            waiting += only(bench.handle(bench.message(bench.raw(delta=delta))), Publish)
    assert sent == backbone.ref.blob.chunk_count, "each chunk once"
    assert manifest_on(bench).version == bench.version


def test_a_chunk_that_was_refused_is_sent_again(backbone: Backbone) -> None:
    bench = bench_of(backbone)
    bench.feed(LinkDown(reason="cut"))
    bench.broker.clear()
    first = only(bench.handle(LinkUp(session_present=False, protocol="3.1.1")), Publish)
    bench.handle(Published(token=next(publish.token for publish in first if publish.token), error="quota"))
    bench.broker.clear()
    bench.tick(10.0)
    assert fetched(bench, backbone) == backbone.data


def test_the_foreseen_manifest_has_room_for_it(backbone: Backbone) -> None:
    bench = bench_of(backbone)
    found = len(bench.broker[bench.topics.current_model])
    assert found <= largest_manifest_bytes(bench.settings, bench.model) <= found + 120


# -- the file -------------------------------------------------------------------------------------------------------


def config_of(folder: Path, more: str = "") -> Path:
    config = write_config(folder, more=f'[backbone]\npath = "b.tflite"\n{more}')
    config.write_text(config.read_text().replace("inputs = 4", "inputs = 12"))
    return config


def evaluation(folder: Path) -> str:
    return f'[evaluation]\npath = "{folder / "e.npz"}"\n'


def fault_of(config: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        prepare(config)
    return str(caught.value)


def test_a_sound_file(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b.tflite")
    prepared = prepare(config_of(tmp_path))
    assert prepared.backbone is not None
    assert (prepared.backbone.ref.inputs, prepared.backbone.ref.outputs) == (64, 12)
    assert prepared.founding.backbone == prepared.backbone.ref.blob.digest
    assert prepared.founding.meaning
    assert prepared.backbone.ref.blob.digest in {entry.digest for entry in prepared.founding.begin()[2]}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _path: None, "cannot be read: No such file"),
        (lambda path: path.write_bytes(b"x" * 1000), "is no backbone: no .tflite file"),
        (lambda path: path.write_bytes(backbone_bytes()[:-400]), "is no backbone: damaged .tflite file"),
        (lambda path: path.write_bytes(bytes(MAX_BACKBONE_BYTES + 1)), "more than 67,108,864 bytes"),
        (lambda path: write_backbone(path, outputs=13), "gives 13 values.*the model takes 12: write inputs = 13"),
    ],
)
def test_files_that_cannot_be_backbones_are_refused(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    make(tmp_path / "b.tflite")
    with pytest.raises(ConfigurationError, match=says):
        prepare(config_of(tmp_path))


def test_samples_have_the_width_of_the_backbones_input(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b.tflite")
    features = '[features]\nchannels = ["t", "h"]\nmax_gap_s = 60\nwindow = 32\ncompute = "raw"\nrate_hz = 1\n'
    assert prepare(config_of(tmp_path, features)).pipeline is not None
    assert "the model's inputs are 64" in fault_of(config_of(tmp_path, features.replace("32", "30")))


def test_evaluation_data_go_through_it(tmp_path: Path) -> None:
    write_backbone(tmp_path / "b.tflite")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "e.npz", x=rng.standard_normal((20, 64), np.float32), y=rng.integers(0, 3, 20))
    prepared = prepare(config_of(tmp_path, evaluation(tmp_path)))
    found = prepared.evaluate(prepared.model.init(np.random.default_rng(0)))
    assert set(found) == {"accuracy", "loss"}
    np.savez(tmp_path / "e.npz", x=rng.standard_normal((20, 12), np.float32), y=rng.integers(0, 3, 20))
    assert "(20, 12), allowed is (n, 64)" in fault_of(config_of(tmp_path, evaluation(tmp_path)))


def test_without_a_runtime_it_is_read_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none() -> None:
        raise RuntimeUnavailable("ai-edge-litert is not installed: pip install 'fedmq[tflite]'")

    write_backbone(tmp_path / "b.tflite")
    np.savez(tmp_path / "e.npz", x=np.zeros((2, 64), np.float32), y=np.zeros(2, np.int64))
    monkeypatch.setattr(runtimes, "load_runtime", none)
    assert prepare(config_of(tmp_path)).backbone is not None
    assert "not tried out" in caplog.text
    assert "pip install 'fedmq[tflite]'" in fault_of(config_of(tmp_path, evaluation(tmp_path)))


def test_a_store_of_another_backbone_is_refused_and_its_own_taken(tmp_path: Path) -> None:
    def opened() -> None:
        prepared = prepare(config_of(tmp_path))
        open_store(prepared.state_dir, prepared.founding, RegistryTable()).close()

    write_backbone(tmp_path / "b.tflite")
    opened()
    write_backbone(tmp_path / "b.tflite", seed=1)
    with pytest.raises(StoreRefused, match=r"inputs than the backbone gives.*Put the file back, or choose another"):
        opened()
    write_backbone(tmp_path / "b.tflite")
    opened()
