"""Finding a runtime that runs ``.tflite`` files, and saying what is wrong where there is none.

Two packages have the same interface: ``ai-edge-litert`` (Python 3.10 and newer on 64-bit machines) and the older
``tflite-runtime`` (up to Python 3.11, NumPy 1.x, also 32-bit ARM). Not every pair of package, NumPy and machine works,
and some fail only when they are used: so a runtime counts as found when it has run a small model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from models.parameters import FloatArray

HINT = "pip install 'fedmq[tflite]'"


_SMALLEST_NORMAL = 2.0**-1022


class RuntimeUnavailable(Exception):  # noqa: N818 - a state of the machine, and where NumPy predicts no error at all
    """No TFLite runtime works here; the message says what was found and what to do."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that has been seen working."""

    name: str
    """Of the package, as pip knows it."""
    version: str
    make: Callable[..., Any]

    def interpreter(self, file: bytes | Path, threads: int = 1) -> Any:  # noqa: ANN401 - either package's class
        """Return an interpreter for a file, which is mapped, or its bytes, which are kept.

        Raises what the package raises (mostly ``ValueError``).
        """
        if isinstance(file, bytes):
            return self.make(model_content=file, num_threads=threads)
        return self.make(model_path=str(file), num_threads=threads)


@dataclass(frozen=True, slots=True)
class _Candidate:
    package: str
    module: str
    highest_numpy: int
    """The newest major version of NumPy that it works with; 0: any."""


_CANDIDATES = (
    _Candidate("ai-edge-litert", "ai_edge_litert.interpreter", 0),
    _Candidate("tflite-runtime", "tflite_runtime.interpreter", 1),
)


def load_runtime(packages: Iterable[str] = ()) -> Runtime:
    """Return the first runtime that works, of those named or of all; raise ``RuntimeUnavailable``."""
    wanted = set(packages) or {candidate.package for candidate in _CANDIDATES}
    faults = []
    for candidate in _CANDIDATES:
        if candidate.package not in wanted:
            continue
        try:
            return _load(candidate)
        except RuntimeUnavailable as exc:
            faults.append(str(exc))
    raise RuntimeUnavailable("; ".join(faults) or f"no such runtime: {', '.join(sorted(wanted))}")


def installed() -> str:
    """Return what there is to try, as text; empty where nothing is installed. Nothing of it is loaded."""
    found = ((candidate.package, _version(candidate)) for candidate in _CANDIDATES)
    return ", ".join(f"{package} {version}" for package, version in found if version)


def keep_small_floats() -> None:
    """Undo what a library built with ``-ffast-math`` does to who loads it: floats below 2.2e-308 become zero.

    ``tflite-runtime`` 2.14 for 32-bit ARM is one. Then 0.0 passes for greater than the smallest float, and with that
    a setting of 0 for one "above 0". Threads that are started later are as the one that starts them.
    """
    if _SMALLEST_NORMAL / 2.0 > 0.0:
        return
    import ctypes  # noqa: PLC0415 - for machines with such a library

    default_environment = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl
    ctypes.CDLL(None).fesetenv(default_environment)


def _load(candidate: _Candidate) -> Runtime:
    version = _version(candidate)
    if not version:
        raise RuntimeUnavailable(f"{candidate.package} is not installed: {HINT}")
    major = int(np.__version__.split(".", maxsplit=1)[0])
    if candidate.highest_numpy and major > candidate.highest_numpy:
        raise RuntimeUnavailable(
            f"{candidate.package} {version} was built for NumPy {candidate.highest_numpy}.x and cannot work with NumPy "
            f"{np.__version__}: pip install 'numpy<{candidate.highest_numpy + 1}', or instead of it ai-edge-litert"
        )
    try:
        make = importlib.import_module(candidate.module).Interpreter
        keep_small_floats()
    except (ImportError, AttributeError, OSError) as exc:
        raise RuntimeUnavailable(
            f"{candidate.package} {version} cannot be imported ({_short(exc)}): built for another machine, Python or "
            f"system? Install it again on this one: {HINT}"
        ) from exc
    found = Runtime(candidate.package, version, make)
    try:
        _try_out(found)
    except Exception as exc:
        raise RuntimeUnavailable(
            f"{candidate.package} {version} is installed but does not work with NumPy {np.__version__} "
            f"({_short(exc)}): install it again, or another version of it: {HINT}"
        ) from exc
    return found


def _version(candidate: _Candidate) -> str:
    """Return the version that is installed, empty when none is.

    By the name of the folder that pip writes beside the package: ``importlib.metadata`` reads any, and takes two
    megabytes of a device.
    """
    package = candidate.module.partition(".")[0]
    spec = find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        for found in Path(place).parent.glob(f"{package}-*.dist-info"):
            return found.name.removesuffix(".dist-info").rpartition("-")[2]
    from importlib import metadata  # noqa: PLC0415 - see above

    try:
        return metadata.version(candidate.package)
    except metadata.PackageNotFoundError:
        return ""


def _try_out(runtime: Runtime) -> None:
    """Run ``tanh`` on one number."""
    # Here, because only this needs the package flatbuffers; a runtime without it is of no use to us either.
    from models.tflite.graph import Drawing  # noqa: PLC0415 - see above
    from models.tflite.schema import SERVING, Operator  # noqa: PLC0415 - see above
    from models.tflite.writing import write  # noqa: PLC0415 - see above

    drawing = Drawing(1)
    graph = drawing.finish(drawing.apply("tanh", Operator.TANH, drawing.input), "y")
    run = runtime.interpreter(write(graph, "", {})).get_signature_runner(SERVING)
    found: FloatArray = run(x=np.ones((1, 1), np.float32))["y"]
    if not np.allclose(found, np.tanh(1.0), atol=1e-5):
        raise ValueError(f"it says that tanh(1) is {float(found[0, 0])}")


def _short(exc: Exception) -> str:
    text = str(exc) or type(exc).__name__
    return text.splitlines()[0][:200]
