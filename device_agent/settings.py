"""The agent's configuration file, as types: the loader checks a TOML file against ``AgentSettings``."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from device_agent.hours import HOURS_PATTERN, span
from device_agent.sensing.predictions import PredictionSettings
from device_agent.sensing.sources import MqttSource, SamplesSettings, Source
from protocol.clock import ClockSettings
from protocol.identifiers import IDENTIFIER_PATTERN
from protocol.link import BrokerSettings
from protocol.messages import MAX_CHUNK_BYTES, MAX_UPDATE_BYTES
from protocol.settings import OptionalFilePath
from protocol.topics import EVERYBODY

Name: TypeAlias = Annotated[str, Meta(pattern=IDENTIFIER_PATTERN, max_length=64)]
Path: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]
Wait: TypeAlias = Annotated[float, Meta(ge=0, le=1e7)]
"""Seconds; 0 switches the thing off."""
Period: TypeAlias = Annotated[float, Meta(gt=0, le=1e6)]
MAX_SOURCES = 64
Hours: TypeAlias = Annotated[str, Meta(pattern=HOURS_PATTERN)]


class DeviceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this device is, and where it keeps what must survive."""

    id: Name
    federation: Name
    state_dir: Path

    def __post_init__(self) -> None:
        if self.id == EVERYBODY:
            raise ValueError(f"id {EVERYBODY!r} is everybody's, in the topic of commands: choose another name")


class DataSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The local samples: a file of ready examples, or (no path) what the sources collect; and how they are split."""

    path: Annotated[str, Meta(max_length=4096)] = ""
    label: Annotated[str, Meta(min_length=1)] | Annotated[list[str], Meta(min_length=1)] = "label"
    """CSV only: the label's column, or for a regression the list of its columns."""
    holdout_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    holdout_block_s: Period = 300.0
    """Sources only: spans of time that are held out as a whole."""
    watch_s: Wait = 30.0
    min_examples: Annotated[int, Meta(ge=1)] = 1


class TrainingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard this device may be worked."""

    step_interval_s: Wait = 0.0
    max_step_s: Wait = 600.0
    """A step that takes longer counts as hung: the watchdog is no longer fed, and systemd starts the agent anew."""
    min_interval_s: Wait = 0.0
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    checkpoint_s: Wait = 300.0
    """An interrupted training is kept in any case; this is for the kill and the power cut that nobody announces."""
    checkpoint_daily_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 256 * 1024 * 1024
    """What checkpoints may write a day; 0: anything."""


class BackboneSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a frozen network before the model may take here, where the federation has one."""

    max_bytes: Annotated[int, Meta(ge=0, le=MAX_UPDATE_BYTES)] = 64 * 1024 * 1024
    """Of the file; a larger one is not fetched."""
    cache_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 64 * 1024 * 1024
    """Of embeddings that are kept; 0: none, they are computed again after each start."""
    trial_s: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    """For a file's first steps, in a process of its own."""


class OutboxSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the outbox, and how persistently updates are sent."""

    max_updates: Annotated[int, Meta(ge=1, le=100_000)] = 16
    max_bytes: Annotated[int, Meta(ge=1024, le=2**40)] = 64 * 1024 * 1024
    receipt_timeout_s: Period = 20.0
    resend_max_s: Period = 600.0
    chunk_bytes: Annotated[int, Meta(ge=256, le=MAX_CHUNK_BYTES)] = 65536


class SleepSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Duty cycle of a device that saves power; ``awake_s = 0`` never sleeps."""

    awake_s: Wait = 0.0
    asleep_s: Wait = 0.0

    def __post_init__(self) -> None:
        if self.awake_s > 0 and self.asleep_s <= 0:
            raise ValueError("awake_s without asleep_s: a device that sleeps for 0 s only reconnects all the time")


class MetricsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often figures are published."""

    interval_s: Period = 30.0


class PolicySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When this board can spare a training; 0, false or an empty list switches a rule off."""

    mains_only: bool = False
    min_battery_percent: Annotated[float, Meta(ge=0, le=100)] = 30.0
    max_cpu_c: Annotated[float, Meta(ge=0, le=150)] = 80.0
    max_load: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    """A core, without our own training."""
    min_free_memory_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 32 * 1024 * 1024
    min_free_disk_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 64 * 1024 * 1024
    allowed_hours: list[Hours] = []
    quiet_hours: list[Hours] = []
    min_new_examples: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    metered_interfaces: list[Annotated[str, Meta(min_length=1, max_length=64)]] = []
    """Shell patterns for the interface of the default route."""
    train_on_metered: bool = False
    send_on_metered: bool = True
    check_s: Period = 20.0
    system_root: Path = "/"
    """Where ``proc`` and ``sys`` are."""

    def __post_init__(self) -> None:
        for text in (*self.allowed_hours, *self.quiet_hours):
            span(text)


class DriftSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the device says when its model does worse on new samples than on earlier ones."""

    enabled: bool = True
    false_alarm_examples: Annotated[float, Meta(ge=100, le=1e15)] = 1e5
    """On average at most one false alarm in so many new examples."""
    margin: Annotated[float, Meta(ge=0, le=100)] = 0.1
    """Errors that are larger by less than this share are none."""
    relearn_examples: Annotated[int, Meta(ge=100, le=2**40)] = 2000
    """After so many new examples with drift they are what is normal."""


class SecuritySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this device trusts."""

    federation_keys: OptionalFilePath = ""
    """The federation's public keys (``federation.json``); with them, what is not signed is refused."""
    insecure: bool = False
    """Allow a broker on another machine without TLS."""


class AgentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. Only ``[device]`` has keys without defaults; examples come from ``data.path`` or from sources."""

    device: DeviceSettings
    data: DataSettings = DataSettings()
    sources: dict[Name, Source] = {}
    samples: SamplesSettings = SamplesSettings()
    predictions: PredictionSettings = PredictionSettings()
    broker: BrokerSettings = BrokerSettings()
    training: TrainingSettings = TrainingSettings()
    backbone: BackboneSettings = BackboneSettings()
    outbox: OutboxSettings = OutboxSettings()
    sleep: SleepSettings = SleepSettings()
    metrics: MetricsSettings = MetricsSettings()
    clock: ClockSettings = ClockSettings()
    policy: PolicySettings = PolicySettings()
    drift: DriftSettings = DriftSettings()
    security: SecuritySettings = SecuritySettings()

    def __post_init__(self) -> None:
        security = self.security
        if bool(self.data.path) == bool(self.sources):
            raise ValueError(
                "examples come from one place: either path in [data] (a file of ready examples) or tables "
                f"[sources.NAME]; there {'are both' if self.sources else 'is neither'}"
            )
        if len(self.sources) > MAX_SOURCES:
            raise ValueError(f"{len(self.sources)} sources, where at most {MAX_SOURCES} are allowed")
        for name, source in self.sources.items():
            if isinstance(source, MqttSource):
                _check_broker(f"sources.{name}", source.broker, insecure=security.insecure)
        if self.predictions.topic and not self.sources:
            raise ValueError("predictions.topic is set, and there are no [sources.NAME]: nothing to predict of")
        if self.predictions.topic:
            _check_broker("predictions", self.predictions.broker, insecure=security.insecure)
        self.broker.check_exposure(
            insecure=security.insecure,
            missing="" if security.federation_keys else "federation_keys",
            keys="Enrol this device with a bundle, or name its federation.json there",
        )


def _check_broker(name: str, broker: BrokerSettings, *, insecure: bool) -> None:
    try:
        broker.check_exposure(insecure=insecure)
    except ValueError as exc:
        raise ValueError(f"{name}: {str(exc).replace('[broker.tls]', f'[{name}.broker.tls]')}") from exc


MAX_MODEL_BYTES = MAX_UPDATE_BYTES // 4
"""A manifest that announces more is refused: no board that this is meant for trains 16 million parameters."""

MAX_MODEL_CHUNKS = 65536
"""Bounds the bookkeeping of a manifest that cuts its blob into crumbs."""
