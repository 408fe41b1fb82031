"""What signatures and sealing cost: bytes and time of an update on both sides, of a manifest, and memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.support.report import Options, Row, paired, progress, run
from protocol import tensors
from protocol.fields import SealingSuite
from protocol.messages import BlobRef, Manifest, ModelUpdate, Participation, SealedUpdate
from protocol.packing import decode_manifest, decode_update, encode
from protocol.sealing import PRIVATE_KEY_BYTES, Opener, seal
from protocol.signing import Signer, verified_body

SIZES = (1_000, 10_000, 100_000, 1_000_000)
SUITES: tuple[SealingSuite, ...] = ("x25519", "mlkem768-x25519")
_TOKEN, _DIGEST = "0" * 16, "0" * 64
_BATCH_S = 0.2

_IMPORTS = {
    "verifying": "from protocol.signing import Signer, verified_body\n"
    "verified_body(Signer([b'k' * 32]).sign('manifest', b''), 'manifest', Signer([b'k' * 32]).public_keys)",
    "verifying and sealing": "from protocol.signing import Signer\nfrom protocol.sealing import Opener, seal\n"
    "Signer([b'k' * 32])\nfrom benchmarks.sealing import update\n"
    "seal(update(1000), Opener([('x25519', b'k' * 32)]).sealing)",
}
_MEMORY = """
import benchmarks.sealing
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
before = rss()
{}
print(before, rss())
"""


def update(parameters: int) -> ModelUpdate:
    """Return an int8 update of so many parameters, with the metrics that an agent sends."""
    rng = np.random.default_rng(0)
    delta = tensors.encode("int8", rng.standard_normal(parameters).astype(np.float32), rng)
    return ModelUpdate(
        federation="benchmark",
        epoch=_TOKEN,
        device_id="press-07",
        incarnation=_TOKEN,
        sequence=1,
        base_version=1,
        num_examples=100,
        num_steps=7,
        codec="int8",
        layout=_DIGEST,
        delta=delta,
        metrics={"train_loss": 0.5, "holdout_accuracy_before": 0.5, "holdout_accuracy": 0.6},
    )


def microseconds(act: Callable[[], object]) -> float:
    """Return the mean time of a call over ``_BATCH_S``."""
    act()
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < _BATCH_S:
        act()
        count += 1
    return passed / count * 1e6


def measure(options: Options) -> list[Row]:
    """Measure every suite and size, each beside the same without sealing."""
    rows = []
    for suite in SUITES:
        opener = Opener([(suite, bytes(range(PRIVATE_KEY_BYTES[suite])))])
        for size in SIZES:
            rows += _update_rows(options, suite, opener, update(size), f"{size:,} int8")
    return [*rows, _manifest_row(options), *_memory_rows(options)]


def _update_rows(options: Options, suite: str, opener: Opener, plain: ModelUpdate, name: str) -> list[Row]:
    progress(f"{suite}, {name}")
    wire, sealed_wire = encode(plain), encode(seal(plain, opener.sealing))
    vector = tensors.decode("int8", plain.delta, _parameters(plain))
    rng = np.random.default_rng(0)

    def make() -> bytes:
        tensors.encode("int8", vector, rng)
        return encode(plain)

    def make_sealed() -> bytes:
        tensors.encode("int8", vector, rng)
        return encode(seal(plain, opener.sealing))

    def take() -> object:
        found = decode_update(wire)
        assert isinstance(found, ModelUpdate)
        return tensors.decode("int8", found.delta, vector.size)

    def take_sealed() -> object:
        found = decode_update(sealed_wire)
        assert isinstance(found, SealedUpdate)
        return tensors.decode("int8", opener.open(found).delta, vector.size)

    pairs = {"encoding and sealing on the device": (make_sealed, make), "opening and decoding": (take_sealed, take)}
    rows = [paired(f"{suite}, {name}: bytes", [float(len(sealed_wire))], [float(len(wire))], "bytes")]
    for what, (ours, theirs) in pairs.items():
        found = [(microseconds(ours), microseconds(theirs)) for _ in range(options.repeat)]
        rows.append(paired(f"{suite}, {name}: {what}", [one for one, _ in found], [two for _, two in found], "us"))
    return rows


def _parameters(plain: ModelUpdate) -> int:
    return next(size for size in SIZES if tensors.CODECS["int8"].encoded_bytes(size) == len(plain.delta))


def _manifest_row(options: Options) -> Row:
    signer = Signer([b"a" * 32, b"b" * 32])
    manifest = Manifest(
        federation="benchmark",
        epoch=_TOKEN,
        version=7,
        model={"kind": "mlp", "inputs": 64, "hidden": [32], "outputs": 10},
        layout=_DIGEST,
        parameters=_DIGEST,
        blob=BlobRef(digest=_DIGEST, total_bytes=1000, chunk_bytes=1000, encoding="f32"),
        training={"epochs": 1},
        participation=Participation(),
        signing_keys=list(signer.public_keys),
    )
    body = encode(manifest)
    envelope = signer.sign("manifest", body)
    keys = signer.public_keys[:1]
    ours, theirs = [], []
    for _ in range(options.repeat):
        ours.append(microseconds(lambda: decode_manifest(verified_body(envelope, "manifest", keys))))
        theirs.append(microseconds(lambda: decode_manifest(body)))
    return paired("manifest: verifying and decoding, against decoding", ours, theirs, "us")


def _memory_rows(options: Options) -> list[Row]:
    rows = []
    for what, lines in _IMPORTS.items():
        progress(f"memory: {what}")
        found = [_memory(lines) for _ in range(options.repeat)]
        rows.append(paired(f"memory after {what}", [two for _, two in found], [one for one, _ in found], "MB"))
    return rows


def _memory(lines: str) -> tuple[float, float]:
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY.format(lines)], cwd=root, check=True, capture_output=True, text=True
    )
    before, after = done.stdout.split()
    return float(before), float(after)


if __name__ == "__main__":
    run("sealing", "signatures and sealing, against the same without", measure, repeat=5)
