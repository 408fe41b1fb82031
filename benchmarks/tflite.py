"""What a TFLite runtime costs a device, and whether all three runtimes answer as NumPy does.

``python -m benchmarks.tflite``: disk, memory, start and time of a prediction with the runtime that is installed.
``python -m benchmarks.tflite --runtimes``: also makes environments with ``tflite-runtime`` (NumPy 1.x; needs Python up
to 3.11) and with ``tflite-micro``, and compares answers of networks with every kind of layer, in float32 and int8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from models import build
from models.predicting import NumpyPredictor, Origin
from models.tflite.calibration import ranges_of, scheme_of
from models.tflite.file import TfliteModel
from models.tflite.lowering import lower
from models.tflite.predicting import TflitePredictor
from models.tflite.runtime import load_runtime

RUNNER = Path(__file__).parent / "support" / "tflite_runner.py"
ENVIRONMENTS = {
    "tflite-runtime": ["tflite-runtime==2.14.0", "numpy<2"],
    "tflite-micro": ["--pre", "tflite-micro"],
}
FLOAT_TOLERANCE = 1e-5
ROWS = 32


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", action="store_true", help="compare with the other runtimes, too")
    wanted = parser.parse_args()
    footprint()
    if wanted.runtimes:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder))


# -- what it costs -------------------------------------------------------------------------------------------------


def footprint() -> None:
    """Measure the installed runtime in this process, against NumPy."""
    model = build({"kind": "mlp", "inputs": 64, "hidden": [64, 32], "outputs": 10})
    parameters = model.init(np.random.default_rng(0))
    plain = NumpyPredictor(model, parameters)
    one, many = np.zeros((1, 64), np.float32), np.zeros((256, 64), np.float32)
    plain.predict(many)
    before, started = rss_mb(), time.perf_counter()
    runtime = load_runtime()
    loaded_ms, loaded = 1e3 * (time.perf_counter() - started), rss_mb()
    file = TfliteModel.export(model, parameters)
    started = time.perf_counter()
    predictor = TflitePredictor(runtime, file)
    predictor.predict(one)
    first_ms = 1e3 * (time.perf_counter() - started)
    print(f"{runtime.name} {runtime.version}: {disk_mb(runtime.name):.0f} MB on disk without what it depends on")
    print(f"loaded in {loaded_ms:.0f} ms, {loaded - before:.1f} MB more memory")
    print(f"a new file and its first answer: {first_ms:.1f} ms")
    for name, x in (("1 example", one), ("256 examples", many)):
        ours, theirs = best_us(partial(predictor.predict, x)), best_us(partial(plain.predict, x))
        print(f"{name}: {ours:.0f} us, NumPy {theirs:.0f} us")
    others = model.init(np.random.default_rng(1))
    patch, export = best_us(lambda: file.patch(others)), best_us(lambda: TfliteModel.export(model, others))
    print(f"a version: patched {patch:.0f} us, exported {export:.0f} us")


def rss_mb() -> float:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096 / 1e6


def disk_mb(package: str) -> float:
    """Return the size of the package's own files."""
    return sum(file.size or 0 for file in metadata.files(package) or []) / 1e6


def best_us(run: Callable[[], object]) -> float:
    """Return the least mean time of a call over some series."""
    best = np.inf
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(50):
            run()
        best = min(best, (time.perf_counter() - started) / 50)
    return float(best * 1e6)


# -- whether they agree --------------------------------------------------------------------------------------------


def compare(folder: Path) -> None:
    """Print the largest difference from NumPy for every network, weights and runtime."""
    expected = write_examples(folder)
    print(f"\nlargest difference from NumPy\n{'runtime':16}{'network':16}{'float32':>12}{'int8':>12}")
    for runtime, python in environments(folder):
        run = subprocess.run([python, str(RUNNER), str(folder)], capture_output=True, text=True, check=True)
        told = json.loads(run.stdout.splitlines()[-1])
        assert told["runtime"] == runtime
        assert not told["failed"], told["failed"]
        for name, answer in expected.items():
            plain, eight = (difference(folder / f"{name}-{kind}.answer.npz", answer) for kind in ("float32", "int8"))
            print(f"{runtime:16}{name:16}{plain:12.1e}{eight:12.1e}")
            assert plain <= FLOAT_TOLERANCE


def difference(path: Path, expected: np.ndarray) -> float:
    """Return the largest difference of the answers in the file."""
    with np.load(path, allow_pickle=False) as arrays:
        return float(np.abs(arrays["y"] - expected).max())


def write_examples(folder: Path) -> dict[str, np.ndarray]:
    """Write files and examples; return NumPy's answers."""
    # The networks of the tests: every kind of layer is in them.
    from tests.models.tflite.networks import SPECS, network_and_data  # noqa: PLC0415 - only for this comparison

    expected = {}
    for name in SPECS:
        model, parameters, x = network_and_data(name, ROWS)
        expected[name] = model.predict(parameters, x)
        graph = lower(model, parameters)
        for kind, scheme in (("float32", None), ("int8", scheme_of(graph, ranges_of(graph, x)))):
            (folder / f"{name}-{kind}.tflite").write_bytes(TfliteModel.export(model, parameters, Origin(), scheme).data)
            np.savez(folder / f"{name}-{kind}.npz", x=x)
    return expected


def environments(folder: Path) -> list[tuple[str, str]]:
    """Make the environments; return the runtimes, and the interpreters that have them."""
    found = [("ai-edge-litert", sys.executable)]
    for name, packages in ENVIRONMENTS.items():
        place = folder / name
        venv.create(place, with_pip=True)
        python = str(place / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        found.append((name, python))
    return found


if __name__ == "__main__":
    main()
