"""One secure broker for all tests of a module that change nothing on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedmq.embedded_broker import EmbeddedBroker
from tests.support.secure import Keys, secure_broker


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedBroker, Keys]]:
    with secure_broker(tmp_path_factory.mktemp("secured"), monitors=("wall",), bridges=("north",)) as running:
        yield running
