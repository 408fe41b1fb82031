"""A runtime built with ``-ffast-math`` changes what a float is for the whole thread; it is changed back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from models.tflite.runtime import RuntimeUnavailable, load_runtime
try:
    load_runtime(["ai-edge-litert"])
except RuntimeUnavailable:
    pass
import ai_edge_litert.interpreter as loaded
print(loaded.SMALL, sys.float_info.min / 2.0 > 0.0)
"""

FAST_MATH = """
import ctypes, platform, sys
PLACE, BITS = {
    "x86_64": (28, 0x8040),  # MXCSR: flush to zero, denormals are zero
    "aarch64": (0, 1 << 24),  # FPCR
    "armv7l": (0, 1 << 24),  # FPSCR
}[platform.machine()]
library, room = ctypes.CDLL(None), (ctypes.c_ubyte * 64)()
library.fegetenv(room)
control = ctypes.c_uint32.from_buffer(room, PLACE)
control.value |= BITS
library.fesetenv(room)
SMALL = sys.float_info.min / 2.0 > 0.0
class Interpreter:
    def __init__(self, **more):
        raise ValueError("no matter")
"""


def test_small_floats_are_there_again_after_a_runtime_took_them_away(tmp_path: Path) -> None:
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(FAST_MATH)
    (tmp_path / "ai_edge_litert-9.9.9.dist-info").mkdir()
    root = str(Path(__file__).resolve().parent.parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}

    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)

    assert done.stdout.split() == ["False", "True"], done.stderr
