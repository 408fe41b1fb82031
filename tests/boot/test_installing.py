"""The installer on a booted board: what it leaves and takes away, and what it does with a release that is no good."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.boot.board import Board
from tests.boot.federation import CLONE, INSTALL, LATER, WHEELS, follow_the_operations, versions

AGENT = "fedmq-agent.service"
AGGREGATOR = "fedmq-aggregator.service"
QUICK = ("--patience", "12", "--settle", "4")

MAY_REMAIN = re.compile(
    r"/(root/keystore|srv/samples\.npz"  # the operator's
    r"|etc/(passwd|group|shadow|gshadow|subuid|subgid)-|etc/\.pwd\.lock"  # backups and lock of who changes users
    r"|var/log/|var/lib/(mosquitto|systemd|private)|var/cache/|var/tmp/systemd-private-|root/\.cache|etc/machine-id)"
)


def files(board: Board) -> set[str]:
    """Return all files and folders on the board's disk."""
    return set(board.run("find", "/", "-xdev").splitlines())


def current(board: Board) -> str:
    return board.run("readlink", "/opt/fedmq/venv").strip().rpartition("/")[2]


def test_uninstall_leaves_nothing(fresh: Board) -> None:
    before, users = files(fresh), fresh.run("cat", "/etc/passwd")
    follow_the_operations(fresh)
    assert len(files(fresh) - before) > 1000
    fresh.run("systemctl", "enable", "--now", "fedmq-agent@nobody", check=False)
    fresh.run(INSTALL, "uninstall", "--purge")
    left = {path for path in files(fresh) - before if not MAY_REMAIN.match(path)}
    assert left == set()
    assert before - files(fresh) == set()
    assert fresh.run("cat", "/etc/passwd") == users
    assert "fedmq" not in fresh.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "fedmq*")
    fresh.run("systemctl", "restart", "mosquitto")  # as Debian made it
    assert fresh.run(INSTALL, "uninstall", "--purge") == "nothing of it was installed\n"


def test_uninstall_keeps_what_is_the_operators_unless_told_otherwise(board: Board) -> None:
    board.run("cp", "-a", f"{CLONE}/systemd", "/root/systemd-of-a-clone")
    told = board.run("/root/systemd-of-a-clone/install", "uninstall")
    assert "kept, with the users that own it: /etc/fedmq, /var/lib/fedmq" in told
    assert board.exists("/etc/fedmq/agent.toml")
    assert board.exists("/var/lib/fedmq/agent")
    assert not board.exists("/opt/fedmq")
    for role in ("agent", "aggregator", "broker"):
        board.run(INSTALL, role, *([] if role == "broker" else ["--wheels", WHEELS]))
    before = versions(board)
    board.run("systemctl", "restart", "mosquitto")
    board.run("systemctl", "enable", "--now", "fedmq-aggregator", "fedmq-agent")
    board.wait(lambda: versions(board) > before, "the federation to go on where it was")


def test_installing_again_changes_nothing(board: Board) -> None:
    before = current(board), board.show(AGENT, "InvocationID"), board.show(AGGREGATOR, "InvocationID")
    told = board.run(INSTALL, "agent", "--wheels", WHEELS)
    assert "is the current one" in told
    assert "it runs" in told
    assert before == (current(board), board.show(AGENT, "InvocationID"), board.show(AGGREGATOR, "InvocationID"))


def test_an_upgrade_changes_what_runs_and_starts_nothing_else(board: Board) -> None:
    board.run("systemctl", "stop", AGGREGATOR)
    old, start = current(board), board.show(AGENT, "InvocationID")
    told = board.run(INSTALL, "upgrade", "--wheels", f"{LATER}/good", *QUICK)
    assert "fedmq-agent.service healthy" in told
    assert current(board).startswith("0.2.0-")
    assert old == board.run("readlink", "/opt/fedmq/previous").strip().rpartition("/")[2]
    assert board.show(AGENT, "InvocationID") != start
    assert board.show(AGGREGATOR, "ActiveState") == "inactive"
    assert current(board) in board.run(
        "readlink", f"/proc/{board.show(AGENT, 'MainPID')}/exe", check=False
    ) + board.run("sh", "-c", f"tr '\\0' ' ' < /proc/{board.show(AGENT, 'MainPID')}/cmdline")
    assert not board.exists("/opt/fedmq/probation.json")
    assert not board.exists("/etc/systemd/system/fedmq-resume.service")


def test_an_upgrade_is_undone_when_the_operator_says_so(board: Board) -> None:
    old = current(board)
    board.run(INSTALL, "upgrade", "--wheels", f"{LATER}/good", *QUICK)
    assert current(board) != old
    told = board.run("/opt/fedmq/venv/systemd/install", "undo", *QUICK)
    assert f"version {old} is the current one again" in told
    assert current(board) == old
    board.wait_active(AGENT)
    board.wait_active(AGGREGATOR)
    before = versions(board)
    board.wait(lambda: versions(board) > before, "the federation to go on")


