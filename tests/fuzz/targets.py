"""Everything that reads bytes from outside: what to call, and the one way in which it may say no."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from aggregator.adapters.control import Request
from aggregator.adapters.snapshot import SNAPSHOT_NAME, read_snapshot
from aggregator.configuration import AggregatorSettings
from device_agent.adapters.model_cache import CacheError, read_model
from device_agent.sensing.adapters.archives import Archive
from device_agent.sensing.labelling import LabelBoard
from device_agent.sensing.lines import CsvLines, JsonLines, cut
from device_agent.sensing.messages import MessageReader
from device_agent.sensing.rows import Moment
from device_agent.sensing.sources import CsvSource, JsonlSource, MqttSource, NpzSource
from device_agent.settings import AgentSettings
from models import DataError, FeaturesError, Pipeline, PlanError, SpecError, TfliteError, TrainingPlan, build
from models.answering import metrics_from_data
from models.statistics import FeatureStatistics
from models.tflite.checking import examine
from protocol import bundles, messages, packing, tensors
from protocol.adapters import packets
from protocol.adapters.configuration import ConfigurationError, load
from protocol.adapters.key_files import read_opener, read_signer
from protocol.adapters.pins import read_pins
from protocol.chunks import Assembly
from protocol.errors import ProtocolError
from protocol.link import Received
from protocol.messages import UpdateChunk
from protocol.sealing import Opener
from protocol.signing import Signer, key_id, verified_body
from protocol.status import (
    AggregatorClaim,
    AggregatorMetrics,
    AggregatorState,
    DeviceMetrics,
    DeviceState,
    decode_status,
)
from protocol.surveys import SealedReport, unpack_content
from protocol.topics import Topics
from tests.aggregator.harness import Bench
from tests.device_agent.harness import DEVICE, Driver
from tests.device_agent.harness import TOPICS as DEVICE_TOPICS

CORPUS = Path(__file__).parent / "corpus"

VALUES = 300
"""Size of the vector that the codecs decode: one full block of int8, and a part of another."""


@dataclass(frozen=True)
class Target:
    """``read`` returns, or raises one of ``refusals``; anything else is a defect."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = (ProtocolError,)
    corpus: str = ""
    """Name of the folder with examples; empty = the target's own name."""
    most_words: int = 600
    """Length of the longest refusal: what was sent is not to be sent on to a log."""


def _update(payload: bytes) -> None:
    message = packing.decode_up(payload)
    if isinstance(message, UpdateChunk) and message.blob.total_bytes <= len(payload):
        Assembly(message.blob).add(message.index, message.data)
    assert packing.decode_up(packing.encode(message)) == message


def _manifest(payload: bytes) -> None:
    manifest = packing.decode_manifest(payload)
    model = build(manifest.model)
    if (pipeline := Pipeline.for_model(manifest.features, model)) is not None:
        assert Pipeline.from_data(pipeline.to_data()) == pipeline
    TrainingPlan.from_data(manifest.training)


def _status(kind: Any) -> Callable[[bytes], object]:
    return lambda payload: decode_status(payload, kind)


def _vector(codec: str) -> Callable[[bytes], object]:
    return lambda payload: tensors.decode(codec, payload, VALUES)


def _topic(payload: bytes) -> None:
    topic = payload.decode("utf-8", "surrogateescape")
    for parse in (Topics("demo").parse_device_topic, Topics("demo").parse_blob_topic):
        try:
            parse(topic)
        except ProtocolError:
            continue


def _configuration(kind: Any) -> Callable[[bytes], object]:
    def read(payload: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".toml") as file:
            file.write(payload)
            file.flush()
            load(Path(file.name), kind)

    return read


def _snapshot(payload: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SNAPSHOT_NAME).write_bytes(payload)
        read_snapshot(Path(folder), "demo", "a" * 64)


_REQUEST = msgspec.json.Decoder(Request)


