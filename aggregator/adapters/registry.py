"""Reading the store from outside: for the command line, and for the demo's proof. Never writes, never waits long."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from aggregator.adapters.card_rows import CardRows, card_rows_of
from aggregator.adapters.errors import StoreError, StoreRefused
from aggregator.adapters.restoring import read_meta
from aggregator.adapters.rows import CONTRIBUTION_COLUMNS, Row, contribution_of, metrics_of
from aggregator.adapters.schema import APPLICATION_ID, DATABASE_NAME, SCHEMA_VERSION, connect_read_only
from aggregator.adapters.survey_rows import SurveyLine, answers_of, survey_lines, total_data
from aggregator.adapters.trainables import kept_model
from aggregator.buffer import Contribution
from aggregator.measured import Measured, measured
from aggregator.records import Answer, Counters, DeviceRecord
from models import Model, TfliteError
from protocol.chunks import digest_of


class NotKept(Exception):  # noqa: N818 - an answer to the operator
    """There is no such version, or its parameters are no longer kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionLine:
    """A version without its parameters."""

    version: int
    kind: str
    created: float
    digest: str
    metrics: dict[str, float]
    num_updates: int
    total_weight: float
    step_norm: float
    rolled_back_to: int | None
    has_parameters: bool
    """False once the registry's limit has dropped them: it cannot be rolled back to or exported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A version and the updates that its buffer held; a rollback's updates were set aside."""

    line: VersionLine
    outcome: str
    """``published``, ``set-aside``, or empty for a version that no buffer ended with."""
    contributions: tuple[Contribution, ...]
    measured: dict[str, Measured]
    """What their devices measured on data of their own, by the model: ``global``, ``personal``, ``local``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """What the store says of the federation."""

    federation: str
    epoch: str
    version: int
    metrics: dict[str, float]
    buffered: int
    counters: Counters
    devices: tuple[DeviceRecord, ...]
    measured: dict[str, Measured] = field(default_factory=dict)
    """As in the lineage of the current version."""
    candidate: int | None = None
    """The number that a version will have which is tried now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedLine:
    """A candidate: one that is tried now, or what became of it."""

    number: int
    """The version's that it was to be."""
    outcome: str
    """``candidate``, ``published`` or ``withdrawn``."""
    reason: str
    created: float
    updates: int
    devices: tuple[str, ...]
    """Whose updates it was made of, by name."""
    metrics: dict[str, float]
    survey: str = ""
    """Of one that is tried now."""


_LINE = (
    "SELECT v.version, kind, created, digest, metrics, num_updates, total_weight, step_norm, rolled_back_to,"
    " p.version IS NOT NULL FROM versions v LEFT JOIN parameters p USING (version)"
)


