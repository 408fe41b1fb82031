"""Boards in layers: Debian; on it fedmq, installed as docs/operations.md says; on that what a test does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot.board import Board
from tests.boot.federation import LATER, RELEASES, ROOT, WHEELS, changed_wheels, follow_the_operations, make_wheels

CACHE = Path(os.environ.get("FEDMQ_BOOT_CACHE", "/var/cache/fedmq-boot"))
PACKAGES = "systemd,systemd-sysv,procps,python3,python3-venv,mosquitto,mosquitto-clients,openssl,ca-certificates"
MIRROR = "http://deb.debian.org/debian"

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.boot)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def debian() -> Path:
    """A fresh Debian 12 with Mosquitto, made once and kept."""
    if os.geteuid() != 0:
        pytest.skip("booting a systemd in namespaces takes root: sudo ./scripts/test-boot")
    for program in ("unshare", "nsenter", "debootstrap"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt install util-linux debootstrap")
    tree = CACHE / "debian"
    if not (tree / "complete").exists():
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", tree / "root", MIRROR], check=True
        )
        (tree / "root" / "etc" / "hosts").write_text("127.0.0.1 localhost fedmq-board\n")
        (tree / "complete").touch()
    return tree / "root"


@pytest.fixture(scope="session")
def wheels() -> Path:
    """fedmq and all it needs as wheels: the boards have no network."""
    return make_wheels(CACHE / "wheels")


@pytest.fixture(scope="session")
def releases(wheels: Path, workshop: Path) -> Path:
    """Later releases: one that is good, and some that are not."""
    folder = workshop / "releases"
    folder.mkdir()
    for name, (version, edits) in RELEASES.items():
        changed_wheels(folder / name, wheels, version, edits)
    return folder


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """On a disk: an overlay's upper layer cannot lie on every file system."""
    folder = CACHE / f"boards-{os.getpid()}"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class Ground:
    """What all boards stand on; ``board`` makes one more."""

    debian: Path
    clone: Path
    wheels: Path
    releases: Path
    workshop: Path

    def board(self, name: str, *layers: Path) -> Board:
        shared = [(self.clone, "fedmq"), (self.wheels, Path(WHEELS).name), (self.releases, Path(LATER).name)]
        return Board(self.workshop / name[:60], [*layers, self.debian], shared)


@pytest.fixture(scope="session")
def ground(debian: Path, workshop: Path, wheels: Path, releases: Path) -> Ground:
    try:
        with Board(workshop / "trial", [debian]):
            pass
    except AssertionError as exc:
        pytest.skip(f"no systemd can be booted in namespaces here: {exc}")
    return Ground(debian, copied_clone(workshop / "clone"), wheels, releases, workshop)


def copied_clone(target: Path) -> Path:
    """Copy what a clone would have: who goes on working in this one does not change what is under test."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture
def fresh(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Board]:
    """A board with nothing of fedmq; the clone and the wheels are in /run/host."""
    with ground.board(request.node.name) as board:
        yield board


@pytest.fixture(scope="session")
def enrolled_layer(ground: Ground) -> Path:
    """Broker, aggregator and agent on one board, over TLS, signed and sealed; the services are enabled."""
    with ground.board("enrolled") as board:
        follow_the_operations(board)
        board.power_off()
    return board.upper


@pytest.fixture
def board(ground: Ground, enrolled_layer: Path, request: pytest.FixtureRequest) -> Iterator[Board]:
    """A board that takes part, just booted."""
    with ground.board(request.node.name, enrolled_layer) as made:
        made.wait_active("fedmq-aggregator.service")
        made.wait_active("fedmq-agent.service")
        yield made
