"""What ``fedmq-agent status`` and ``run --check`` say of sources and samples."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from device_agent.sensing.adapters.sample_store import FILE_NAME, SCHEMA_VERSION
from device_agent.sensing.sources import CsvSource, JsonlSource, MqttSource, NpzSource, PluginSource
from protocol.adapters.credentials import read_password
from protocol.adapters.tls import make_context
from protocol.settings import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from device_agent.sensing.sources import Source
    from device_agent.settings import AgentSettings


@dataclass(slots=True)
class Shown:
    """What the store holds."""

    rows: int = 0
    taken: int = 0
    store_bytes: int = 0
    oldest_s: float | None = None
    """Age of the oldest row in seconds; None: there is none."""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    fault: str = ""


def peek_samples(state_dir: Path) -> Shown:
    """Read what the store holds, also beside a running agent; never fails."""
    path = state_dir / FILE_NAME
    if not path.is_file():
        return Shown(fault="there is no store yet")
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            return _shown(db)
        finally:
            db.close()
    except (sqlite3.Error, msgspec.DecodeError, ValueError, TypeError) as exc:
        return Shown(fault=f"{path} cannot be read: {exc}")


def status_of(settings: AgentSettings, found: Shown) -> dict[str, Any]:
    """Return facts by name, for people and for JSON."""
    facts: dict[str, Any] = {
        "samples": found.rows,
        "samples_taken": found.taken,
        "samples_bytes": found.store_bytes,
        "samples_oldest_s": found.oldest_s,
    }
    if found.fault:
        facts["samples_fault"] = found.fault
    for name, source in settings.sources.items():
        told = found.sources.get(name, {})
        facts[f"source {name}"] = {
            "kind": source.__struct_config__.tag,
            "rows": told.get("rows", 0),
            "last_s": told.get("last_s"),
            "refused": told.get("refused", {}),
            "faults": told.get("faults", []),
        }
    return facts


def check_sources(settings: AgentSettings) -> Iterator[str]:
    """Return a line for each source; raise ``ConfigurationError`` for what can never work.

    No broker is asked: whether it is there is seen when the agent runs.
    """
    for name, source in settings.sources.items():
        yield f"source {name}: {_described(name, source)}"


def _described(name: str, source: Source) -> str:
    channels = f"gives {', '.join(source.fields) or 'labels only'}"
    match source:
        case MqttSource():
            read_password(source.broker.password_file)
            if source.broker.tls is not None:
                make_context(source.broker.tls)
            topics = ", ".join([*source.topics, *([source.label_topic] if source.label_topic else [])])
            return f"{channels}, from {topics} on {source.broker.host}:{source.broker.port}"
        case CsvSource() | JsonlSource() | NpzSource():
            there = "" if Path(source.path).exists() else " (not there yet)"
            return f"{channels}, from {source.path}{there}"
        case PluginSource():
            from device_agent.sensing.adapters.plugin_threads import PluginError, load_plugin  # noqa: PLC0415 - rare

            try:
                load_plugin(source.plugin)
            except PluginError as exc:
                raise ConfigurationError(f"sources.{name}: {exc}") from exc
            return f"{channels}, from the plug-in {source.plugin}"


def _shown(db: sqlite3.Connection) -> Shown:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        return Shown(fault=f"the store is of schema {version}, this version of fedmq knows {SCHEMA_VERSION}")
    db.execute("BEGIN")
    oldest, newest = db.execute("SELECT ifnull(min(id), 0), ifnull(max(id), 0) FROM samples").fetchone()
    first = db.execute("SELECT time FROM samples WHERE id = ?", (oldest,)).fetchone()
    meta = {key: bytes(value) for key, value in db.execute("SELECT key, value FROM meta")}
    numbers = msgspec.json.decode(meta.get("numbers", b"{}"), type=dict[str, int])
    facts = msgspec.json.decode(meta.get("facts", b"{}"), type=dict[str, dict[str, Any]])
    now = time.time()
    for name, told in facts.items():
        told["rows"] = numbers.get(name, 0)
        last = told.pop("last_time", None)
        told["last_s"] = None if last is None else now - last
    size = db.execute("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()").fetchone()[0]
    return Shown(
        rows=newest - oldest + 1 if newest else 0,
        taken=newest,
        store_bytes=size,
        oldest_s=None if first is None else now - first[0],
        sources=facts,
    )
