"""Which package may import which, and that the cores stay pure: read from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PACKAGES = ("models", "protocol", "device_agent", "aggregator", "fedmq", "broker_config")

ALLOWED = {
    "models": {"models"},
    "protocol": {"protocol", "models"},
    "device_agent": {"device_agent", "models", "protocol"},
    "aggregator": {"aggregator", "models", "protocol"},
    "fedmq": {"fedmq", "models", "protocol", "device_agent", "aggregator", "broker_config"},
    "broker_config": {"broker_config", "protocol"},
}

IMPURE = {
    "apscheduler", "asyncio", "fcntl", "io", "multiprocessing", "os", "paho", "select", "selectors", "shutil",
    "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time",
}  # fmt: skip
"""Clocks, threads, sockets, files, databases: for adapters, services and command lines only."""

SHELLS = {"adapters", "service", "__main__", "cli"}
"""Modules (or folders) of a package that may touch the world."""

CORES = ("models", "protocol", "device_agent", "aggregator")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def is_shell(path: Path) -> bool:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return any(part in SHELLS or part.startswith("cli_") for part in parts)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules(package)
        for name in imported(path)
        if name.split(".")[0] in PACKAGES and name.split(".")[0] not in ALLOWED[package]
    ]
    assert not wrong


@pytest.mark.parametrize("package", CORES)
def test_cores_touch_no_clock_thread_socket_or_file(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules(package)
        if not is_shell(path)
        for name in imported(path)
        if name.split(".")[0] in IMPURE
    ]
    assert not wrong


@pytest.mark.parametrize("package", CORES)
def test_cores_draw_no_global_random_numbers_and_open_nothing(package: str) -> None:
    wrong = []
    for path in modules(package):
        if is_shell(path):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "open" or (name.startswith(("np.random.", "random.")) and name not in {
                    "np.random.default_rng", "random.Random",
                }):  # fmt: skip
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not wrong


def test_tflite_is_known_in_one_place() -> None:
    packages = {"ai_edge_litert", "flatbuffers", "tflite_runtime"}
    below = [path for path in modules("models") if "tflite" not in path.relative_to(ROOT).parts]
    outside = [path for package in PACKAGES if package != "models" for path in modules(package)]
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (*below, *outside)
        for name in imported(path)
        if name.split(".")[0] in packages or (path in below and name.startswith("models.tflite"))
    ]
    assert not wrong


def test_paho_is_spoken_to_in_one_place() -> None:
    users = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in modules(package)
        if any(name.split(".")[0] == "paho" for name in imported(path))
    }
    assert users
    assert all(user.startswith("protocol/adapters/") for user in users)


def test_nothing_is_unpickled_or_evaluated_from_outside() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for package in CORES
        for path in modules(package)
        for name in imported(path)
        if name.split(".")[0] in {"pickle", "marshal", "shelve", "dill", "joblib", "yaml"}
    ]
    assert not wrong


def test_every_folder_with_modules_is_installed() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    folders = {
        str(path.parent.relative_to(ROOT)).replace("/", ".") for package in PACKAGES for path in modules(package)
    }
    assert not {folder for folder in folders if f'"{folder}"' not in text}


def test_the_flat_package_names_are_ours_alone() -> None:
    owners = packages_distributions()
    for package in PACKAGES:
        assert set(owners[package]) == {"fedmq"}, f"{package} is also installed by {owners[package]}"
