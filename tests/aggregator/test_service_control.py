"""The control socket: private, bounded, and not to be held up."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from aggregator.adapters import control as control_module
from aggregator.adapters.control import (
    SOCKET_NAME,
    CommandRequest,
    Control,
    ControlFailed,
    NotRunning,
    RollbackRequest,
    StatusRequest,
    ask,
)
from aggregator.adapters.registry import NotKept
from aggregator.commands import Reply
from aggregator.events import DeviceCommandRequested, OperatorEvent, RollbackRequested, StatusRequested


class Worker:
    """Stands for the service: answers each request at once."""

    def __init__(self, directory: Path) -> None:
        self.events: list[OperatorEvent] = []
        self.answer: Callable[[OperatorEvent], Reply | None] = lambda event: Reply(
            request_id=event.request_id, body={"ok": True}
        )
        self.control = Control(directory, self._put, self._parameters)

    def _put(self, event: OperatorEvent) -> None:
        self.events.append(event)
        reply = self.answer(event)
        if reply:
            self.control.reply(reply)

    @staticmethod
    def _parameters(version: int) -> bytes:
        if version > 5:
            raise NotKept(f"there is no version {version}")
        return b"four" * version


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path)
    yield made
    made.control.close()


def raw(directory: Path, line: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20.0)
        connection.connect(str(directory / SOCKET_NAME))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        answer: dict[str, object] = msgspec.json.decode(connection.makefile("rb").readline())
        return answer


def test_requests_become_events(worker: Worker, tmp_path: Path) -> None:
    assert ask(tmp_path, StatusRequest()) == {"ok": True}
    ask(tmp_path, RollbackRequest(version=3))
    ask(tmp_path, CommandRequest(device="press-01", action="pause"))
    ask(tmp_path, CommandRequest(device=None, action="resume"))

    status, rollback, one, everyone = worker.events
    assert isinstance(status, StatusRequested)
    assert isinstance(rollback, RollbackRequested)
    assert (rollback.target, rollback.parameters) == (3, b"four" * 3)
    assert isinstance(one, DeviceCommandRequested)
    assert (one.device_id, one.action) == ("press-01", "pause")
    assert isinstance(everyone, DeviceCommandRequested)
    assert everyone.device_id == ""
    assert len({event.request_id for event in worker.events}) == 4


def test_a_refusal_comes_back(worker: Worker, tmp_path: Path) -> None:
    worker.answer = lambda event: Reply(request_id=event.request_id, error="not today")
    with pytest.raises(ControlFailed, match="not today"):
        ask(tmp_path, StatusRequest())
    with pytest.raises(ControlFailed, match="no version 9"):
        ask(tmp_path, RollbackRequest(version=9))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[1, 2]\n",
        b"\xff\xfe\n",
        b'{"request": "reboot"}\n',
        b'{"request": "rollback"}\n',
        b'{"request": "rollback", "version": -1}\n',
        b'{"request": "rollback", "version": true}\n',
        b'{"request": "command", "device": "a/b", "action": "pause"}\n',
        b'{"request": "command", "device": "a", "action": "explode"}\n',
        b'{"request": "status", "more": 1}\n',
        b"[" * 60_000 + b"\n",
    ],
)
def test_nonsense_is_answered_and_reaches_nobody(worker: Worker, tmp_path: Path, line: bytes) -> None:
    try:
        assert raw(tmp_path, line)["error"]
    except (msgspec.DecodeError, OSError):
        assert not line.endswith(b"\n")  # it ended too early to be answered
    assert worker.events == []
    assert ask(tmp_path, StatusRequest()) == {"ok": True}


def test_a_client_that_says_nothing_holds_up_nobody_for_long(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "READ_TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as endless:
        for client in (silent, endless):
            client.connect(str(tmp_path / SOCKET_NAME))
        endless.settimeout(1.0)
        endless.sendall(b"x" * (control_module.MAX_LINE_BYTES + 1000))
        assert ask(tmp_path, StatusRequest()) == {"ok": True}
    assert len(worker.events) == 1


def test_no_answer_in_time(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "REPLY_TIMEOUT_S", 0.1)
    worker.answer = lambda _event: None
    with pytest.raises(ControlFailed, match="no answer within"):
        ask(tmp_path, StatusRequest())
    # A reply that comes too late is nobody's.
    worker.control.reply(Reply(request_id=worker.events[0].request_id))
    worker.answer = lambda event: Reply(request_id=event.request_id, body={"late": False})
    assert ask(tmp_path, StatusRequest()) == {"late": False}


def test_only_the_owner_can_open_it(worker: Worker, tmp_path: Path) -> None:
    assert worker
    assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600


def test_a_stale_socket_is_replaced_and_a_closed_one_is_gone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    with pytest.raises(NotRunning):
        ask(tmp_path, StatusRequest())
    worker = Worker(tmp_path)
    assert ask(tmp_path, StatusRequest()) == {"ok": True}
    worker.control.close()
    assert not (tmp_path / SOCKET_NAME).exists()
    assert not any(thread.name == "fedmq-control" for thread in threading.enumerate())
    with pytest.raises(NotRunning):
        ask(tmp_path, StatusRequest())


def test_a_state_dir_with_a_long_name(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    with pytest.raises(NotRunning):
        ask(deep, StatusRequest())
    worker = Worker(deep)
    assert (deep / SOCKET_NAME).is_socket()
    assert ask(deep, StatusRequest()) == {"ok": True}
    worker.control.close()
    assert not (deep / SOCKET_NAME).exists()


def test_without_a_state_dir(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        ask(tmp_path / "nowhere", StatusRequest())
    with pytest.raises(NotRunning):
        ask(tmp_path / ("n" * 110), StatusRequest())
