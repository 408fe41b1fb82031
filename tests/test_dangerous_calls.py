"""Nothing that turns bytes from outside into code: read from the source itself, not promised."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

PACKAGES = ("models", "protocol", "device_agent", "aggregator", "fedmq", "broker_config", "benchmarks")

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle", "yaml"}
"""They build any object, and so run any code, that the bytes ask for; ``yaml`` unless one remembers not to."""

NAMES = {"eval", "exec", "compile", "__import__"}

ATTRIBUTES = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")}

EXCEPTIONS = {
    # seglearn ships its recordings in a pickle; who installed the package runs its code already.
    "fedmq/demo_signals.py: np.load with pickles",
}


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def _dangers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (f"import {alias.name}" for alias in names if alias.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield f"import {module}"
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                yield f"{name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
                yield from _of_attribute(node, owner, name)


def _of_attribute(call: ast.Call, owner: str, name: str) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if (owner, name) in ATTRIBUTES:
        yield f"{owner}.{name}()"
    if owner == "subprocess" and "shell" in given:
        yield "subprocess with a shell"
    if owner in {"np", "numpy"} and name == "load":
        allowed = given.get("allow_pickle")
        if not (isinstance(allowed, ast.Constant) and allowed.value is False):
            # The default is False today, and was True until NumPy 1.16.3: say it.
            yield "np.load with pickles"


def test_nothing_builds_objects_or_code_from_bytes() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {danger}" for path in _sources() for danger in _dangers(ast.parse(path.read_text()))
    }
    assert found == EXCEPTIONS


def test_the_check_sees_what_it_is_for() -> None:
    bad = (
        "import pickle\nfrom yaml import load\neval('1')\nos.system('x')\nsubprocess.run('x', shell=True)\nnp.load(f)\n"
    )
    assert len(list(_dangers(ast.parse(bad)))) == 6
