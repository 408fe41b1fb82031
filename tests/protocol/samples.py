"""One legal message of every type."""

from __future__ import annotations

import msgspec

from protocol import messages as m
from protocol import packing
from protocol.envelope import Signature, Signed
from protocol.surveys import Report, SealedReport, Survey, pack_content

TOKEN = "0123456789abcdef"
DIGEST = TOKEN * 4
BLOB = m.BlobRef(digest=DIGEST, total_bytes=1000, chunk_bytes=300, encoding="f32")
UPDATE = m.ModelUpdate(
    federation="demo",
    epoch=TOKEN,
    device_id="press-07",
    incarnation=TOKEN,
    sequence=3,
    base_version=2,
    num_examples=100,
    num_steps=7,
    codec="int8",
    layout=DIGEST,
    delta=bytes(range(40)),
    metrics={"loss": 0.5, "accuracy": 1.0},
)
SEALED = m.SealedUpdate(
    federation="demo",
    epoch=TOKEN,
    device_id="press-07",
    incarnation=TOKEN,
    sequence=3,
    base_version=2,
    key=TOKEN,
    sealed=bytes(range(100)),
)
CONTENT = m.UpdateContent(
    num_examples=100,
    num_steps=7,
    codec="int8",
    layout=DIGEST,
    delta=bytes(range(40)),
    metrics={"loss": 0.5, "accuracy": 1.0},
)
SURVEY = Survey(id=TOKEN, kind="evaluation", fraction=0.5, min_examples=10)
REPORT = Report(
    federation="demo",
    epoch=TOKEN,
    device_id="press-07",
    incarnation=TOKEN,
    sequence=4,
    base_version=2,
    survey=TOKEN,
    content=pack_content({"examples": 9, "metrics": {"count": 9, "correct": 7, "loss_sum": 2.5}}),
)
SEALED_REPORT = SealedReport(
    federation="demo",
    epoch=TOKEN,
    device_id="press-07",
    incarnation=TOKEN,
    sequence=4,
    base_version=2,
    survey=TOKEN,
    key=TOKEN,
    sealed=bytes(range(100)),
)
CHUNK = m.UpdateChunk(
    federation="demo",
    device_id="press-07",
    incarnation=TOKEN,
    sequence=3,
    blob=msgspec.structs.replace(BLOB, encoding="update"),
    index=3,
    data=b"x" * 100,
)
PROBE = m.UpdateProbe(federation="demo", device_id="press-07", incarnation=TOKEN, sequence=3)
RECEIPT = m.Receipt(
    federation="demo",
    epoch=TOKEN,
    device_id="press-07",
    incarnation=TOKEN,
    sequence=3,
    status="retry",
    reason="chunks",
    version=4,
    next_after_s=1.5,
    missing=[0, 2],
)
MANIFEST = m.Manifest(
    federation="demo",
    epoch=TOKEN,
    version=4,
    generation=1_790_000_000_000,
    issued=1_790_000_000_001,
    model={"kind": "mlp", "inputs": 64, "hidden": [32], "outputs": 10},
    layout=DIGEST,
    parameters=DIGEST,
    blob=BLOB,
    deltas=[m.DeltaRef(base_version=3, blob=BLOB)],
    training={"epochs": 1, "learning_rate": 0.1},
    features={"channels": ["a", "b"], "window": 32, "compute": "raw", "max_gap_s": 1.5, "rate_hz": 50},
    backbone=m.BackboneRef(blob=msgspec.structs.replace(BLOB, encoding="tflite"), inputs=784, outputs=64),
    participation=m.Participation(),
    trains=False,
    surveys=[SURVEY],
    signing_keys=[b"k" * 32, b"n" * 32],
    sealing=m.Sealing(suite="x25519", key=b"s" * 32),
)
COMMAND = m.DeviceCommand(federation="demo", request_id=TOKEN, action="pause", target="all", issued=7)
SIGNED = Signed(
    body=packing.encode(COMMAND),
    signatures=[Signature(key=TOKEN, signature=b"s" * 64), Signature(key=TOKEN[::-1], signature=b"t" * 64)],
)
