"""What makes an embedded broker a secure one: the folder with its certificates, and who may come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import broker_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """The hub that a site's broker is joined to, by the bridge of this name."""

    name: str
    hub: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """A broker with mutual TLS and access control, with exactly the configuration that is shipped.

    ``folder`` stands for /etc/mosquitto/fedmq: ``ca.crt``, ``broker.crt``, ``broker.key`` and ``crl.pem`` are there
    (and ``bridge-NAME.crt`` and ``.key`` at a site); configuration and access control are written next to them.
    """

    federation: str
    folder: Path
    monitors: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    uplink: Uplink | None = None
    local_port: int | None = None

    def write(self, address: str, port: int) -> str:
        """Write the files for a listener there, and return the text of the configuration."""
        texts = self._texts(address, port)
        for name, text in texts.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        bridges = [text for name, text in texts.items() if name.startswith("bridge-")]
        # Last: what stands below a "connection" line may be taken for the bridge's.
        return "\n".join([texts[broker_config.CONFIGURATION], *bridges])

    def _texts(self, address: str, port: int) -> Mapping[str, str]:
        folder = str(self.folder.resolve())
        if self.uplink is None:
            return broker_config.files(
                self.federation,
                monitors=self.monitors,
                bridges=self.bridges,
                directory=folder,
                port=port,
                address=address,
                local_port=self.local_port,
            )
        return broker_config.site_files(
            self.federation,
            self.uplink.name,
            hub=self.uplink.hub,
            hub_port=self.uplink.port,
            monitors=self.monitors,
            directory=folder,
            port=port,
            address=address,
        )
