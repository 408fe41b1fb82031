"""All files of a federation's broker, as texts: ``files`` is what ``fedmq provision`` and the tests call."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import PurePosixPath

from broker_config import names
from broker_config.acl import access_control
from broker_config.bridging import bridge_configuration

CONFIGURATION = "fedmq.conf"
"""The file for Mosquitto's ``conf.d``; it names all others."""
ACCESS_CONTROL = "acl"
DROP_IN = "mosquitto.service.conf"
"""For ``/etc/systemd/system/mosquitto.service.d/fedmq.conf``."""

AUTHORITY, CERTIFICATE, KEY, REVOKED = "ca.crt", "broker.crt", "broker.key", "crl.pem"
"""What has to lie in the same folder besides: they are secrets, or change, and are made elsewhere."""

DIRECTORY = "/etc/mosquitto/fedmq"
MAX_PORT = 65535


def files(
    federation: str,
    *,
    monitors: Iterable[str] = (),
    bridges: Iterable[str] = (),
    revoked: Iterable[str] = (),
    directory: str = DIRECTORY,
    port: int = 8883,
    address: str = "",
    local_port: int | None = None,
) -> dict[str, str]:
    """Return file names with their texts: Mosquitto's configuration, its ACL, and the drop-in for its systemd unit.

    The broker expects them in ``directory``, with ``ca.crt``, ``broker.crt``, ``broker.key`` and ``crl.pem``, and
    listens on ``port`` of ``address``, by default of all interfaces. The sites of ``bridges`` get their files from
    ``site_files``. Clients with the common names ``revoked`` may do nothing, even while still connected: give only
    names of which no certificate is good any more. ``local_port`` opens a listener on the loopback interface for
    anonymous readers; see broker_config/README.md before you do. Raise ``NameRefusedError`` for names that are no
    identifiers, ``ValueError`` for the rest.
    """
    local = local_port is not None
    acl = access_control(federation, monitors=monitors, bridges=bridges, revoked=revoked, local=local)
    return _common(federation, acl, _checked_folder(directory), _listener(port, address), local_port)


def site_files(
    federation: str,
    name: str,
    *,
    hub: str,
    hub_port: int = 8883,
    monitors: Iterable[str] = (),
    revoked: Iterable[str] = (),
    directory: str = DIRECTORY,
    port: int = 8883,
    address: str = "",
) -> dict[str, str]:
    """Return the files of a site's broker whose devices take part, through bridge ``name``, in a federation at ``hub``.

    As ``files``, and ``bridge-NAME.conf``, which goes into ``conf.d`` too. ``hub`` must be a name or an address in the
    certificate of the hub's broker. In ``directory`` the broker expects ``bridge-NAME.crt`` and ``.key`` besides.
    """
    folder = _checked_folder(directory)
    acl = access_control(federation, monitors=monitors, uplink=name, revoked=revoked)
    texts = _common(federation, acl, folder, _listener(port, address), None)
    texts[f"bridge-{name}.conf"] = bridge_configuration(federation, name, folder, hub, _checked_port(hub_port))
    return texts


def _common(federation: str, acl: str, folder: PurePosixPath, listener: str, local_port: int | None) -> dict[str, str]:
    return {
        CONFIGURATION: _configuration(federation, folder, listener, local_port),
        ACCESS_CONTROL: acl,
        DROP_IN: _shipped("service.template").format(**_paths(folder)),
    }


def _configuration(federation: str, folder: PurePosixPath, listener: str, local_port: int | None) -> str:
    secure = _shipped("listener.template").format(
        federation=names.checked(federation, "federation"),
        listener=listener,
        anonymous="false" if local_port is None else "true",
        **_paths(folder),
    )
    local = "" if local_port is None else "\n" + _shipped("local.template").format(port=_checked_port(local_port))
    return secure + local + "\n" + _shipped("limits.conf")


def _paths(folder: PurePosixPath) -> dict[str, PurePosixPath]:
    return {
        "acl": folder / ACCESS_CONTROL,
        "authority": folder / AUTHORITY,
        "certificate": folder / CERTIFICATE,
        "key": folder / KEY,
        "revoked": folder / REVOKED,
    }


def _shipped(name: str) -> str:
    return resources.files("broker_config").joinpath(name).read_text(encoding="utf-8")


def _checked_folder(directory: str) -> PurePosixPath:
    folder = PurePosixPath(directory)
    # It is written into a unit and a shell command as well.
    if not folder.is_absolute() or not all(character.isalnum() or character in "/._-+" for character in directory):
        raise ValueError(f"{directory!r} is not the absolute path of a folder, of letters, digits and / . _ - +")
    return folder


def _checked_port(port: int) -> int:
    if not 1 <= port <= MAX_PORT:
        raise ValueError(f"port {port} is not from 1 to {MAX_PORT}")
    return port


def _listener(port: int, address: str) -> str:
    if address and not all(character.isalnum() or character in ".-:" for character in address):
        raise ValueError(f"{address!r} is no address of this machine")
    return f"{_checked_port(port)} {address}".rstrip()
