"""Fixtures that all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import hypothesis
import pytest

# Judged by what comes out, not by how long it takes: a machine may be slow. And the same examples everywhere, so that
# what held here holds there; --hypothesis-profile=explore looks for others.
_PATIENT = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], database=None)
hypothesis.settings.register_profile("fixed", _PATIENT, derandomize=True)
hypothesis.settings.register_profile("explore", _PATIENT)
hypothesis.settings.load_profile("fixed")

pytest_plugins = [
    "tests.support.broker",
    "tests.support.certificates",
    "tests.support.links",
    "tests.support.manager",
    "tests.support.standins",
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
