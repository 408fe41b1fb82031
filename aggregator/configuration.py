"""What ``aggregator.toml`` may say: every key with its type, its bounds and its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from models.trimming import LEAST_TRIMMED
from models.weighting import EFFECTIVE_BETA, MAX_CLASS_WEIGHT, WeightingName
from protocol.clock import ClockSettings
from protocol.fields import Identifier
from protocol.link import BrokerSettings
from protocol.messages import MAX_CHUNK_BYTES, Participation
from protocol.settings import FilePath, OptionalFilePath

NonNegative: TypeAlias = Annotated[float, Meta(ge=0.0)]
Positive: TypeAlias = Annotated[float, Meta(gt=0.0)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
PositiveCount: TypeAlias = Annotated[int, Meta(ge=1)]


class AggregatorTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[aggregator]``: who this is and where its state lives."""

    federation: Identifier
    state_dir: Annotated[str, Meta(min_length=1)] = "/var/lib/fedmq/aggregator"
    seed: Count = 0
    """Seeds the initial parameters."""


class AggregationTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[aggregation]``: how updates become a step of the model."""

    staleness: Literal["constant", "polynomial", "hinge"] = "polynomial"
    # Bounded, as is the slope below, so that no weight is rounded to zero: the mean of such updates does not exist.
    staleness_exponent: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.5
    """``a`` of ``(1 + tau) ** -a``."""
    hinge_versions: NonNegative = 4.0
    """``b`` of the hinge: full weight up to this staleness."""
    hinge_slope: Annotated[float, Meta(gt=0.0, le=1e6)] = 0.5
    """``a`` of the hinge: ``1 / (1 + a (tau - b))`` beyond it."""
    max_staleness: Count = 20
    damping: bool = False
    """Multiply the server's step by the buffer's mean staleness weight."""
    server_optimizer: Literal["plain", "momentum", "adam"] = "plain"
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9
    server_beta2: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.99
    server_epsilon: Positive = 1e-3


class ScheduleTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[schedule]``: when a version is made; whichever of goal, interval and cron comes first."""

    goal: Count = 4
    """So many buffered updates make a version at once; 0: none do."""
    interval_s: NonNegative = 0.0
    cron: str = ""
    """Five fields, as in crontab(5)."""
    quorum: PositiveCount = 1
    """Never a version of fewer updates."""


class AdmissionTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[admission]``: what an update may be."""

    max_update_norm: Positive = 1000.0
    """Euclidean norm of a delta."""
    max_examples: PositiveCount = 1_000_000
    """An update that claims more would drown all others."""
    max_devices: PositiveCount = 100_000
    max_assembly_bytes: PositiveCount = 256 * 1024 * 1024
    """Memory for updates that arrive in chunks, over all devices."""
    assembly_timeout_s: Positive = 900.0
    clip_factor: NonNegative = 10.0
    """A delta longer than so many times the median of the devices' last norms is shortened to that; 0: never."""
    messages_per_s: NonNegative = 100.0
    """Of one device on its update topic, in the long run; chunks that bring an upload on do not count. 0: no limit."""
    message_burst: Annotated[float, Meta(ge=1.0)] = 500.0
    """So many messages of a device at once."""
    bytes_per_s: NonNegative = 4_000_000.0
    """Of one device on its update topic, in the long run. 0: no limit."""
    max_waiting_messages: PositiveCount = 64
    """Of one topic in the aggregator's inbox: a flood crowds out only itself."""
    quarantine_after: Count = 20
    """So many updates of a device refused in a row, and nothing of it is looked at until it is released; 0: never."""


class StatisticsTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[statistics]``: what the federation's data look like, and what follows from it."""

    before_training: bool = False
    """Announce version 0 without training, ask for statistics, and make version 1 with the constants they give."""
    min_devices: PositiveCount = 3
    """So many devices with examples must have answered."""
    wait_s: NonNegative = 600.0
    """After so long one device is enough. Counted by the process: a restart begins anew. 0: wait for all of them."""
    min_examples: PositiveCount = 1
    """A device with fewer says that it has none."""
    class_weights: WeightingName = "none"
    """Devices train with weights of the classes, by the federation's counts (see ``models.weighting``). Counted by the
    survey before training, or by one of its own while training goes on without weights."""
    max_class_weight: Annotated[float, Meta(ge=1.0, le=1000.0)] = MAX_CLASS_WEIGHT
    """No class counts more than so many times the least."""
    effective_beta: Annotated[float, Meta(ge=0.0, lt=1.0)] = EFFECTIVE_BETA
    """Of ``effective``: from 0 (all alike) towards 1 (``balanced``)."""


class BackboneTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[backbone]``: a frozen network that devices run before the model."""

    path: OptionalFilePath = ""
    """A .tflite file; empty: samples are the model's inputs themselves."""


class AnomalyTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[anomaly]``: from which error on devices call something an anomaly."""

    quantile: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Of the errors over the fleet's held-out examples; 0: there is no threshold."""
    margin: Positive = 1.0
    """The threshold is so many times that."""
    min_devices: PositiveCount = 3
    """So many devices with held-out examples must have answered."""
    wait_s: NonNegative = 600.0
    """After so long one device is enough. Counted by the process: a restart begins anew. 0: wait for all of them."""
    min_examples: PositiveCount = 1
    """A device with fewer says that it has none."""
    every_versions: PositiveCount = 20
    """Measured again when the version is twice as high, or so many above, whichever comes first."""


class EvaluationTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[evaluation]``: a gate before publishing; without data it checks only that the step is finite and bounded."""

    path: str = ""
    """NPZ file with arrays x and y."""
    max_accuracy_drop: NonNegative = 1.0
    """Withhold a version whose accuracy is lower than the current one's by more; 1.0 never does."""
    max_loss_ratio: NonNegative = 0.0
    """Withhold a version whose loss exceeds the current one's by this factor; 0 never does."""
    max_step_norm: NonNegative = 0.0
    """Withhold a version whose step from the current one is longer; 0: no bound."""


class CanaryTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[canary]``: a new version is tried by a part of the fleet before all of it gets it."""

    fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Share of the fleet that compares a candidate with the current version; 0: versions are published at once."""
    min_answers: PositiveCount = 3
    """Devices with held-out examples that must have compared."""
    max_worse: NonNegative = 0.02
    """What is allowed: of an accuracy in points (0.02: two per cent), of all else as a share of the current one's."""
    measure: Literal["", "accuracy", "loss", "mse", "mae", "error"] = ""
    """By which to judge; empty: the task's own (accuracy, mse or error)."""
    certainty: NonNegative = 1.0
    """Wait for more answers while the margin is within so many standard errors; 0: never."""
    max_weight: PositiveCount = 100
    """A device counts as much as it has examples, at most so many, and at most twice as much as the median device."""
    trim: Annotated[float, Meta(ge=0.0, lt=0.5)] = 0.2
    """Share of the devices that is left out at each end, at least one of three or more. 0: the plain mean, which one
    device can move anywhere."""
    min_examples: PositiveCount = 1
    """A device with fewer says that it has none."""
    wait_s: Positive = 600.0
    """Then it is decided on what there is. Counted by the process: a restart begins anew."""
    on_timeout: Literal["withdraw", "publish"] = "withdraw"
    """What becomes of a candidate that too few have compared by then."""

    def warnings(self) -> list[str]:
        """Return what is allowed, and lets a single device decide."""
        if self.fraction and not self.trim:
            return ["[canary] trim = 0: one device that reports nonsense decides on every candidate"]
        if self.fraction and self.min_answers < LEAST_TRIMMED:
            few = f"[canary] min_answers = {self.min_answers}: of fewer than {LEAST_TRIMMED} devices"
            return [f"{few} one that reports nonsense decides alone"]
        return []


class DownlinkTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[downlink]``: how versions travel to the devices."""

    chunk_bytes: Annotated[int, Meta(ge=256, le=MAX_CHUNK_BYTES)] = 65536
    encoding: Literal["f32", "f16"] = "f32"
    delta_codec: Literal["", "int8"] = ""
    """Also offer each version as a small step from the one before it."""
    keep_versions: Annotated[int, Meta(ge=1, le=100)] = 3
    """So many versions' blobs stay on the broker."""

    def __post_init__(self) -> None:
        # A device that fetches the whole must get the same bits as one that takes the small step.
        if self.delta_codec and self.encoding != "f32":
            raise ValueError(f"delta_codec {self.delta_codec!r} needs encoding 'f32', not {self.encoding!r}")


class RegistryTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[registry]``: what is kept of the past."""

    keep_parameters: PositiveCount = 500
    """Parameters of so many newest versions; older ones keep their lineage but cannot be rolled back to."""
    keep_lineage: PositiveCount = 100_000
    """Lineage of so many newest versions."""
    export_tflite: OptionalFilePath = ""
    """Folder in which every version appears as a .tflite file; empty: none."""
    keep_exports: PositiveCount = 10
    """So many newest files."""


class PaceTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[pace]``: how receipts steer the fleet."""

    updates_per_s: NonNegative = 0.0
    """Spread the fleet's updates to about this rate; 0: as fast as devices like."""


class MetricsTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[metrics]``."""

    interval_s: Positive = 5.0
    broker_dropped_topic: str = ""
    """Mosquitto: ``$SYS/broker/publish/messages/dropped``. Some brokers cut clients that ask for $SYS."""


class SecurityTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[security]``: what is trusted."""

    signing_keys: Annotated[list[FilePath], Meta(max_length=2)] = []
    """The current key and, while devices learn of it, the one before; empty: nothing is signed."""
    standby_signing_key: OptionalFilePath = ""
    """Public half of the key that is to come next, so that devices know it before it is needed."""
    sealing_keys: Annotated[list[FilePath], Meta(max_length=8)] = []
    """The first is announced; all of them still open updates. Empty: updates travel in the clear."""
    insecure: bool = False
    """Allow a broker on another machine without TLS."""

    def __post_init__(self) -> None:
        for name in ("standby_signing_key", "sealing_keys"):
            if getattr(self, name) and not self.signing_keys:
                raise ValueError(f"{name} without signing_keys: whoever carries the announcement could swap the key")


class AggregatorSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    aggregator: AggregatorTable
    model: dict[str, Any]
    """A model spec, as ``models.build`` takes it."""
    training: dict[str, Any]
    """A training plan, as ``models.TrainingPlan`` takes it."""
    features: dict[str, Any] = {}
    """A pipeline, as ``models.Pipeline`` takes it; empty: devices bring ready examples."""
    personal: dict[str, Any] = {}
    """What devices keep to themselves, as ``models.Personal`` takes it; empty: nothing."""
    backbone: BackboneTable = BackboneTable()
    broker: BrokerSettings = BrokerSettings()
    participation: Participation = Participation()
    aggregation: AggregationTable = AggregationTable()
    schedule: ScheduleTable = ScheduleTable()
    admission: AdmissionTable = AdmissionTable()
    evaluation: EvaluationTable = EvaluationTable()
    statistics: StatisticsTable = StatisticsTable()
    anomaly: AnomalyTable = AnomalyTable()
    canary: CanaryTable = CanaryTable()
    downlink: DownlinkTable = DownlinkTable()
    registry: RegistryTable = RegistryTable()
    pace: PaceTable = PaceTable()
    metrics: MetricsTable = MetricsTable()
    clock: ClockSettings = ClockSettings()
    security: SecurityTable = SecurityTable()

    def __post_init__(self) -> None:
        security = self.security
        self.broker.check_exposure(
            insecure=security.insecure,
            missing="" if security.signing_keys else "signing_keys",
            keys="fedmq provision makes them",
        )

    def warnings(self) -> list[str]:
        """Return what is allowed, and still may not be what was meant."""
        found = []
        schedule, limit = self.schedule, self.participation.contributions_per_version
        needed = -(-max(schedule.goal, schedule.quorum) // limit)
        if schedule.goal and not schedule.interval_s and not schedule.cron and needed > 1:
            found.append(
                f"[schedule] goal = {schedule.goal} and neither interval_s nor cron: "
                f"with fewer than {needed} devices there is never a version"
            )
        if self.personal.get("private") and self.evaluation.path:
            found.append(
                "[evaluation] measures versions with private parameters as they were in the beginning, which is not "
                "what devices predict with: leave max_accuracy_drop at 1.0 and max_loss_ratio at 0, or set path to ''"
            )
        return [*found, *self.canary.warnings()]
