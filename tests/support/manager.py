"""The service manager's end of sd_notify(3): a real socket, and what came to it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fedmq.embedded_broker import EmbeddedBroker
from tests.support.patience import PATIENCE_S


class Manager:
    """Reads what a process tells, at once, as systemd does: a socket holds ten messages, and the rest would be lost."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[str] = []
        self._read = 0
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._listen, name="manager", daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Closing alone would not wake the thread.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        self._thread.join(PATIENCE_S)
        self._socket.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while message := self._socket.recv(65536):
                with self._changed:
                    self.messages.append(message.decode())
                    self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        """All assignments so far, in order."""
        return [line for message in self.messages for line in message.splitlines()]

    @property
    def statuses(self) -> list[str]:
        return [line.removeprefix("STATUS=") for line in self.lines if line.startswith("STATUS=")]

    def read(self, timeout_s: float = PATIENCE_S) -> str | None:
        """Return the next message that was not read yet; None when there is none in this time."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.messages) > self._read, timeout_s):
                return None
            self._read += 1
            return self.messages[self._read - 1]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"not told in {PATIENCE_S:g} s: {what}; told was {self.messages[-20:]}"
            self.read(left_s)

    def wait_for_line(self, line: str) -> None:
        self.wait(lambda: line in self.lines, line)

    def wait_for_status(self, *words: str) -> None:
        self.wait(lambda: any(all(word in status for word in words) for status in self.statuses), f"status {words}")

    def pings(self, more: int) -> None:
        """Wait until the watchdog was fed so many times more."""
        wanted = self.lines.count("WATCHDOG=1") + more
        self.wait(lambda: self.lines.count("WATCHDOG=1") >= wanted, f"{more} more WATCHDOG=1")

    def wait_for_hunger(self, watchdog_s: float) -> None:
        """Return when the watchdog was not fed for its time: that is when systemd kills the process."""
        deadline = time.monotonic() + PATIENCE_S
        fed_at = time.monotonic()
        while (now := time.monotonic()) < fed_at + watchdog_s:
            assert now < deadline, f"the watchdog is still fed; told was {self.messages[-20:]}"
            message = self.read(fed_at + watchdog_s - now)
            if message is not None and "WATCHDOG=1" in message.splitlines():
                fed_at = time.monotonic()


@pytest.fixture
def manager(mosquitto: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """Listen where processes that the test starts will talk to. The broker runs already: it, too, would say READY."""
    assert mosquitto.port
    # Not below tmp_path: an address has at most 107 characters.
    found = Manager(f"@fedmq-test-{os.getpid()}-{secrets.token_hex(4)}")
    monkeypatch.setenv("NOTIFY_SOCKET", found.address)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield found
    found.close()
