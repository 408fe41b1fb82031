"""Whether an update may enter the buffer: every check in one place, cheap ones first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.configuration import AdmissionTable
from protocol import tensors
from protocol.errors import ProtocolError
from protocol.messages import ModelUpdate, ReceiptStatus, SealedUpdate
from protocol.sealing import Opener, SealingError
from protocol.surveys import Report, SealedReport


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """The update does not enter. ``code`` is stable, for counting; the text is for people."""

    def __init__(self, status: ReceiptStatus, code: str, text: str, next_after_s: float = 0.0) -> None:
        super().__init__(f"{code}: {text}")
        self.status: ReceiptStatus = status
        self.code = code
        self.next_after_s = next_after_s


def check_sender(device_id: str, claimed_device_id: str) -> None:
    """Raise ``Refused`` unless the message is of the topic's device."""
    if claimed_device_id != device_id:
        raise Refused(
            "rejected", "wrong-device", f"the topic is {device_id!r}'s, the message says {claimed_device_id[:64]!r}"
        )


FORGIVEN = frozenset({"other-epoch", "other-layout", "unknown-version", "fleet-full"})
"""Reasons to reject an update that do not speak against its device: the aggregator began anew, or has no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What updates are measured against at the moment."""

    federation: str
    epoch: str
    layout: str
    size: int
    """Number of parameters."""
    version: int
    max_staleness: int
    withdrawn: tuple[tuple[int, int], ...]
    limits: AdmissionTable
    opener: Opener | None = None
    """With one, updates must be sealed."""
    trains: bool = True
    """Whether the current version is to be trained at all."""

    def check_origin(self, device_id: str, claimed_device_id: str, federation: str) -> None:
        """Raise ``Refused`` unless the message is of this federation and of the topic's device."""
        if federation != self.federation:
            raise Refused("rejected", "other-federation", f"this is {self.federation!r}, not {federation!r}")
        check_sender(device_id, claimed_device_id)

    def check_place(self, update: ModelUpdate | SealedUpdate) -> None:
        """Raise ``Refused`` when an update of this version is not taken, whatever it holds."""
        self._check_epoch(update.epoch)
        if not self.trains:
            raise Refused("stale", "not-trained", "this version is announced for its surveys, not to be trained")
        self._check_version(update.base_version)

    def check_known(self, report: Report | SealedReport) -> None:
        """Raise ``Refused`` when a report is of another history, or of a version that is not out."""
        self._check_epoch(report.epoch)
        self._check_out(report.base_version)

    def opened_report(self, report: Report | SealedReport) -> Report:
        """Return the report, opened if it is sealed; raise ``Refused`` when it should be, or cannot be."""
        if isinstance(report, Report):
            if self.opener:
                raise Refused("rejected", "unsealed", "this federation takes sealed reports only")
            return report
        if self.opener is None:
            raise Refused("rejected", "cannot-open", "this aggregator has no sealing key")
        try:
            return self.opener.open_report(report)
        except SealingError as exc:
            raise Refused("rejected", "cannot-open", str(exc)) from exc

    def opened(self, update: ModelUpdate | SealedUpdate) -> ModelUpdate:
        """Return the update, opened if it is sealed; raise ``Refused`` when it should be, or cannot be."""
        if isinstance(update, ModelUpdate):
            if self.opener:
                raise Refused("rejected", "unsealed", "this federation takes sealed updates only")
            return update
        if self.opener is None:
            raise Refused("rejected", "cannot-open", "this aggregator has no sealing key")
        try:
            return self.opener.open(update)
        except SealingError as exc:
            raise Refused("rejected", "cannot-open", str(exc)) from exc
        except ProtocolError as exc:
            raise Refused("rejected", "malformed", str(exc)) from exc

    def admit(self, update: ModelUpdate) -> tuple[NDArray[np.float32], float]:
        """Return the delta (float32, finite) of an update that may enter, and its norm; raise ``Refused`` otherwise."""
        self.check_place(update)
        if update.layout != self.layout:
            raise Refused("rejected", "other-layout", "the parameters belong to another model")
        if update.num_examples > self.limits.max_examples:
            raise Refused(
                "rejected", "examples", f"{update.num_examples} examples claimed, {self.limits.max_examples} allowed"
            )
        return self._delta(update)

    def _check_epoch(self, epoch: str) -> None:
        if epoch != self.epoch:
            raise Refused("rejected", "other-epoch", f"the federation began anew: epoch is {self.epoch}")

    def _check_out(self, base_version: int) -> None:
        if base_version > self.version:
            raise Refused("rejected", "unknown-version", f"version {base_version} is not out, {self.version} is")

    def _check_version(self, base_version: int) -> None:
        self._check_out(base_version)
        for first, last in self.withdrawn:
            if first <= base_version <= last:
                raise Refused("stale", "withdrawn-version", f"version {base_version} was withdrawn")
        staleness = self.version - base_version
        if staleness > self.max_staleness:
            raise Refused("stale", "too-old", f"{staleness} versions old, {self.max_staleness} allowed")

    def _delta(self, update: ModelUpdate) -> tuple[NDArray[np.float32], float]:
        try:
            delta: NDArray[np.float32] = tensors.decode(update.codec, update.delta, self.size)
        except ProtocolError as exc:
            raise Refused("rejected", "bad-delta", str(exc)) from exc
        # One pass finds NaN and Inf as well as size: any of them makes the dot product not finite or large.
        squared = tensors.squared_norm(delta)
        if not math.isfinite(squared):
            raise Refused("rejected", "not-finite", "the delta holds NaN, infinite or huge values")
        norm = math.sqrt(squared)
        if norm > self.limits.max_update_norm:
            raise Refused("rejected", "norm", f"norm {norm:.6g}, {self.limits.max_update_norm:g} allowed")
        return delta, norm