@pytest.mark.parametrize("release", ["crashing", "silent", "flapping"])
def test_an_upgrade_that_is_no_good_goes_back_by_itself(board: Board, release: str) -> None:
    old, kept = current(board), board.run("ls", "/opt/fedmq/versions")
    done = board.start(INSTALL, "upgrade", "--wheels", f"{LATER}/{release}", *QUICK)
    assert done.returncode == 1, done.stdout
    assert f"went back to version {old}" in done.stdout
    assert current(board) == old
    board.wait_active(AGENT)
    board.wait_active(AGGREGATOR)
    before = versions(board)
    board.wait(lambda: versions(board) > before, "the federation to go on")
    assert board.run("ls", "/opt/fedmq/versions") == kept
    assert not board.exists("/etc/systemd/system/fedmq-resume.service")


def begin_upgrade(board: Board, release: str) -> subprocess.Popen[str]:
    command = board.inside(INSTALL, "upgrade", "--wheels", f"{LATER}/{release}", "--patience", "60", "--settle", "30")
    begun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    board.wait(lambda: board.exists("/opt/fedmq/probation.json"), "the new version to be on probation")
    return begun


def test_an_upgrade_that_is_killed_is_decided_by_the_next_run(board: Board) -> None:
    old = current(board)
    begun = begin_upgrade(board, "flapping")
    kill_installer(board)
    begun.wait()
    assert board.exists("/opt/fedmq/probation.json")
    done = board.start(INSTALL, "resume", *QUICK)
    assert done.returncode == 1, done.stdout
    assert current(board) == old
    board.wait_active(AGENT)


def test_a_power_cut_in_an_upgrade_is_decided_at_the_next_boot(board: Board) -> None:
    old = current(board)
    begun = begin_upgrade(board, "crashing")
    board.wait(lambda: current(board) != old, "the switch")
    board.run("sync")
    board.cut_power()
    begun.wait()
    board.boot()
    board.wait(lambda: current(board) == old, "the old version to be back", patience_s=240)
    board.wait_active(AGENT)
    board.wait(lambda: not board.exists("/opt/fedmq/probation.json"), "the decision to be written down")
    board.wait(lambda: not board.exists("/etc/systemd/system/fedmq-resume.service"), "the unit to be gone")


def test_an_installation_that_is_killed_is_finished_by_the_next_run(fresh: Board) -> None:
    before = files(fresh)
    lock = ("flock", "--nonblock", "/opt")
    for path in ("/opt/fedmq/versions/*/bin/pip", "/opt/fedmq/versions/*/lib/python3*/site-packages/numpy"):
        begun = subprocess.Popen(fresh.inside(INSTALL, "agent", "--wheels", WHEELS))
        fresh.wait(lambda path=path: fresh.start("sh", "-c", f"ls -d {path}").returncode == 0, path)  # type: ignore[misc]
        kill_installer(fresh)
        begun.wait()
        assert not fresh.exists("/opt/fedmq/venv")
        # pip, which was not killed, keeps the next run out until it ends.
        fresh.wait(lambda: fresh.start(*lock, "true").returncode == 0, "the lock")
    fresh.run(INSTALL, "agent", "--wheels", WHEELS)
    assert len(fresh.run("ls", "/opt/fedmq/versions").split()) == 1
    fresh.run("fedmq-agent", "--help")
    fresh.run(INSTALL, "uninstall")
    assert {path for path in files(fresh) - before if not MAY_REMAIN.match(path)} == set()


def test_what_is_missing_is_said_and_nothing_is_changed(fresh: Board) -> None:
    before = files(fresh)
    offline = fresh.start(INSTALL, "agent")
    assert offline.returncode == 1
    assert "Without a network" in offline.stdout
    no_root = fresh.start("runuser", "-u", "mosquitto", "--", INSTALL, "agent")
    assert (no_root.returncode, "run it with sudo" in no_root.stdout) == (1, True), no_root.stdout
    nothing = fresh.start(INSTALL, "upgrade", "--wheels", WHEELS)
    assert "nothing is installed here" in nothing.stdout
    fresh.run("mv", "/usr/lib/python3.11/ensurepip", "/usr/lib/python3.11/ensurepip-away")
    no_venv = fresh.start(INSTALL, "agent", "--wheels", WHEELS)
    assert "apt install python3-venv" in no_venv.stdout
    fresh.run("mv", "/usr/lib/python3.11/ensurepip-away", "/usr/lib/python3.11/ensurepip")
    fresh.run("mv", "/usr/sbin/mosquitto", "/usr/sbin/mosquitto-away")
    assert "apt install mosquitto" in fresh.start(INSTALL, "broker").stdout
    fresh.run("mv", "/usr/sbin/mosquitto-away", "/usr/sbin/mosquitto")
    assert {path for path in files(fresh) ^ before if not MAY_REMAIN.match(path)} == set()


def kill_installer(board: Board) -> None:
    """Kill the installer itself: what it has started, and nsenter on the host, end or do not end by themselves."""
    script = """
import os, signal
for entry in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{entry}/cmdline", "rb").read().split(b"\\0")
    except OSError:
        continue  # it has ended since
    if b"fedmq_installer" in words:
        os.kill(int(entry), signal.SIGKILL)
"""
    board.run("python3", "-c", script)