def _aggregator(payload: bytes) -> None:
    """Whatever a device (or somebody in its name) says, the aggregator's core answers and goes on."""
    topics = _BENCH.topics
    for topic in (topics.update("a"), topics.device_state("a"), topics.device_metrics("a"), topics.aggregator_state):
        _BENCH.handle(Received(topic=topic, payload=payload, mid=1, connection=1))
    claim = Received(topic=topics.aggregator_claim, payload=payload, mid=1, connection=1)
    Bench().handle(claim)


def _agent(payload: bytes) -> None:
    """Whatever a broker says, the device's core goes on."""
    driver = Driver()
    driver.start()
    topics = DEVICE_TOPICS
    for topic in (topics.current_model, topics.receipt(DEVICE), topics.command(DEVICE), topics.blob("a" * 64, 0)):
        driver.give(Received(topic=topic, payload=payload))


_BENCH = Bench()

SIGNER = Signer([bytes(range(32))])
OPENER = Opener([("x25519", bytes(range(32))), ("mlkem768-x25519", bytes(range(96)))])
"""Keys that everybody may know."""


def _sealed(payload: bytes) -> None:
    message = packing.decode_up(payload)
    if isinstance(message, messages.SealedUpdate):
        OPENER.open(structs.replace(message, key=key_id(OPENER.sealing.key)))
    if isinstance(message, SealedReport):
        OPENER.open_report(structs.replace(message, key=key_id(OPENER.sealing.key)))


_COUNTED = build({"kind": "softmax", "inputs": 4, "outputs": 3})


def _report_content(payload: bytes) -> None:
    """What a report says, as the aggregator reads it: whatever gets through adds up."""
    figures = unpack_content(payload)
    if "rows" in figures:
        found = FeatureStatistics.from_data(figures, 4, 3)
        total = found + found
        assert np.isfinite(total.squares).all()
        FeatureStatistics.from_data(total.to_data(), 4, 3)
    else:
        metrics_from_data(_COUNTED.task, figures.get("metrics"))


def _signed(payload: bytes) -> None:
    packing.decode_manifest(verified_body(payload, "manifest", SIGNER.public_keys))


