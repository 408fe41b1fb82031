"""The operator's way to a running aggregator: a Unix socket in the state directory, one JSON line each way.

Only the owner of the state directory (and root) can open it. A connection is one request; requests are served one
after the other, so that nothing here can grow, and each under a time limit, so that none can hold up the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from aggregator.adapters.errors import StoreError, StoreRefused
from aggregator.adapters.registry import NotKept
from aggregator.commands import Reply
from aggregator.events import (
    CanaryAction,
    CanaryRequested,
    DeviceCommandRequested,
    OperatorEvent,
    QuarantineRequested,
    RollbackRequested,
    StatusRequested,
    SurveyCloseRequested,
    SurveyRequested,
)
from protocol.fields import Count, Fraction, Identifier, Token, Version
from protocol.messages import CommandAction
from protocol.surveys import AskedKind

log = logging.getLogger(__name__)

SOCKET_NAME = "control.sock"
MAX_LINE_BYTES = 64 * 1024
"""A status of a large fleet's refusals fits many times over."""

READ_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 30.0
"""The worker may be evaluating a version, or waiting for a disk."""

_MAX_PATH_BYTES = 107
"""What fits into a socket address."""


class StatusRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="request", tag="status"):
    """Asks for the figures."""


class RollbackRequest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="request", tag="rollback"
):
    """Asks for an older version's parameters as a new version."""

    version: Version


class CommandRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="request", tag="command"):
    """Asks to command a device, or all."""

    device: Identifier | None
    """None: all of them."""
    action: CommandAction


class QuarantineRequest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="request", tag="quarantine"
):
    """Asks to look at nothing of a device, for this reason; without a reason, to release it."""

    device: Identifier
    reason: Annotated[str, Meta(max_length=300)] = ""


class SurveyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="request", tag="survey"):
    """Asks to ask the fleet."""

    kind: AskedKind
    fraction: Fraction = 1.0
    min_examples: Count = 1


class SurveyCloseRequest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="request", tag="survey-close"
):
    """Asks to ask no more."""

    survey: Token


class CanaryRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="request", tag="canary"):
    """Asks to decide on the candidate."""

    action: CanaryAction


Request: TypeAlias = (
    StatusRequest
    | RollbackRequest
    | CommandRequest
    | QuarantineRequest
    | SurveyRequest
    | SurveyCloseRequest
    | CanaryRequest
)


class Answer(Struct, frozen=True, kw_only=True):
    """What comes back: a result, or why there is none."""

    result: dict[str, Any] = {}
    error: str = ""


class NotRunning(Exception):  # noqa: N818 - a state of affairs
    """No aggregator listens in this state directory."""


class ControlFailed(Exception):  # noqa: N818 - an answer
    """The aggregator said no, or did not answer; the text says which."""


