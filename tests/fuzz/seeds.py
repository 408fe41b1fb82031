"""Writes the examples that mutations start from: ``python -m tests.fuzz.seeds``, after a message has changed.

Files whose names begin with "seed-" are made here. The others were found by fuzzing, and stay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from aggregator.adapters.control import (
    CommandRequest,
    RollbackRequest,
    StatusRequest,
    SurveyCloseRequest,
    SurveyRequest,
)
from aggregator.adapters.snapshot import SNAPSHOT_NAME, Snapshot, write_snapshot
from device_agent.adapters.model_cache import ModelCache
from fedmq.examples import AGENT_TOML, AGGREGATOR_TOML
from models import Dataset, build
from models.answering import statistics_of
from models.tflite.calibration import ranges_of, scheme_of
from models.tflite.file import TfliteModel
from models.tflite.lowering import lower
from protocol import bundles, tensors
from protocol.adapters.key_files import new_sealing_key, new_signing_key
from protocol.adapters.packets import puback, publish_head
from protocol.adapters.pins import federation_json
from protocol.chunks import digest_of
from protocol.packing import encode
from protocol.sealing import seal, seal_report
from protocol.status import (
    AggregatorClaim,
    AggregatorMetrics,
    AggregatorState,
    DeviceMetrics,
    DeviceState,
    encode_status,
)
from protocol.surveys import pack_content
from protocol.topics import Topics
from tests.aggregator import harness as bench
from tests.device_agent import harness as device
from tests.fuzz.targets import CORPUS, OPENER, SIGNER, VALUES
from tests.protocol import samples


def main() -> None:
    """Write the files anew."""
    for folder, name, data in _seeds():
        path = CORPUS / folder / f"seed-{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _seeds() -> Iterator[tuple[str, str, bytes]]:
    yield from _messages()
    yield from _statuses()
    yield from _vectors()
    yield from _texts()
    yield from _files()
    yield from _networks()
    yield from _secured()
    yield from _sensors()


def _messages() -> Iterator[tuple[str, str, bytes]]:
    for name, message in (
        ("update", samples.UPDATE),
        ("chunk", samples.CHUNK),
        ("probe", samples.PROBE),
        ("sealed", samples.SEALED),
        ("report", samples.REPORT),
        ("sealed-report", samples.SEALED_REPORT),
    ):
        yield "update", name, encode(message)
    on_the_bench = bench.Bench()
    yield "update", "bench", encode(on_the_bench.update("a"))
    yield "manifest", "sample", encode(samples.MANIFEST)
    yield "manifest", "device", encode(device.manifest(1, data=b"x" * 400))
    yield "content", "sample", encode(samples.CONTENT)
    yield "report-content", "metrics", samples.REPORT.content
    model = build(bench.SPEC)
    data = Dataset.for_model(model, np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0]))
    yield "report-content", "statistics", pack_content(statistics_of(model, data).to_data())
    yield "signed", "sample", encode(samples.SIGNED)
    yield "receipt", "sample", encode(samples.RECEIPT)
    yield "receipt", "device", encode(device.receipt(1, "retry", reason="later", next_after_s=2.0))
    yield "command", "sample", encode(samples.COMMAND)


def _statuses() -> Iterator[tuple[str, str, bytes]]:
    token = samples.TOKEN
    states = {
        "aggregator-state": AggregatorState(federation="demo", epoch=token, instance=token, status="online", version=3),
        "aggregator-claim": AggregatorClaim(instance=token, store=token),
        "aggregator-metrics": AggregatorMetrics(
            federation="demo", refusals={"norm": 2}, staleness={"0": 9}, accuracy=0.5
        ),
        "device-state": DeviceState(device_id="a", state="training", boot=token, version=3, reason="because"),
        "device-metrics": DeviceMetrics(device_id="a", refusals={"x": 1}, train_loss=0.25),
    }
    for folder, status in states.items():
        yield folder, "sample", encode_status(status)


def _vectors() -> Iterator[tuple[str, str, bytes]]:
    rng = np.random.default_rng(1)
    vector = rng.normal(size=VALUES).astype(np.float32)
    for codec in tensors.CODECS:
        yield f"vector-{codec}", "normal", tensors.encode(codec, vector, rng)


def _texts() -> Iterator[tuple[str, str, bytes]]:
    topics = Topics("demo")
    for name, topic in (
        ("update", topics.update("press-07")),
        ("state", topics.device_state("press-07")),
        ("blob", topics.blob("a" * 64, 17)),
    ):
        yield "topic", name, topic.encode()
    yield "agent-toml", "example", AGENT_TOML.encode()
    yield "federation-json", "sample", federation_json("demo", [b"k" * 32, b"n" * 32])
    yield "aggregator-toml", "example", AGGREGATOR_TOML.encode()
    for name, request in (
        ("status", StatusRequest()),
        ("rollback", RollbackRequest(version=3)),
        ("command", CommandRequest(device="a", action="pause")),
        ("survey", SurveyRequest(kind="evaluation", fraction=0.5)),
        ("survey-close", SurveyCloseRequest(survey=samples.TOKEN)),
    ):
        yield "request", name, msgspec.json.encode(request)


def _files() -> Iterator[tuple[str, str, bytes]]:
    data = bytes(range(200)) * 2
    with tempfile.TemporaryDirectory() as folder:
        ModelCache(Path(folder)).replace(device.manifest(1, data=data), data)
        yield "model-file", "sample", (Path(folder) / "cache" / "model").read_bytes()
        snapshot = Snapshot(
            federation="demo",
            store_id=samples.TOKEN,
            layout="a" * 64,
            spec={},
            version=3,
            parameters=data,
            digest=digest_of(data),
        )
        write_snapshot(Path(folder), snapshot)
        yield "snapshot", "sample", (Path(folder) / SNAPSHOT_NAME).read_bytes()


def _networks() -> Iterator[tuple[str, str, bytes]]:
    model = build({"kind": "mlp", "inputs": 3, "hidden": [4], "outputs": 2, "activation": "tanh"})
    parameters = model.init(np.random.default_rng(0))
    graph = lower(model, parameters)
    scheme = scheme_of(graph, ranges_of(graph, np.eye(3, dtype=np.float32)))
    yield "tflite", "float32", TfliteModel.export(model, parameters).data
    yield "tflite", "int8", TfliteModel.export(model, parameters, scheme=scheme).data


def _secured() -> Iterator[tuple[str, str, bytes]]:
    yield "signed", "manifest", SIGNER.sign("manifest", encode(samples.MANIFEST))
    yield "signed", "device", SIGNER.sign("manifest", encode(device.manifest(1)))
    yield "signed", "command", SIGNER.sign("command", encode(samples.COMMAND))
    yield "sealed", "opens", encode(seal(samples.UPDATE, OPENER.sealing))
    yield "sealed", "report", encode(seal_report(samples.REPORT, OPENER.sealing))
    yield "signing-key", "sample", new_signing_key()
    yield "sealing-key", "x25519", new_sealing_key("x25519")
    yield "sealing-key", "hybrid", new_sealing_key("mlkem768-x25519")
    yield "bundle", "sample", bundles.encode(_bundle())
    yield "packet", "publish", publish_head(b"a/b", 9, mid=7, retain=True, five=True) + b"x" * 9
    yield "packet", "old", publish_head(b"a/b", 0, mid=0, retain=False, five=False)
    yield "packet", "puback", puback(7)


def _sensors() -> Iterator[tuple[str, str, bytes]]:
    yield "sensor-message", "row", b'{"v":1.5,"w":[{"x":2}],"t":"2026-05-04T03:02:01Z"}'
    yield "sensor-message", "stretch", b'{"l":"ok","from":1770000000,"until":1770000060}'
    yield "sensor-message", "bare", b"21.5"
    yield "sensor-lines", "csv", b't,v,w,l\n1770000000,1,2,0\n"1770000001","3","","1"\r\nv,t\n5,1770000002\n'
    yield "sensor-lines", "json", b'{"v":1,"w":null,"l":3}\n{"w":"2","l":null}\n'
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, v=np.arange(5.0), x=np.ones((5, 3), np.float32), t=1.77e9 + np.arange(5.0))
        yield "sensor-archive", "sample", Path(file.name).read_bytes()


def _bundle() -> bundles.Bundle:
    files: dict[bundles.FileName, str] = {name: f"{name}\n" for name in bundles.WANTED}
    return bundles.Bundle(role="device", name="press-07", federation="demo", host="localhost", port=8883, files=files)


if __name__ == "__main__":
    main()
