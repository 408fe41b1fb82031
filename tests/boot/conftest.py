"""Boards in layers: Debian; on it fedmq, installed and enrolled as docs/operations.md says; on that what a test does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.boot.board import Board
from tests.boot.federation import ROOT, WHEELS, follow_the_operations, make_wheels

CACHE = Path(os.environ.get("FEDMQ_BOOT_CACHE", "/var/cache/fedmq-boot"))
PACKAGES = "systemd,systemd-sysv,python3,python3-venv,mosquitto,mosquitto-clients,openssl,ca-certificates"
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
def workshop() -> Iterator[Path]:
    """On a disk: an overlay's upper layer cannot lie on every file system."""
    folder = CACHE / f"boards-{os.getpid()}"
    folder.mkdir(parents=True)
    yield folder
    if "--keep-boards" not in sys.argv:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def can_boot(debian: Path, workshop: Path) -> None:
    try:
        with Board(workshop / "trial", [debian]):
            pass
    except AssertionError as exc:
        pytest.skip(f"no systemd can be booted in namespaces here: {exc}")


Maker = Callable[[str], Board]


@pytest.fixture
def fresh(debian: Path, wheels: Path, workshop: Path, can_boot: None, request: pytest.FixtureRequest) -> Iterator[Board]:
    """A board with nothing of fedmq; the clone and the wheels are in /run/host."""
    with Board(workshop / request.node.name[:60], [debian], shared(wheels)) as board:
        yield board


@pytest.fixture(scope="session")
def enrolled_layer(debian: Path, wheels: Path, workshop: Path, can_boot: None) -> Path:
    """Broker, aggregator and agent on one board, over TLS, signed and sealed; the services are enabled."""
    with Board(workshop / "enrolled", [debian], shared(wheels)) as board:
        follow_the_operations(board)
        board.power_off()
    return board.upper


@pytest.fixture
def board(
    debian: Path, wheels: Path, workshop: Path, enrolled_layer: Path, request: pytest.FixtureRequest
) -> Iterator[Board]:
    """A board that takes part, just booted."""
    with Board(workshop / request.node.name[:60], [enrolled_layer, debian], shared(wheels)) as made:
        made.wait_active("fedmq-aggregator.service")
        made.wait_active("fedmq-agent.service")
        yield made


def shared(wheels: Path) -> list[tuple[Path, str]]:
    return [(ROOT, "fedmq"), (wheels, WHEELS.rpartition("/")[2])]
