"""Two aggregators, by mistake, with one certificate, on a broker that gives sessions by certificate."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from aggregator.presence import EXIT_NOT_ALONE
from fedmq.embedded_broker import start
from tests.support.federation import Federation, wait_until
from tests.support.patience import PATIENCE_S

SPEAKS = "'fedmq/v1/test/aggregator/state'"
"""In Mosquitto's log: somebody published the state."""


class Named(Federation):
    """Everybody is the same user."""

    def _aggregator_toml(self, name: str) -> str:
        named = f'[broker]\nusername = "one"\npassword_file = "{self.directory}/password"\n'
        return super()._aggregator_toml(name).replace("[broker]\n", named)


def test_the_second_ends_and_the_first_goes_on(tmp_path: Path) -> None:
    salt = b"a fixed salt"
    digest = hashlib.pbkdf2_hmac("sha512", b"letmein", salt, 101)
    line = f"one:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"
    (tmp_path / "passwords").write_text(line)
    (tmp_path / "password").write_text("letmein\n")
    (tmp_path / "password").chmod(0o600)
    extra = (
        f"allow_anonymous false\npassword_file {tmp_path / 'passwords'}\nuse_username_as_clientid true\nlog_type all\n"
    )
    with (
        start("mosquitto", tmp_path / "broker", extra=extra) as broker,
        Named(tmp_path, broker.port) as federation,
    ):
        first = federation.start_aggregator("aggregator")
        # Only then has it found that it is alone: of two that still ask, either may stay.
        wait_until(lambda: SPEAKS in broker.log.read_text(errors="replace"), "the first one is active")
        second = federation.start_aggregator("aggregator-2")
        assert second.wait(PATIENCE_S) == EXIT_NOT_ALONE
        assert "another aggregator" in federation.log("aggregator-2")
        assert first.poll() is None
        assert federation.stop("aggregator") == 0
