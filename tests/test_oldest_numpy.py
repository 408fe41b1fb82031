"""The oldest NumPy that is promised stays enough: Debian 12's 1.24, all that 32-bit ARM has without compiling."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

PACKAGES = ("models", "protocol", "device_agent", "aggregator", "fedmq")

# What NumPy 2.4 has in its name spaces, and 1.24 has not.
_TOP = """
acos acosh asin asinh astype atan atan2 atanh bitwise_count bitwise_invert bitwise_left_shift bitwise_right_shift bool
concat cumulative_prod cumulative_sum dtypes exceptions isdtype long matrix_transpose matvec permute_dims pow strings
trapezoid ulong unique_all unique_counts unique_inverse unique_values unstack vecdot vecmat
"""
_LINALG = "cross diagonal matmul matrix_norm matrix_transpose outer svdvals tensordot trace vecdot vector_norm"
NEWER, NEWER_IN_LINALG = set(_TOP.split()), set(_LINALG.split())


def _newer(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="np"), attr=name) if name in NEWER:
                yield f"np.{name}"
            case ast.Attribute(value=ast.Attribute(attr="linalg"), attr=name) if name in NEWER_IN_LINALG:
                yield f"np.linalg.{name}"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr="asarray"), keywords=given):
                yield from (f"np.asarray({one.arg}=)" for one in given if one.arg in {"copy", "device"})


def test_nothing_newer_is_used() -> None:
    sources = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found = {f"{path.relative_to(ROOT)}: {name}" for path in sources for name in _newer(ast.parse(path.read_text()))}
    assert not found


def test_what_is_promised_is_that_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "numpy>=1.24" in project["dependencies"]


def test_it_would_be_seen() -> None:
    text = "np.exceptions\nnp.linalg.vector_norm(x)\nnp.asarray(x, copy=False)\nnp.linalg.norm(np.abs(x))\n"
    assert set(_newer(ast.parse(text))) == {"np.exceptions", "np.linalg.vector_norm", "np.asarray(copy=)"}