class Control:
    """Listens until ``close``. ``put`` takes the requests as events, ``reply`` brings their answers."""

    def __init__(
        self, directory: Path, put: Callable[[OperatorEvent], None], parameters_of: Callable[[int], bytes]
    ) -> None:
        self._path = directory / SOCKET_NAME
        self._put = put
        self._parameters_of = parameters_of
        self._waiting: dict[str, queue.SimpleQueue[Reply]] = {}
        self._closing = False
        self._socket = _listening(directory)
        self._thread = threading.Thread(target=self._serve, name="fedmq-control", daemon=True)
        self._thread.start()

    def reply(self, reply: Reply) -> None:
        """Pass an answer on to whoever waits for it; from the worker's thread."""
        waiting = self._waiting.get(reply.request_id)
        if waiting is not None:
            waiting.put(reply)

    def close(self) -> None:
        """Listen no more, and remove the socket."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._path.unlink()
        # Wakes the thread out of accept(); closing the descriptor under it would not.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(READ_TIMEOUT_S)
        self._socket.close()

    def _serve(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._socket.accept()
            except OSError as exc:
                if not self._closing:
                    log.error(f"the control socket failed: {exc}")  # noqa: TRY400 - the traceback says no more
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(READ_TIMEOUT_S)
                connection.sendall(msgspec.json.encode(self._answer(connection)) + b"\n")

    def _answer(self, connection: socket.socket) -> Answer:
        try:
            request: Request = msgspec.json.decode(_line(connection), type=Request)
            event = self._event(request)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            return Answer(error=f"not a request: {exc}"[:400])
        except (NotKept, StoreError, StoreRefused) as exc:
            return Answer(error=str(exc))
        waiting: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._waiting[event.request_id] = waiting
        try:
            self._put(event)
            reply = waiting.get(timeout=REPLY_TIMEOUT_S)
        except queue.Empty:
            return Answer(error=f"no answer within {REPLY_TIMEOUT_S:g} s; the aggregator is busy, look at its log")
        finally:
            del self._waiting[event.request_id]
        return Answer(result=reply.body, error=reply.error)

    def _event(self, request: Request) -> OperatorEvent:  # noqa: PLR0911 - a table of requests
        request_id = secrets.token_hex(8)
        match request:
            case StatusRequest():
                return StatusRequested(request_id=request_id)
            case RollbackRequest(version=version):
                # Read here, not by the worker: updates do not wait for it.
                parameters = self._parameters_of(version)
                return RollbackRequested(request_id=request_id, target=version, parameters=parameters)
            case CommandRequest(device=device, action=action):
                return DeviceCommandRequested(request_id=request_id, device_id=device or "", action=action)
            case QuarantineRequest(device=device, reason=reason):
                return QuarantineRequested(request_id=request_id, device_id=device, reason=reason)
            case SurveyRequest(kind=kind, fraction=fraction, min_examples=least):
                return SurveyRequested(request_id=request_id, kind=kind, fraction=fraction, min_examples=least)
            case SurveyCloseRequest(survey=survey):
                return SurveyCloseRequested(request_id=request_id, survey=survey)
            case CanaryRequest(action=action):
                return CanaryRequested(request_id=request_id, action=action)


def ask(directory: Path, request: Request) -> dict[str, Any]:
    """Return the running aggregator's answer; raise ``NotRunning`` or ``ControlFailed``."""
    path = directory / SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(REPLY_TIMEOUT_S + 2 * READ_TIMEOUT_S)
        try:
            with _address(directory) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as exc:
            raise NotRunning(f"no aggregator is running with state_dir {directory}") from exc
        except OSError as exc:
            raise ControlFailed(f"{path}: {exc.strerror or exc}") from exc
        try:
            connection.sendall(msgspec.json.encode(request) + b"\n")
            answer = msgspec.json.decode(_line(connection), type=Answer)
        except (OSError, msgspec.DecodeError) as exc:
            raise ControlFailed(f"the aggregator ended, or did not answer in time: {exc}") from exc
    if answer.error:
        raise ControlFailed(answer.error)
    return answer.result


def _listening(directory: Path) -> socket.socket:
    path = directory / SOCKET_NAME
    # Left there by a process that was killed: whoever holds the directory's lock is alone here.
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Before bind, which makes the file with this mode: there is no moment in which others could open it.
        os.fchmod(listener.fileno(), 0o600)
        with _address(directory) as address:
            listener.bind(address)
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _address(directory: Path) -> Iterator[str]:
    """Give the socket's path, or a short way to it when the path is too long for an address."""
    path = directory / SOCKET_NAME
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield str(path)
        return
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


def _line(connection: socket.socket) -> bytes:
    """Return what comes up to the line's end; raise ``TimeoutError`` when the whole takes too long."""
    limit = connection.gettimeout()
    deadline = time.monotonic() + limit if limit is not None else None
    line = bytearray()
    while not line.endswith(b"\n"):
        if deadline is not None:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
        piece = connection.recv(65536)
        if not piece or len(line) + len(piece) > MAX_LINE_BYTES:
            raise OSError("the line is too long, or ends too early")
        line += piece
    connection.settimeout(limit)
    return bytes(line)
