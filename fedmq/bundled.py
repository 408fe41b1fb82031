"""A monitor's bundle, opened for as long as a command runs: TLS wants files, so they lie in a private folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from protocol import bundles
from protocol.errors import ProtocolError
from protocol.link import BrokerSettings, TlsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


class BundleError(RuntimeError):
    """A file that is no monitor's bundle; the text says why."""


@contextlib.contextmanager
def opened(path: Path, address: BrokerSettings | None) -> Iterator[tuple[BrokerSettings, str]]:
    """Yield how to reach the bundle's broker, or the one at ``address``, and the federation's name."""
    bundle = _read(path)
    with tempfile.TemporaryDirectory(prefix="fedmq-monitor-") as folder:
        names = {part: str(Path(folder) / name) for part, name in bundles.FILE_NAMES.items()}
        for part in ("ca", "certificate", "key"):
            with os.fdopen(os.open(names[part], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(bundle.files[part])
        tls = TlsSettings(ca=names["ca"], certificate=names["certificate"], key=names["key"])
        host, port = (address.host, address.port) if address else (bundle.host, bundle.port)
        yield BrokerSettings(host=host, port=port, tls=tls, reconnect_max_s=5.0), bundle.federation


def _read(path: Path) -> bundles.Bundle:
    try:
        with path.open("rb") as file:
            bundle = bundles.decode(file.read(bundles.MAX_BUNDLE_BYTES + 1))
    except OSError as exc:
        raise BundleError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ProtocolError as exc:
        raise BundleError(f"{path}: {exc}") from exc
    if bundle.role != "monitor":
        raise BundleError(
            f"{path}: the bundle of device {bundle.name}; watching takes a monitor's (fedmq provision monitor NAME)"
        )
    return bundle
