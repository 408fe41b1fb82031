"""Whom this device believes: the federation's keys, what was believed last, and what is refused since.

Without pinned keys everything plain is taken as it comes, and nothing here is stored.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec.structs import replace

from device_agent.commands import Command, DropModel, Log
from device_agent.records import Trusted
from protocol.errors import ProtocolError
from protocol.packing import decode_signed
from protocol.signing import Distrust, SignatureError, SignedKind, key_id, looks_signed, verified
from protocol.topics import EVERYBODY

if TYPE_CHECKING:
    from device_agent.ledger import Ledger
    from protocol.messages import DeviceCommand, Manifest

Doubt: TypeAlias = Literal[Distrust, "signed", "replayed", "other-federation", "malformed", "other-target"]


class DistrustedError(ProtocolError):
    """A manifest or command that is not believed. ``code`` is stable, for counting; the text is for people."""

    def __init__(self, kind: SignedKind, code: Doubt, text: str) -> None:
        super().__init__(text)
        self.kind: SignedKind = kind
        self.code: Doubt = code


def trusted_at_start(before: Trusted | None, pins: tuple[bytes, ...]) -> Trusted | None:
    """Return what to believe with these pinned keys after what was believed before; None without pinned keys.

    Other keys in the file are believed over everything that came over the air. If none of them was trusted, or none of
    them has signed what was believed last, this is a new beginning: who had a key that the file no longer names may
    have put the mark out of everybody's reach. Otherwise what was seen before still counts, so that nothing older can
    be played back; of a key that had signed none of it there is nothing older.
    """
    if not pins:
        return None
    keys = list(pins)
    if before is None or not set(pins) & {*before.pins, *before.keys}:
        return Trusted(pins=keys, keys=keys)
    if set(before.pins) == set(pins):
        return before
    if before.signers and not set(pins) & set(before.signers):
        return Trusted(pins=keys, keys=keys)
    return replace(before, pins=keys, keys=keys, seen="")


class Trust:
    """Checks what is signed; ``ledger`` holds what has to be durable."""

    def __init__(self, ledger: Ledger, federation: str, device_id: str, pins: tuple[bytes, ...]) -> None:
        before = ledger.state.trust
        self._ledger = ledger
        self._federation = federation
        self._addresses = (device_id, EVERYBODY)
        self._read = ""
        self._signers: list[bytes] = []
        ledger.trust(trusted_at_start(before, pins))
        self.reason = ""
        """Why the last message was refused; empty when the last one was believed."""
        self.unsettled = self._trusted != before
        """Whether the keys in the file are others than those of the last start."""

    @property
    def _trusted(self) -> Trusted | None:
        return self._ledger.state.trust

    @property
    def pinned(self) -> bool:
        """Whether only what is signed is believed."""
        return self._trusted is not None

    @property
    def knows_nothing(self) -> bool:
        """Whether keys are pinned, and no manifest was believed under them yet."""
        return self._trusted is not None and self._trusted.mark == (0, 0, 0)

    def begin(self) -> list[Command]:
        """Return what to do at the start: what was held without reason goes, and other pins are written down."""
        dropped: list[Command] = [DropModel()] if self.knows_nothing else []
        return [*dropped, self._ledger.save()] if self.unsettled else dropped

    def body_of(self, kind: SignedKind, payload: bytes) -> bytes:
        """Return the bytes of the message that a trusted key has signed; raise ``DistrustedError``."""
        trusted = self._trusted
        if trusted is None:
            if looks_signed(payload):
                text = f"the {kind} is signed, and this device pins no keys: enrol it ([security] federation_keys)"
                raise DistrustedError(kind, "signed", text)
            return payload
        self._read = hashlib.sha256(payload).hexdigest()
        if self._read == trusted.seen:
            self._signers = trusted.signers
            return decode_signed(payload).body  # it was verified before, perhaps before this start
        try:
            body, self._signers = verified(payload, kind, trusted.keys)
        except SignatureError as exc:
            hint = "; if this lasts, enrol the device again" if exc.code == "unknown-key" else ""
            raise DistrustedError(kind, exc.code, f"{exc}{hint}") from exc
        return body

    def malformed(self, kind: SignedKind, fault: ProtocolError) -> ProtocolError:
        """Return what to raise for a body that is no message: signed nonsense is more than nonsense."""
        return fault if self._trusted is None else DistrustedError(kind, "malformed", f"signed, but malformed: {fault}")

    def check_manifest(self, manifest: Manifest) -> None:
        """Raise ``DistrustedError`` unless the manifest is ours, and not older than one that was believed."""
        self._check_federation("manifest", manifest.federation)
        if self._trusted is not None and _mark(manifest) < self._trusted.mark:
            text = f"version {manifest.version} is older than what this device has seen: played back, or a lost store"
            raise DistrustedError("manifest", "replayed", text)

    def check_command(self, command: DeviceCommand) -> None:
        """Raise ``DistrustedError`` unless the command is for us, and newer than what was obeyed before."""
        self._check_federation("command", command.federation)
        if command.target not in self._addresses:
            raise DistrustedError("command", "other-target", f"the command is for {command.target!r}")
        trusted = self._trusted
        # The one obeyed last may come twice (QoS 1): its request id tells.
        if trusted is not None and command.issued != trusted.obeyed and command.issued <= trusted.newest_number:
            raise DistrustedError("command", "replayed", f"the command {command.action!r} is an old one, played back")

    def believe(self, manifest: Manifest) -> list[Command]:
        """Take note of a manifest that was checked; what this returns must be carried out before it is followed."""
        self.reason = ""
        trusted = self._trusted
        if trusted is None:
            return []
        keys = manifest.signing_keys or trusted.keys
        now = replace(trusted, mark=_mark(manifest), seen=self._read, keys=keys, signers=self._signers)
        if now == trusted:
            return []
        self._ledger.trust(now)
        commands: list[Command] = [self._ledger.save()]
        if set(keys) != set(trusted.keys):
            names = ",".join(key_id(key) for key in keys)
            commands.append(Log(level="info", message="trusting other signing keys", fields={"keys": names}))
        return commands

    def obey(self, command: DeviceCommand) -> None:
        """Take note of a command that was checked; becomes durable with the next transaction."""
        self.reason = ""
        if self._trusted is not None:
            self._ledger.trust(replace(self._trusted, obeyed=command.issued))

    def refuse(self, refused: DistrustedError) -> str:
        """Count a message that is not believed; return what to call it."""
        name = f"{refused.kind} {refused.code}"
        self.reason = f"{refused.kind} refused: {refused}"[:512]
        self._ledger.refuse(name, reserved=True)
        return name

    def _check_federation(self, kind: SignedKind, federation: str) -> None:
        if federation != self._federation:
            raise DistrustedError(kind, "other-federation", f"the {kind} is of federation {federation!r}")


def _mark(manifest: Manifest) -> tuple[int, int, int]:
    return (manifest.generation, manifest.version, manifest.issued)
