"""The candidate: what may become the next version, fetched to be compared with the current one only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from device_agent.commands import CacheCandidate, CacheModel, Command, DropCandidate, Log
from protocol.sampling import is_asked

if TYPE_CHECKING:
    from device_agent.events import CandidateCached, CandidateFailed
    from device_agent.gate import Chunk
    from device_agent.parts import Parts
    from protocol.messages import Manifest


def candidate_of(manifest: Manifest) -> Manifest | None:
    """Return the manifest's candidate as if it had been announced by itself, None when there is none."""
    tried = manifest.candidate
    if tried is None:
        return None
    return replace(
        manifest,
        version=tried.version,
        parameters=tried.parameters,
        blob=tried.blob,
        deltas=[],
        surveys=[],
        candidate=None,
    )


def same_model(one: Manifest | None, other: Manifest | None) -> bool:
    """Return whether both name the same parameters of the same history."""
    if one is None or other is None:
        return False
    return (one.epoch, one.parameters, one.blob) == (other.epoch, other.parameters, other.blob)


class Trial:
    """Follows the candidate in the newest manifest: fetches it when this device is asked, drops it when it is gone.

    One that is published is handed over, whole or in part (``take``), so that it is not fetched twice.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._caching: Manifest | None = None
        self._heard = False
        """Whether a manifest was heard in this process: what the disk says of candidates may be long over."""

    @property
    def deadline(self) -> float | None:
        """When ``due`` has something to do, while there is a connection."""
        return self._parts.fetch_candidate.deadline

    def link_up(self, now: float) -> None:
        """Expect the manifest."""
        self._parts.fetch_candidate.link_up(now)

    def link_down(self) -> None:
        """Wait for nothing."""
        self._parts.fetch_candidate.link_down()

    def announced(self, now: float) -> list[Command]:
        """Take note that a manifest came, after whoever follows it; go on with what it names."""
        self._heard = True
        fetch = self._parts.fetch_candidate
        wanted = self._wanted()
        if wanted is not None and same_model(fetch.target, wanted):
            return fetch.announced(wanted, now)
        return []

    def chunk(self, chunk: Chunk, now: float) -> list[Command]:
        """Take in a chunk, if it is the candidate's; raise ``ProtocolError`` when it is wrong."""
        commands = self._parts.fetch_candidate.chunk(chunk.digest, chunk.index, chunk.data, now)
        return [self._to_keep(command) if isinstance(command, CacheModel) else command for command in commands]

    def cached(self, event: CandidateCached) -> list[Command]:
        """Hold the candidate that is on the disk now."""
        made, self._caching = self._caching, None
        if made is None or made.parameters != event.parameters:
            return []
        commands = self._parts.fetch_candidate.cancel()
        self._parts.desk.candidate = made
        fields = {"candidate": made.version, "bytes": made.blob.total_bytes}
        return [*commands, Log(level="info", message="candidate ready", fields=fields)]

    def failed(self, event: CandidateFailed, now: float) -> list[Command]:
        """Fetch it again later."""
        self._caching = None
        self._parts.fetch_candidate.cache_failed(now)
        return [Log(level="error", message="cannot keep the candidate", fields={"reason": event.reason})]

    def lost(self) -> list[Command]:
        """Drop what the disk holds: it cannot be read, and is to be fetched again."""
        return self._drop()

    def due(self, now: float, *, linked: bool) -> list[Command]:
        """Do what the newest manifest and the time ask for."""
        if not self._heard:
            return []
        fetch, desk = self._parts.fetch_candidate, self._parts.desk
        wanted = self._wanted()
        commands: list[Command] = []
        if desk.candidate is not None and not same_model(desk.candidate, candidate_of_newest(self._parts)):
            commands += self._drop()
        if fetch.target is not None and not same_model(fetch.target, wanted):
            self._caching = None
            commands += fetch.cancel()
        if not linked:
            return commands
        if wanted is not None and desk.candidate is None and fetch.target is None:
            fields = {"candidate": wanted.version, "bytes": wanted.blob.total_bytes}
            told = Log(level="info", message="fetching candidate", fields=fields)
            return [*commands, told, *fetch.begin(wanted, now)]
        return [*commands, *fetch.due(now)]

    def _wanted(self) -> Manifest | None:
        """Return the candidate that this device is to compare, once it holds the current version."""
        held = self._parts.desk.held
        if held is None or held.candidate is None or self._parts.fetch.target is not None:
            return None
        name = held.candidate.survey
        asked = any(
            survey.id == name and is_asked(self._parts.device_id, name, survey.fraction) for survey in held.surveys
        )
        return candidate_of(held) if asked and name not in self._parts.ledger.state.answered else None

    def _to_keep(self, command: CacheModel) -> CacheCandidate:
        self._caching = command.manifest
        return CacheCandidate(manifest=command.manifest, data=command.data)

    def _drop(self) -> list[Command]:
        self._parts.desk.candidate = None
        return [DropCandidate()]


def candidate_of_newest(parts: Parts) -> Manifest | None:
    """Return the candidate of the newest manifest that is known."""
    newest = parts.fetch.target or parts.desk.held
    return candidate_of(newest) if newest is not None else None
