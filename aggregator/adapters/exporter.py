"""Every version as a ``.tflite`` file in a folder, with its card beside it, for programs that run it."""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path

import numpy as np

from aggregator.adapters.card_sources import card_in
from aggregator.adapters.errors import StoreError, StoreRefused
from aggregator.adapters.exports import ExportLog
from aggregator.adapters.registry import NotKept
from aggregator.card import Export
from aggregator.card_text import card_json, card_text
from aggregator.configuration import RegistryTable
from aggregator.downlink import vector_of
from aggregator.records import VersionRecord
from models import Model
from protocol.chunks import digest_of

log = logging.getLogger(__name__)

CURRENT = "current.tflite"
CARD_SUFFIXES = (".card.json", ".card.md")
"""Beside ``version-00000012.tflite``, of the same number."""

STOP_S = 5.0
"""A disk that hangs does not keep the aggregator from ending for longer."""


class TfliteExporter:
    """Writes versions in a thread of its own. Without a folder it does nothing.

    ``current.tflite`` is the newest, ``version-00000012.tflite`` are the newest ``keep``, each with its card; each
    appears whole or not at all, and is in the log of exports before. When versions come sooner than files are written
    those in between are left out. Whatever goes wrong is logged, and tried again with the next version.
    """

    def __init__(self, settings: RegistryTable, model: Model, federation: str, epoch: str, state_dir: Path) -> None:
        self._folder = Path(settings.export_tflite)
        self._keep = settings.keep_exports
        self._model = model
        self._federation = federation
        self._epoch = epoch
        self._state_dir = state_dir
        self._log = ExportLog(state_dir)
        self._before: int | None = None
        """The version written before; what devices found of it is known only now, so its card is written again."""
        self._wake = threading.Condition()
        self._next: VersionRecord | None = None
        self._ending = False
        self._thread = (
            threading.Thread(target=self._work, name="export", daemon=True) if settings.export_tflite else None
        )
        if self._thread:
            self._thread.start()

    def note(self, version: VersionRecord) -> None:
        """Have a version written, instead of one that still waits; returns at once."""
        if self._thread:
            with self._wake:
                self._next = version
                self._wake.notify()

    def close(self) -> None:
        """Write what waits, and end."""
        if self._thread:
            with self._wake:
                self._ending = True
                self._wake.notify()
            self._thread.join(STOP_S)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._next is not None or self._ending)
                version, self._next = self._next, None
            if version is None:
                return
            try:
                self._write(version)
            except Exception as exc:  # noqa: BLE001 - a file beside the federation is not worth its end
                log.warning(f"version {version.version} is not in {self._folder} as a .tflite file: {exc}")

    def _write(self, version: VersionRecord) -> None:
        # Late: an aggregator that exports nothing does without what writes these files.
        from aggregator.adapters.exporting import write_noted  # noqa: PLC0415 - see above
        from models.predicting import Origin  # noqa: PLC0415 - see above
        from models.tflite.adapters.files import write_file  # noqa: PLC0415 - see above
        from models.tflite.file import TfliteModel  # noqa: PLC0415 - see above

        parameters = vector_of(version.parameters).astype(np.float32)
        origin = Origin(federation=self._federation, epoch=self._epoch, version=version.version)
        data = TfliteModel.export(self._model, parameters, origin).data
        self._folder.mkdir(parents=True, exist_ok=True)
        to = self._path(version.version)
        made = Export(
            sha256=digest_of(data),
            epoch=self._epoch,
            version=version.version,
            file=str(to.absolute()),
            format="tflite",
            weights="float32",
            bytes=len(data),
            parameters=version.digest,
            made=time.time(),
        )
        write_noted(self._log, to, data, made)
        write_file(self._folder / CURRENT, data)
        self._tidy()
        for number in (version.version, self._before):
            if number is not None and self._path(number).exists():
                self._write_card(number)
        self._before = version.version

    def _write_card(self, version: int) -> None:
        from models.tflite.adapters.files import write_file  # noqa: PLC0415 - see above

        try:
            card = card_in(self._state_dir, version)
        except (NotKept, StoreError, StoreRefused) as exc:
            log.warning(f"there is no card beside version {version} in {self._folder}: {exc}")
            return
        for suffix, content in zip(CARD_SUFFIXES, (card_json(card), card_text(card)), strict=True):
            write_file(self._path(version).with_suffix(suffix), content.encode())

    def _path(self, version: int) -> Path:
        return self._folder / f"version-{version:08}.tflite"

    def _tidy(self) -> None:
        """Delete the oldest of our files beyond those to be kept, each with its card."""
        found = [path for path in self._folder.iterdir() if re.fullmatch(r"version-\d{8,}\.tflite", path.name)]
        for path in sorted(found, key=lambda path: int(path.stem.partition("-")[2]))[: -self._keep]:
            for suffix in (*CARD_SUFFIXES, path.suffix):
                path.with_suffix(suffix).unlink(missing_ok=True)