class Registry:
    """An open, read-only view of the store in a state directory; see ``open_registry``."""

    def __init__(self, db: sqlite3.Connection, folder: Path) -> None:
        self._db = db
        self.folder = folder
        """The state directory."""

    def versions(self, newest: int | None = None) -> list[VersionLine]:
        """Return the versions in ascending order: all that are known, or so many of the newest."""
        rows = self._db.execute(f"{_LINE} ORDER BY v.version DESC LIMIT ?", (-1 if newest is None else newest,))
        return [_line_of(row) for row in rows][::-1]

    def tried(self, newest: int | None = None) -> list[TriedLine]:
        """Return the candidate, and those that were withdrawn, the oldest first: all, or so many of the newest."""
        query = (
            "SELECT id, outcome, base_version + 1, reason, created, metrics FROM aggregations"
            " WHERE outcome IN ('candidate', 'withdrawn') ORDER BY id DESC LIMIT ?"
        )
        rows = self._db.execute(query, (-1 if newest is None else newest,)).fetchall()
        return [self._tried(row) for row in rows][::-1]

    def _tried(self, row: Row) -> TriedLine:
        query = "SELECT device, count(*) FROM lineage WHERE aggregation = ? GROUP BY device ORDER BY device"
        counts = self._db.execute(query, (row[0],)).fetchall()
        (survey,) = self._db.execute("SELECT survey FROM candidate").fetchone() or ("",)
        return TriedLine(
            outcome=row[1],
            number=row[2],
            reason=row[3],
            created=row[4],
            metrics=metrics_of(row[5]),
            devices=tuple(device for device, _ in counts),
            updates=sum(count for _, count in counts),
            survey=survey if row[1] == "candidate" else "",
        )

    def lineage(self, version: int) -> Lineage:
        """Return a version with its updates; raise ``NotKept``."""
        row = self._db.execute(f"{_LINE} WHERE v.version = ?", (version,)).fetchone()
        if row is None:
            raise NotKept(f"there is no version {version}; {self._range_text()}")
        query = "SELECT id, outcome FROM aggregations WHERE version = ?"
        number, outcome = self._db.execute(query, (version,)).fetchone() or (0, "")
        query = f"SELECT {CONTRIBUTION_COLUMNS} FROM lineage WHERE aggregation = ? ORDER BY position"  # noqa: S608 - a constant of ours
        contributions = tuple(contribution_of(found) for found in self._db.execute(query, (number,)))
        return Lineage(
            line=_line_of(row), outcome=outcome, contributions=contributions, measured=measured(contributions)
        )

    def parameters(self, version: int) -> bytes:
        """Return a version's parameters, float32 little-endian; raise ``NotKept``."""
        query = "SELECT vector, digest FROM parameters JOIN versions USING (version) WHERE version = ?"
        row = self._db.execute(query, (version,)).fetchone()
        if row is None:
            known = self._db.execute("SELECT 1 FROM versions WHERE version = ?", (version,)).fetchone()
            why = "its parameters are no longer kept" if known else f"there is no version {version}"
            raise NotKept(f"{why}; {self._range_text()}")
        vector, digest = row
        if digest_of(vector) != digest:
            raise StoreError(f"the parameters of version {version} do not have their digest: the disk is failing")
        return bytes(vector)

    def surveys(self) -> list[SurveyLine]:
        """Return the surveys that are kept, the oldest first."""
        return survey_lines(self._db)

    def survey(self, beginning: str) -> SurveyLine:
        """Return the survey whose id begins so; raise ``NotKept`` when there is none, or more than one."""
        found = [line for line in self.surveys() if line.id.startswith(beginning)]
        if len(found) != 1 or not beginning:
            known = ", ".join(line.id for line in self.surveys()) or "none"
            raise NotKept(f"{len(found) if beginning else 'no'} surveys are called {beginning!r}; there are: {known}")
        return found[0]

    def answers(self, survey: str) -> list[Answer]:
        """Return who has answered a survey."""
        return answers_of(self._db, survey)

    def survey_total(self, survey: str) -> Any:  # noqa: ANN401 - plain data
        """Return what the answers to a survey add up to, as data (see ``models.answering``)."""
        return total_data(self._db, survey)

    def card_rows(self, version: int) -> CardRows:
        """Return what a card needs beside the version's line; raise ``NotKept``."""
        if not self.knows(version):
            raise NotKept(f"there is no version {version}; {self._range_text()}")
        return card_rows_of(self._db, version)

    def versions_of(self, digest: str) -> list[int]:
        """Return the versions whose parameters, or whose blob, have this SHA-256; the newest last."""
        query = "SELECT version FROM versions WHERE digest = ? OR json_extract(blob, '$.digest') = ? ORDER BY version"
        return [version for (version,) in self._db.execute(query, (digest, digest))]

    def blob_lengths(self) -> list[int]:
        """Return how long the versions' blobs are: one length, unless the encoding was changed."""
        return [
            length
            for (length,) in self._db.execute("SELECT DISTINCT json_extract(blob, '$.total_bytes') FROM versions")
        ]

    def drifting(self) -> list[str]:
        """Return the devices whose data drift, as they say."""
        decode = msgspec.msgpack.Decoder(DeviceRecord).decode
        rows = self._db.execute("SELECT record FROM devices ORDER BY device")
        return [record.device_id for record in (decode(row) for (row,) in rows) if record.drifting]

    def knows(self, version: int) -> bool:
        """Return whether there is a version of this number."""
        return self._db.execute("SELECT 1 FROM versions WHERE version = ?", (version,)).fetchone() is not None

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """Have all that is read within be of one moment, whatever the aggregator writes meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def spec(self) -> dict[str, Any]:
        """Return the model spec that the parameters belong to."""
        found: dict[str, Any] = json.loads(read_meta(self._db)["spec"])
        return found

    def features(self) -> dict[str, Any]:
        """Return how devices make the model's inputs of rows, as data; empty: they have ready examples."""
        found: dict[str, Any] = json.loads(read_meta(self._db).get("features", "{}"))
        return found

    def model(self, spec: Mapping[str, Any] | None = None) -> Model:
        """Return the model that a spec describes, the store's own without one.

        Raises ``SpecError`` for a spec of another fedmq, ``NotKept`` where the model is a file that is not here.
        """
        try:
            return kept_model(self.spec() if spec is None else spec, self.folder)
        except TfliteError as exc:
            raise NotKept(str(exc)) from exc

    def identity(self) -> tuple[str, str]:
        """Return federation and epoch."""
        meta = read_meta(self._db)
        return str(meta["federation"]), str(meta["epoch"])

    def status(self) -> StoreStatus:
        """Return the figures, all of one moment."""
        with self.one_moment():
            meta = read_meta(self._db)
            newest = self.versions(newest=1)[0]
            decode = msgspec.msgpack.Decoder(DeviceRecord).decode
            devices = self._db.execute("SELECT record FROM devices ORDER BY device")
            return StoreStatus(
                federation=str(meta["federation"]),
                epoch=str(meta["epoch"]),
                version=newest.version,
                metrics=newest.metrics,
                buffered=self._db.execute("SELECT count(*) FROM journal").fetchone()[0],
                counters=msgspec.msgpack.decode(_bytes(meta["counters"]), type=Counters),
                devices=tuple(decode(record) for (record,) in devices),
                measured=self.lineage(newest.version).measured,
                candidate=(self._db.execute("SELECT version FROM candidate").fetchone() or (None,))[0],
            )

    def accepted(self) -> list[tuple[str, str, int]]:
        """Return the identity of every update that was ever accepted, in no particular order; repeats are a fault."""
        identity = "SELECT device, incarnation, sequence FROM"
        return self._db.execute(f"{identity} lineage UNION ALL {identity} journal").fetchall()

    def sequences(self) -> dict[tuple[str, str], int]:
        """Return the last accepted sequence of each device and incarnation."""
        rows = self._db.execute("SELECT device, incarnation, sequence FROM sequences")
        return {(device, incarnation): sequence for device, incarnation, sequence in rows}

    def _range_text(self) -> str:
        first, last = self._db.execute("SELECT min(version), max(version) FROM parameters").fetchone()
        return f"parameters are kept of versions {first} to {last}"


