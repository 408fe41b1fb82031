"""Fixtures that all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

pytest_plugins = [
    "tests.support.broker",
    "tests.support.certificates",
    "tests.support.links",
    "tests.support.manager",
]


@pytest.fixture(autouse=True)
def _the_log_as_it_was() -> Iterator[None]:
    """Take away what a command that was run within a test has set up: its stream is closed after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
