"""A federation behind a backbone, with real processes: fetched once, over kills and restarts, and run once a sample."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from device_agent.adapters.backbone_files import FOLDER
from device_agent.adapters.embedding import CACHE_NAME
from fedmq.embedded_broker import EmbeddedBroker
from protocol.chunks import blob_of, split
from protocol.messages import BackboneRef, BlobRef
from protocol.status import DeviceMetrics
from tests.device_agent.standin import TOPICS, Agent, Standin
from tests.support.backbones import backbone_bytes, write_backbone
from tests.support.federation import Federation, wait_until

WIDTH = 12
MODEL = {"kind": "softmax", "inputs": WIDTH, "outputs": 10}
MORE = '[backbone]\npath = "b.tflite"\n'
SPEC = {"kind": "softmax", "inputs": WIDTH, "outputs": 3}
CHUNK = 512


# -- against an aggregator ------------------------------------------------------------------------------------------


def test_a_federation_learns_behind_a_backbone(broker: EmbeddedBroker, tmp_path: Path) -> None:
    path = write_backbone(tmp_path / "b.tflite", outputs=WIDTH)
    with Federation(tmp_path, broker.port, model=MODEL, more=MORE) as federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(3)
        for name in ("device-0", "aggregator", "device-1"):
            federation.kill(name)
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_versions_more(3)
        federation.stop_all()
        federation.check(agents=2)
        for number in range(2):
            (found,) = (tmp_path / f"device-{number}-state" / FOLDER).glob("*.tflite")
            assert found.read_bytes() == path.read_bytes()
            text = federation.log(f"device-{number}")
            assert text.count("fetching backbone") == 1, "fetched once, and not again after the restart"
            assert "Traceback" not in text
        (metrics,) = federation.query("SELECT metrics FROM versions ORDER BY version DESC LIMIT 1")[0]
        assert set(json.loads(metrics)) >= {"accuracy", "loss"}


def test_another_backbone_needs_another_store(broker: EmbeddedBroker, tmp_path: Path) -> None:
    write_backbone(tmp_path / "b.tflite", outputs=WIDTH)
    with Federation(tmp_path, broker.port, model=MODEL, more=MORE) as federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(2)
        federation.stop("aggregator")
        write_backbone(tmp_path / "b.tflite", outputs=WIDTH, seed=1)
        refused = federation.start_aggregator()
        assert refused.wait(100) != 0
        assert "Put the file back" in federation.log("aggregator")
        # A new state directory is a new epoch: devices take the new network, and begin anew.
        shutil.rmtree(tmp_path / "aggregator-state")
        federation.start_aggregator()
        federation.wait_for_version(2)
        federation.stop_all()
        for number in range(2):
            (found,) = (tmp_path / f"device-{number}-state" / FOLDER).glob("*.tflite")
            assert found.read_bytes() == (tmp_path / "b.tflite").read_bytes()


# -- against a stand-in, chunk by chunk -----------------------------------------------------------------------------


def reference(data: bytes) -> BackboneRef:
    return BackboneRef(blob=blob_of(data, "tflite", CHUNK), inputs=8, outputs=WIDTH)


def put(standin: Standin, blob: BlobRef, data: bytes, chunks: range | None = None) -> None:
    pieces = split(data, blob.chunk_bytes)
    for index in range(len(pieces)) if chunks is None else chunks:
        standin.publish(TOPICS.blob(blob.digest, index), pieces[index])


def part(agent: Agent) -> int:
    return sum(path.stat().st_size for path in (agent.state_dir / FOLDER).glob("*.part"))


def figures(standin: Standin) -> DeviceMetrics:
    """Return the next figures."""
    seen = len(standin.metrics)
    standin.wait(lambda: len(standin.metrics) > seen)
    return standin.metrics[-1]


def trained(standin: Standin, version: int) -> bool:
    """Whether an update of this version has come; the same one may come more than once."""
    return any(update.base_version == version for update in standin.updates())


def said(standin: Standin, text: str) -> bool:
    return any(text in state.reason for state in standin.states)


def test_a_kill_while_it_is_fetched_costs_the_chunks_under_way(standin: Standin, agent: Callable[..., Agent]) -> None:
    data = backbone_bytes(8, WIDTH, hidden=400)
    ref = reference(data)
    half = ref.blob.chunk_count // 2
    put(standin, ref.blob, data, range(half))
    standin.publish_model(0, spec=SPEC, backbone=ref)
    device = agent()
    wait_until(lambda: part(device) == half * CHUNK, "half of the backbone")
    standin.wait(lambda: said(standin, f"fetching the backbone, {len(data):,} bytes"))
    assert not standin.updates()
    device.restart()
    wait_until(lambda: f"have={half}" in device.text(), "going on where it was")
    # What it has is not on the broker any more, so it cannot be asked for.
    for index in range(half):
        standin.publish(TOPICS.blob(ref.blob.digest, index), b"")
    put(standin, ref.blob, data, range(half, ref.blob.chunk_count))
    standin.wait(standin.updates)
    (found,) = (device.state_dir / FOLDER).glob("*.tflite")
    assert found.read_bytes() == data


def test_embeddings_are_computed_once_whatever_is_restarted(standin: Standin, agent: Callable[..., Agent]) -> None:
    data = backbone_bytes(8, WIDTH)
    ref = reference(data)
    put(standin, ref.blob, data)
    standin.publish_model(0, spec=SPEC, backbone=ref)
    device = agent()
    standin.wait(lambda: trained(standin, 0))
    standin.wait(lambda: standin.metrics and standin.metrics[-1].embeddings_computed == 300)
    standin.publish_model(1, spec=SPEC, backbone=ref)
    standin.wait(lambda: trained(standin, 1))
    assert figures(standin).embeddings_computed == 300, "the samples are in memory"
    device.restart()
    standin.publish_model(2, spec=SPEC, backbone=ref)
    standin.wait(lambda: trained(standin, 2))
    standin.wait(lambda: standin.metrics[-1].embeddings_reused == 300)
    assert standin.metrics[-1].embeddings_computed == 0

    # Damage is put aside, and costs no more than computing them again.
    device.stop()
    (device.state_dir / CACHE_NAME).write_bytes(b"no database at all" * 100)
    device.start()
    standin.publish_model(3, spec=SPEC, backbone=ref)
    standin.wait(lambda: trained(standin, 3))
    standin.wait(lambda: standin.metrics[-1].embeddings_computed == 300)
    assert (device.state_dir / f"{CACHE_NAME}.aside").exists()


def test_a_wrong_digest_is_fetched_again(standin: Standin, agent: Callable[..., Agent]) -> None:
    data = backbone_bytes(8, WIDTH)
    ref = reference(data)
    put(standin, ref.blob, bytes(len(data)))
    standin.publish_model(0, spec=SPEC, backbone=ref)
    device = agent()
    wait_until(lambda: "backbone spoiled" in device.text(), "the wrong bytes are noticed")
    put(standin, ref.blob, data)
    standin.wait(standin.updates)


@pytest.mark.parametrize("damage", ["no tflite", "cut"])
def test_a_file_that_is_no_backbone_never_reaches_the_runtime(
    standin: Standin, agent: Callable[..., Agent], damage: str
) -> None:
    data = b"x" * 3000 if damage == "no tflite" else backbone_bytes(8, WIDTH)[:-300]
    ref = reference(data)
    put(standin, ref.blob, data)
    standin.publish_model(0, spec=SPEC, backbone=ref)
    device = agent()
    standin.wait(lambda: said(standin, "backbone: no .tflite" if damage == "no tflite" else "damaged .tflite"))
    assert not list((device.state_dir / FOLDER).glob("*.tried"))
    # The agent lives on, and takes a better one.
    good = backbone_bytes(8, WIDTH)
    better = reference(good)
    put(standin, better.blob, good)
    standin.publish_model(1, spec=SPEC, backbone=better)
    standin.wait(standin.updates)
    assert [path.stem for path in (device.state_dir / FOLDER).glob("*.tflite")] == [better.blob.digest]


def test_too_large_a_backbone_is_not_fetched(standin: Standin, agent: Callable[..., Agent]) -> None:
    data = backbone_bytes(8, WIDTH)
    ref = reference(data)
    put(standin, ref.blob, data)
    standin.publish_model(0, spec=SPEC, backbone=ref)
    device = agent(backbone={"max_bytes": 1000})
    standin.wait(lambda: said(standin, "max_bytes in [backbone]"))
    assert not (device.state_dir / FOLDER).exists()
    assert not standin.updates()


def test_a_full_disk_is_said_and_tried_again_without_anybody(standin: Standin, agent: Callable[..., Agent]) -> None:
    data = backbone_bytes(8, WIDTH)
    ref = reference(data)
    put(standin, ref.blob, data)
    folder = agent().state_dir / FOLDER
    standin.wait(lambda: standin.states)
    folder.mkdir()
    # Whoever writes there meets a full disk.
    full = folder / f"{ref.blob.digest}.part"
    full.symlink_to("/dev/full")
    standin.publish_model(0, spec=SPEC, backbone=ref)
    standin.wait(lambda: said(standin, "the .tflite file cannot be kept: No space left on device"))
    assert not standin.updates()
    full.unlink()
    standin.wait(standin.updates)
    (found,) = folder.glob("*.tflite")
    assert found.read_bytes() == data


def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(standin: Standin, agent: Callable[..., Agent]) -> None:
    data = backbone_bytes(8, WIDTH)
    ref = reference(data)
    put(standin, ref.blob, data)
    standin.publish_model(0, spec=SPEC, backbone=ref)
    device = agent(backbone={"cache_bytes": 0})
    standin.wait(standin.updates)
    device.stop()
    (found,) = (device.state_dir / FOLDER).glob("*.tflite")
    found.write_bytes(bytes(len(data)))
    device.start()
    standin.publish_model(1, spec=SPEC, backbone=ref)
    standin.wait(lambda: trained(standin, 1))
    assert found.read_bytes() == data


def test_without_a_runtime_the_state_says_what_to_install(
    standin: Standin, agent: Callable[..., Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Packages that cannot be found, as on a device without the extra.
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\nfor name in ('ai_edge_litert', 'tflite_runtime'):\n    sys.modules[name] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    data = backbone_bytes(8, WIDTH)
    ref = reference(data)
    put(standin, ref.blob, data)
    standin.publish_model(0, spec=SPEC, backbone=ref)
    device = agent()
    standin.wait(lambda: said(standin, "pip install 'fedmq[tflite]'"))
    assert not part(device)
    assert device.process is not None
    assert device.process.poll() is None, "it lives on, and takes what comes"
    monkeypatch.delenv("PYTHONPATH")
    device.restart()
    standin.wait(standin.updates)
    assert "Traceback" not in device.text()


def test_a_runtime_that_is_there_and_broken_is_said_and_tried_again(
    standin: Standin, agent: Callable[..., Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of another NumPy, or of another processor.
    broken = tmp_path / "broken"
    for name in ("ai_edge_litert", "tflite_runtime"):
        (broken / name).mkdir(parents=True)
        (broken / name / "__init__.py").write_text("raise ImportError('built for another NumPy')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    data = backbone_bytes(8, WIDTH)
    ref = reference(data)
    put(standin, ref.blob, data)
    standin.publish_model(0, spec=SPEC, backbone=ref)
    device = agent()
    standin.wait(lambda: said(standin, "the backbone cannot be run"))
    assert not standin.updates()
    assert device.process is not None
    assert device.process.poll() is None
    monkeypatch.delenv("PYTHONPATH")
    device.restart()
    standin.wait(standin.updates)
    assert "Traceback" not in device.text()
    assert device.text().count("fetching backbone") == 1, "the file was good"


def test_personal_parameters_stand_behind_a_backbone(standin: Standin, agent: Callable[..., Agent]) -> None:
    spec = {"kind": "mlp", "inputs": WIDTH, "hidden": [6], "outputs": 3, "task": "classification"}
    data = backbone_bytes(8, WIDTH)
    ref = reference(data)
    put(standin, ref.blob, data)
    personal = {"private": ["dense1.*"], "private_epochs": 0, "fine_tune_epochs": 0, "compare_local": False}
    standin.publish_model(0, spec=spec, backbone=ref, personal=personal)
    agent()
    update = standin.wait(standin.updates)[0]
    assert len(update.delta) == 4 * (WIDTH * 6 + 6)
    assert msgspec.msgpack.decode(standin.payloads[0])["metrics"]["holdout_accuracy_personal"] >= 0
    assert np.isfinite(np.frombuffer(update.delta, "<f4")).all()