def _file(read: Callable[[str], object]) -> Callable[[bytes], object]:
    def read_from(payload: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(payload)
            file.flush()
            read(file.name)

    return read_from


def _pinning_agent(payload: bytes) -> None:
    """A device that pins keys follows nothing that these have not signed."""
    driver = Driver(pins=SIGNER.public_keys)
    driver.start()
    for topic in (DEVICE_TOPICS.current_model, DEVICE_TOPICS.command(DEVICE)):
        driver.give(Received(topic=topic, payload=payload))


def _packet(payload: bytes) -> None:
    """What a broker may send: found in the stream, then read as what it says it is."""
    found = packets.body_of(payload, 0)
    if found is not None and found[1] <= len(payload):
        for five in (False, True):
            packets.read_publish(payload[0], payload, *found, five=five)
        packets.read_puback(payload[found[0] : found[1]])


AT = Moment(100.0, 1_780_000_000.0)


def _sensor_message(payload: bytes) -> None:
    """Whatever comes on a local topic, the source takes it or counts it."""
    table = MqttSource(
        topics=["v"], fields={"v": "v", "w": "w[0].x", "all": "$"}, time="t", label_topic="l", label="l",
        label_from="from", label_until="until", labels={"ok": 1},
    )  # fmt: skip
    reader = MessageReader("fuzz", table, LabelBoard(), 0.0)
    bare = MessageReader("bare", MqttSource(topics=["v"], fields={"v": "$"}), LabelBoard(), 0.0)
    for topic in ("v", "l"):
        reader.read(topic, payload, AT)
        bare.read(topic, payload, AT)


def _sensor_lines(payload: bytes) -> None:
    """Whatever is in a file, each line is a row or is counted."""
    fields = {"v": "v", "w": "w"}
    csv = CsvLines("csv", CsvSource(path="x", fields=fields, time="t", label="l"), LabelBoard(), 0.0)
    json = JsonLines("json", JsonlSource(path="x", fields=fields, label="l", label_holds=True), LabelBoard(), 0.0)
    lines, used = cut(payload)
    assert used == sum(len(line) + 1 for line in lines)
    for number, line in enumerate(lines, 1):
        csv.read(line, number, AT)
        json.read(line, number, AT)


def _archive(name: str) -> None:
    table = NpzSource(path=name, fields={"v": "v", "w": "x[1]"}, time="t")
    archive = Archive("npz", table, LabelBoard(), 0.0)
    while archive.next_at <= AT.monotonic_s:
        archive.poll(AT)


TARGETS: dict[str, Target] = {
    "sensor-message": Target(_sensor_message, ()),
    "sensor-lines": Target(_sensor_lines, ()),
    "sensor-archive": Target(_file(_archive), ()),
    "update": Target(_update),
    "whole-update": Target(packing.decode_update, corpus="update"),
    "identity": Target(packing.identity_of, (), "update"),
    "manifest": Target(_manifest, (ProtocolError, SpecError, FeaturesError, PlanError)),
    "content": Target(packing.decode_content),
    "report-content": Target(_report_content, (ProtocolError, DataError)),
    "receipt": Target(packing.decode_receipt),
    "sealed": Target(_sealed),
    "signed": Target(_signed),
    "bundle": Target(bundles.decode),
    "federation-json": Target(_file(lambda name: read_pins(name, "demo")), (ConfigurationError,)),
    "signing-key": Target(_file(lambda name: read_signer([name])), (ConfigurationError,)),
    "sealing-key": Target(_file(lambda name: read_opener([name])), (ConfigurationError,)),
    "packet": Target(_packet, (packets.MalformedPacketError,)),
    "pinning-agent-core": Target(_pinning_agent, (), "*"),
    "command": Target(packing.decode_command),
    "aggregator-state": Target(_status(AggregatorState)),
    "aggregator-claim": Target(_status(AggregatorClaim)),
    "aggregator-metrics": Target(_status(AggregatorMetrics)),
    "device-state": Target(_status(DeviceState)),
    "device-metrics": Target(_status(DeviceMetrics)),
    "vector-f32": Target(_vector("f32")),
    "vector-f16": Target(_vector("f16")),
    "vector-int8": Target(_vector("int8")),
    "topic": Target(_topic, ()),
    "agent-toml": Target(_configuration(AgentSettings), (ConfigurationError,), most_words=200_000),
    "aggregator-toml": Target(_configuration(AggregatorSettings), (ConfigurationError,), most_words=200_000),
    "model-file": Target(lambda payload: read_model(io.BytesIO(payload)), (CacheError,), most_words=800),
    "tflite": Target(examine, (TfliteError,), most_words=800),
    "snapshot": Target(_snapshot, ()),
    "request": Target(_REQUEST.decode, (msgspec.DecodeError, RecursionError, UnicodeDecodeError), most_words=100_000),
    "aggregator-core": Target(_aggregator, (), "*"),
    "agent-core": Target(_agent, (), "*"),
}
"""Every decoder by name; "*" as corpus means all of them."""


def corpus_of(name: str) -> list[bytes]:
    """Return the examples for this target, in a fixed order."""
    folder = TARGETS[name].corpus or name
    return [path.read_bytes() for path in sorted(CORPUS.glob(f"{folder}/*.bin"))]


def try_out(name: str, payload: bytes) -> None:
    """Feed the target; raise what it must not raise, with the input beside it."""
    target = TARGETS[name]
    with _named(name, payload):
        words = _refusal(target, payload)
        assert words is None or 0 < len(words) < target.most_words, "a refusal without words, or with too many"


def _refusal(target: Target, payload: bytes) -> str | None:
    try:
        target.read(payload)
    except target.refusals as exc:
        return str(exc)
    return None


@contextmanager
def _named(name: str, payload: bytes) -> Iterator[None]:
    try:
        yield
    except BaseException as exc:
        exc.add_note(f"target {name}, input {payload[:2000]!r}")
        raise
