"""TLS apart from sockets: contexts that links share, and sessions that turn bytes into bytes.

Sessions are never resumed (docs/decisions/0021).
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from typing import TYPE_CHECKING, TypeAlias

from protocol.adapters.secret_files import path_of, read_private, read_public
from protocol.adapters.tls_faults import TlsFault, explain
from protocol.link import spelled
from protocol.settings import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from protocol.link import TlsSettings

_RECORD_BYTES = 16 * 1024
_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

MAX_CONTEXTS = 32
"""Kept for the next connection. A process has one set of files, a load generator perhaps one for each device."""

CA, CERTIFICATE, KEY = "broker.tls.ca", "broker.tls.certificate", "broker.tls.key"

_Stamp: TypeAlias = tuple[int, ...]


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return a context from what the files hold now; raise ``ConfigurationError``, naming file and cure."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _MINIMUM[settings.minimum]
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_verify_locations(cadata=read_public(settings.ca, CA).decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{CA} {path_of(settings.ca, CA)}: holds no certificate in PEM form") from exc
    if settings.certificate:
        _load_own(context, settings)
    return context


def _load_own(context: ssl.SSLContext, settings: TlsSettings) -> None:
    certificate, key = path_of(settings.certificate, CERTIFICATE), path_of(settings.key, KEY)
    read_public(settings.certificate, CERTIFICATE)
    read_private(settings.key, KEY)
    try:
        # With no password given, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedError as exc:
        text = (
            f"{KEY} {key}: is encrypted; store it without a password (openssl pkey -in ... -out ...), and chmod 600 it"
        )
        raise ConfigurationError(text) from exc
    except ssl.SSLError as exc:
        if exc.reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}:
            text = f"{KEY} {key}: is not the key of the certificate {certificate}"
        else:
            text = f"{CERTIFICATE} {certificate} or {KEY} {key}: no certificate and key in PEM form ({exc.reason})"
        raise ConfigurationError(text) from exc
    except OSError as exc:  # replaced at this very moment
        raise ConfigurationError(f"{CERTIFICATE} {certificate}: cannot be read: {exc.strerror or exc}") from exc


class _EncryptedError(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedError


class Contexts:
    """One context for all links with the same files, made anew when a file is another one than before. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], tuple[tuple[_Stamp, ...], ssl.SSLContext]] = {}

    def get(self, settings: TlsSettings) -> ssl.SSLContext:
        """Return a context that agrees with the files; raise ``ConfigurationError``."""
        key = (settings.ca, settings.certificate, settings.key, settings.minimum)
        with self._lock:
            # Looked at before they are read: a file that changes in between is read again next time.
            stamps = _stamps(settings)
            kept = self._kept.pop(key, None)
            context = kept[1] if kept is not None and kept[0] == stamps else make_context(settings)
            self._kept[key] = stamps, context
            if len(self._kept) > MAX_CONTEXTS:
                del self._kept[next(iter(self._kept))]
            return context


def _stamps(settings: TlsSettings) -> tuple[_Stamp, ...]:
    files = [path_of(settings.ca, CA)]
    if settings.certificate:
        files += [path_of(settings.certificate, CERTIFICATE), path_of(settings.key, KEY)]
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> _Stamp:
    try:
        found = file.stat()
    except (OSError, ValueError):
        return ()
    # The time of the last change of the inode goes with the mode, and cannot be set back.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


_CONTEXTS = Contexts()


class TlsSession:
    """The TLS of one connection: bytes of one side in, bytes of the other side out. It knows no socket.

    All methods but ``explain`` raise ``ssl.SSLError``; ``explain`` says what that means.
    """

    __slots__ = ("_expected", "_first", "_incoming", "_outgoing", "_over", "_settings", "_ssl")

    def __init__(self, settings: TlsSettings, host: str) -> None:
        """Raise ``ConfigurationError`` when files or names cannot be used."""
        self._settings = settings
        self._expected = settings.server_name or host
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._first = b""
        self._over: ssl.SSLError | None = None
        context = _CONTEXTS.get(settings)
        try:
            self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname=spelled(self._expected))
        except (ValueError, ssl.SSLError) as exc:
            raise ConfigurationError(f"{self._expected[:80]!r} is no name that a certificate could have") from exc

    @property
    def version(self) -> str:
        """The version that was agreed on, as in "TLSv1.3"."""
        return self._ssl.version() or ""

    def shake_hands(self, data: bytes | None = None) -> bool:
        """Go on with the handshake, with what the peer sent (``b""``: its end); return whether it is done.

        Look for ``output`` afterwards, also when it raised: alerts tell the broker why.
        """
        self._take_in(data)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    @property
    def over(self) -> bool:
        """Whether the peer has ended the stream, or broken it: what is left to ``open`` is to hear of that."""
        return self._over is not None

    def open(self, data: bytes) -> bytes | None:
        """Return what the peer's bytes say (``b""``: its end), perhaps nothing yet; None at the end of the stream.

        Look for ``output`` afterwards, also when it raised.
        """
        if self._over is None:
            self._take_in(data)
        parts: list[bytes] = []
        while self._over is None:
            try:
                part = self._ssl.read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                return b"".join(parts)
            except ssl.SSLError as exc:
                self._over = exc
            else:
                if part:
                    parts.append(part)
                else:
                    self._over = ssl.SSLZeroReturnError()
        if parts:
            return b"".join(parts)
        if isinstance(self._over, (ssl.SSLZeroReturnError, ssl.SSLEOFError)):
            return None
        raise self._over

    def seal(self, data: bytes) -> bytes:
        """Return the bytes to send for these, and for whatever TLS has to say itself."""
        if data:
            self._ssl.write(data)
        return self._outgoing.read()

    def output(self) -> bytes:
        """Return what TLS has to say by itself."""
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """Return the announcement that nothing follows (close_notify)."""
        # It raises because it wants the broker's as well, which nobody waits for; or there is nothing left to end.
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        return self._outgoing.read()

    def explain(self, exc: Exception) -> TlsFault:
        """Return in words what the exception means and what to do."""
        return explain(exc, self._settings, self._expected, self._broker_certificate(), first=self._first)

    def _take_in(self, data: bytes | None) -> None:
        if data:
            self._first = self._first or data[:1]
            self._incoming.write(data)
        elif data is not None:
            self._incoming.write_eof()

    def _broker_certificate(self) -> Mapping[str, Any]:
        # What an untrusted broker has shown. The public way to it comes with Python 3.13, and gives bytes only, which
        # would need the cryptography package to be read; this one also works there, and without it words are missing.
        try:
            chain = self._ssl._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001 - see above
            return dict(chain[0].get_info()) if chain else {}
        except (AttributeError, TypeError, ValueError, ssl.SSLError):
            return {}
