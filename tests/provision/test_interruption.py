"""SIGKILL at any moment: what the index has is there, what it has not never was; the next command mends the rest."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from fedmq.provision.files import TEMPORARY
from protocol import bundles
from tests.provision.desk import Desk

NEVER = 1_000_000
CHANCES = 7
TOUCHES = {"os.rename", "os.remove", "open", "os.mkdir", "os.chmod", "sqlite3.connect"}
"""What Python tells its audit hooks before it does it."""


def strike(at: int, desk: Desk, *words: str) -> int:
    """Run a command in a process that kills itself just before it touches a file of the keystore the n-th time.

    Return how often it touched one when it came to its end.
    """
    reader, writer = os.pipe()
    child = os.fork()  # and not a new interpreter: importing everything takes longer than all commands together
    if child == 0:
        status = 1
        try:
            count = _count_and_kill(at, desk, words)
            os.write(writer, str(count).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    assert (os.WTERMSIG(status) == signal.SIGKILL) == (at != NEVER), f"step {at} of {words}: {status}"
    return int(told or 0)


def _count_and_kill(at: int, desk: Desk, words: tuple[str, ...]) -> int:
    count, here = 0, str(desk.folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in TOUCHES and str(arguments[0]).startswith(here):
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    desk(*words)
    return count


def check_whole(desk: Desk, *devices: str) -> None:
    """Everything fits together, and every bundle is the current one of a device that the index knows."""
    assert "all is well" in desk("check")
    assert not list(desk.folder.rglob(f"{TEMPORARY}*"))
    for name in devices:
        certificate = x509.load_pem_x509_certificate(desk.bundle(name).files["certificate"].encode())
        assert f"{certificate.serial_number:x}" in {
            one["serial"].lower().lstrip("0") for one in desk.certificates(name)
        }


def check_no_orphans(desk: Desk) -> None:
    """No bundle that could be carried away holds a certificate that could not be revoked."""
    known = {one["serial"].lower().lstrip("0") for one in desk.values()["certificates"]}
    for path in (desk.folder / "bundles").glob("*.fedmq"):
        bundle = bundles.decode(path.read_bytes())
        certificate = x509.load_pem_x509_certificate(bundle.files["certificate"].encode())
        assert f"{certificate.serial_number:x}" in known


def steps(rng: random.Random, count: int) -> list[int]:
    """Return some of the steps, always with the first and the last."""
    return sorted({1, count, *rng.sample(range(1, count + 1), min(CHANCES, count))})


def test_init_killed_at_any_step(tmp_path: Path) -> None:
    words = ("init", "plant", "--broker", "localhost", "--broker", "127.0.0.1")
    count = strike(NEVER, Desk(tmp_path / "keystore"), *words)
    for at in steps(random.Random(1), count):
        desk = Desk(tmp_path / f"keystore-{at}")
        strike(at, desk, *words)
        desk.init()
        check_whole(desk)


@pytest.mark.parametrize(
    "words",
    [
        ("device", "press-03", "press-04", "press-05"),
        ("rotate", "device", "press-01"),
        ("revoke", "press-02"),
        ("rotate", "signing"),
        ("rotate", "broker"),
    ],
    ids=" ".join,
)
def test_a_command_killed_at_any_step(desk: Desk, tmp_path: Path, words: tuple[str, ...]) -> None:
    desk("device", "press-01", "press-02")
    spare = Desk(tmp_path / "spare")
    shutil.copytree(desk.folder, spare.folder)
    count = strike(NEVER, spare, *words)
    for at in steps(random.Random(str(words)), count):
        copy = Desk(tmp_path / f"keystore-{at}")
        shutil.copytree(desk.folder, copy.folder)
        strike(at, copy, *words)
        check_no_orphans(copy)
        copy("check", "--repair")
        check_whole(copy, "press-01")
        if words[1] != "signing":  # nor is it done twice: that is refused while the overlap lasts
            copy(*words)
            check_whole(copy, "press-01", *(words[1:] if words[0] == "device" else ()))


def test_many_killed_at_any_time_are_finished_by_the_next_run(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    ids = [f"pump-{number}" for number in range(1200)]
    path.write_text("\n".join(["id", *ids]), encoding="utf-8")
    folder = desk.folder / "bundles"
    words = ["device", "--csv", str(path)]
    for wanted in (150, 700):
        process = subprocess.Popen(
            [sys.executable, "-m", "fedmq", "provision", *words, "--keystore", str(desk.folder)],
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None and len(list(folder.iterdir())) < wanted:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        process.kill()
        process.wait()
        check_no_orphans(desk)

    desk(*words)

    check_whole(desk, "pump-0", "pump-1199")
    assert len(list(folder.iterdir())) == 1200
    assert len([one for one in desk.values()["certificates"] if one["role"] == "device"]) == 1200
