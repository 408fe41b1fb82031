"""Keystores for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.provision.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A keystore that is made already."""
    made = Desk(tmp_path / "keystore")
    made.init()
    return made