@contextmanager
def open_registry(directory: Path) -> Iterator[Registry]:
    """Give a view of the store; raise ``StoreRefused`` when there is none that fits, ``StoreError`` when it fails."""
    path = directory / DATABASE_NAME
    try:
        db = connect_read_only(path)
    except FileNotFoundError as exc:
        raise StoreRefused(f"{exc}: has the aggregator been started with this state_dir?") from exc
    except (sqlite3.Error, OSError) as exc:
        raise StoreError(f"{path} cannot be read: {exc}") from exc
    try:
        _check(db, path)
        yield Registry(db, directory)
    except sqlite3.Error as exc:
        raise StoreError(f"{path} cannot be read: {exc}") from exc
    finally:
        db.close()


def _check(db: sqlite3.Connection, path: Path) -> None:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    schema = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not (application or schema or tables):
        raise StoreError(f"{path} is empty: the aggregator is starting for the first time; ask again in a moment")
    if (application, schema) != (APPLICATION_ID, SCHEMA_VERSION):
        raise StoreRefused(f"{path} is no store that this version of fedmq can read (schema {schema})")


def _line_of(row: Row) -> VersionLine:
    return VersionLine(
        version=row[0],
        kind=row[1],
        created=row[2],
        digest=row[3],
        metrics=metrics_of(row[4]),
        num_updates=row[5],
        total_weight=row[6],
        step_norm=row[7],
        rolled_back_to=row[8],
        has_parameters=bool(row[9]),
    )


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
