"""One target under atheris: ``python guided.py TARGET [libFuzzer's options]``, started by ``tests.fuzz``."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["protocol", "models", "aggregator", "device_agent"]):
    from tests.fuzz.targets import try_out

name = sys.argv.pop(1)
atheris.Setup(sys.argv, lambda payload: try_out(name, payload))
atheris.Fuzz()
