"""What ``fedmq-agent status`` and ``outbox`` print, from the store and the cache alone."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from device_agent.adapters.checkpoint_file import CheckpointFile
from device_agent.adapters.model_cache import CacheError, ModelCache, read_model
from device_agent.adapters.readings import Sensors
from device_agent.adapters.store import StoreError, peek
from device_agent.policy import Case, judge
from device_agent.sensing.adapters.showing import check_sources, peek_samples, status_of
from protocol.adapters.system_clock import SystemClock

if TYPE_CHECKING:
    from device_agent.policy import Readings
    from device_agent.records import DurableState, OutboxEntry
    from device_agent.settings import AgentSettings


def status(settings: AgentSettings, *, as_json: bool) -> int:
    """Print what the agent holds and has done; return the exit code."""
    state_dir = Path(settings.device.state_dir)
    try:
        names, durable, entries = peek(state_dir)
    except StoreError as exc:
        return _fail(exc)
    facts = _facts(names, durable, entries, _version(state_dir))
    facts["kept_training"] = _kept(state_dir)
    clock = SystemClock(state_dir, wait_s=settings.clock.wait_s)
    samples = peek_samples(state_dir) if settings.sources else None
    readings = Sensors(settings, clock, samples).read()
    facts["clock"] = clock.complaint() or "as it should be"
    facts |= {"policy": _policy(settings, readings, durable), "readings": asdict(readings)}
    if samples is not None:
        facts |= status_of(settings, samples)
    if as_json:
        _say(msgspec.json.encode(facts).decode())
        return 0
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        _say(f"{name.replace('_', ' '):<{width}}  {_readable(value)}")
    return 0


def outbox(settings: AgentSettings, *, as_json: bool) -> int:
    """Print the updates that wait; return the exit code."""
    try:
        _names, _durable, entries = peek(Path(settings.device.state_dir))
    except StoreError as exc:
        return _fail(exc)
    if as_json:
        _say(msgspec.json.encode({"updates": entries}).decode())
        return 0
    if not entries:
        _say("no update waits")
        return 0
    _say(f"{'sequence':>10} {'base version':>13} {'bytes':>12}  epoch")
    for entry in entries:
        _say(f"{entry.sequence:>10} {entry.base_version:>13} {entry.size:>12}  {entry.epoch}")
    return 0


def enroll(bundle: Path, folder: Path, *, data: str | None, owner: str | None, replace: bool) -> int:
    """Bring the bundle's identity into the folder, say what comes next; return the exit code."""
    # x509 is 10 MB that neither status nor outbox need.
    from device_agent.adapters import enrolment  # noqa: PLC0415

    try:
        identity = enrolment.read_bundle(bundle, enrolment.today())
        done = enrolment.enroll(identity, enrolment.Wish(folder=folder, data=data, owner=owner, replace=replace))
    except enrolment.EnrolmentError as exc:
        return _fail(exc)
    _say(f"this is device {identity.name} of federation {identity.federation} now; its key is in {done.folder}")
    _say(f"{done.configuration}: {'kept, with the new identity' if done.kept else 'written'}")
    for remark in done.remarks:
        _say(f"note: {remark}")
    _say(f"delete {bundle}: who has it is this device too; and then:")
    _say(f"  {enrolment.next_step(done.configuration, kept=done.kept)}")
    return 0


def _facts(
    names: dict[str, str], durable: DurableState, entries: tuple[OutboxEntry, ...], version: int | None
) -> dict[str, Any]:
    last = durable.last
    return {
        **names,
        "version": version,
        "trained_version": durable.trained.version if durable.trained else None,
        "trouble": _trouble(durable),
        "paused": durable.paused,
        "outbox_updates": len(entries),
        "outbox_bytes": sum(entry.size for entry in entries),
        "next_sequence": durable.next_sequence,
        **msgspec.to_builtins(durable.counters),
        "training_s": last.training_s,
        "num_examples": last.num_examples,
        "train_loss": last.train_loss,
        "holdout_before": last.before,
        "holdout": last.after,
    }


def _trouble(durable: DurableState) -> str | None:
    """Return what was wrong with the last training, or is with its update."""
    trained = durable.trained
    if durable.trouble or trained is None or not trained.why:
        return durable.trouble or None
    return f"update of version {trained.version} rejected: {trained.why}"


def say_readings(settings: AgentSettings) -> None:
    """Print which readings there are for the policy, and which there are not."""
    found = asdict(Sensors(settings).read())
    if not settings.policy.min_new_examples:
        found.pop("examples")  # not counted for nobody
    there = {name: value for name, value in found.items() if value is not None}
    _say(f"readings: {_readable(there)}")
    if missing := [name for name in found if name not in there]:
        _say(f"not there, so that their rules hold nothing up: {', '.join(missing)}")


def say_sources(settings: AgentSettings) -> None:
    """Print what the sources are, or that a file is missing; raise ``ConfigurationError`` for what can never work."""
    if settings.data.path and not Path(settings.data.path).exists():
        _say(f"note: [data] path = {settings.data.path!r}: there is no such file; no training before it is there")
    if settings.sources:
        for line in check_sources(settings):
            _say(line)


def _policy(settings: AgentSettings, readings: Readings, durable: DurableState) -> str:
    """Return what the rules say now to a training that would begin; what was said before is not known here."""
    holds = judge(settings.policy, Case(readings=readings, seen=durable.last.rows)).holds
    return f"waits: {'; '.join(holds.values())}" if holds else "may train"


def _kept(state_dir: Path) -> dict[str, Any] | None:
    """Return what is on disk of a training that was interrupted, or is under way."""
    kept = CheckpointFile(state_dir).look()
    if kept is None:
        return None
    return {
        "version": kept.origin.version,
        "steps": kept.num_steps,
        "steps_planned": kept.planned,
        "training_s": kept.elapsed_s,
        "bytes": kept.size,
    }


def _version(state_dir: Path) -> int | None:
    try:
        with ModelCache(state_dir).open() as file:
            return read_model(file)[0].version
    except CacheError:
        return None


def _readable(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_readable(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return "; ".join(map(_readable, value)) or "-"
    return str(value)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _fail(exc: Exception) -> int:
    sys.stderr.write(f"fedmq-agent: {exc}\n")
    return 1
