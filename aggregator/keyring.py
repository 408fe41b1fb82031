"""The federation's own keys, as the core uses them: what signs announcements and commands, and what opens updates."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import DeviceCommand, Manifest, Sealing
from protocol.packing import encode
from protocol.sealing import Opener
from protocol.signing import Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """Without a signer everything goes out plain; without an opener updates come in plain."""

    signer: Signer | None = None
    opener: Opener | None = None

    @property
    def signing_keys(self) -> list[bytes]:
        """The raw public keys that devices are told to trust."""
        return list(self.signer.public_keys) if self.signer else []

    @property
    def sealing(self) -> Sealing | None:
        """How devices are told to seal."""
        return self.opener.sealing if self.opener else None

    def manifest(self, manifest: Manifest) -> bytes:
        """Return the manifest as it travels."""
        body = encode(manifest)
        return self.signer.sign("manifest", body) if self.signer else body

    def command(self, command: DeviceCommand) -> bytes:
        """Return the command as it travels."""
        body = encode(command)
        return self.signer.sign("command", body) if self.signer else body


NO_KEYS = Keyring()
"""The loopback demo's."""
