"""Keystores for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.provision.desk import Desk
from tests.provision.plant import Plant


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A keystore that is made already."""
    made = Desk(tmp_path / "keystore")
    made.init()
    return made


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with ExitStack() as stack:
        made = Plant(tmp_path)
        stack.callback(made.child.kill)
        made.desk("device", "press-01", "press-02", "witness")
        yield made
