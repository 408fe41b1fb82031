"""Devices and an aggregator in one world, and what must hold of them whatever happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from aggregator.configuration import (
    AggregationTable,
    AggregatorSettings,
    AggregatorTable,
    CanaryTable,
    DownlinkTable,
    ScheduleTable,
)
from aggregator.downlink import vector_of
from aggregator.keyring import NO_KEYS, Keyring
from aggregator.records import Aggregation
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings, OutboxSettings, PolicySettings
from models import build
from protocol.messages import ModelUpdate, Participation
from tests.simulation.aggregator import AggregatorProcess
from tests.simulation.broker import Broker
from tests.simulation.device import DeviceProcess
from tests.simulation.world import FINE, Weather, World

SPEC = {"kind": "softmax", "inputs": 60, "outputs": 3}
"""183 parameters: three chunks each way at the smallest chunk size."""


def settings_of_aggregator(schedule: ScheduleTable, delta_codec: Literal["", "int8"]) -> AggregatorSettings:
    return AggregatorSettings(
        aggregator=AggregatorTable(federation="sim", state_dir="unused"),
        model=dict(SPEC),
        training={"epochs": 1, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1},
        participation=Participation(codec="f32"),
        aggregation=AggregationTable(max_staleness=8),
        schedule=schedule,
        downlink=DownlinkTable(chunk_bytes=256, delta_codec=delta_codec),
    )


def settings_of_device(name: str) -> AgentSettings:
    return AgentSettings(
        device=DeviceSettings(id=name, federation="sim", state_dir=str(Path("unused"))),
        data=DataSettings(path="unused", watch_s=0.0),
        outbox=OutboxSettings(receipt_timeout_s=1.0, resend_max_s=8.0, chunk_bytes=256, max_updates=4),
        policy=PolicySettings(check_s=0.5),
    )


class Fleet:
    """A federation under a virtual clock."""

    def __init__(
        self,
        seed: int,
        weather: Weather,
        devices: int = 5,
        schedule: ScheduleTable | None = None,
        delta_codec: Literal["", "int8"] = "",
        *,
        keys: Keyring = NO_KEYS,
        canary: CanaryTable | None = None,
    ) -> None:
        self.world = World(seed, weather)
        self.broker = Broker(self.world)
        table = settings_of_aggregator(schedule or ScheduleTable(goal=3, interval_s=10.0), delta_codec)
        if canary is not None:
            table = replace(table, canary=canary)
        self.aggregator = AggregatorProcess(self.world, self.broker, table, keys)
        size = build(SPEC).layout.size
        # Speeds differ by a factor of about 30.
        self.devices = [
            DeviceProcess(self.world, self.broker, settings_of_device(f"device-{i}"), size, 0.3 * 2.0**i, keys=keys)
            for i in range(devices)
        ]
        if weather.cut_every_s:
            self.world.after(weather.cut_every_s, self._cut)
        if weather.broker_restart_every_s:
            self.world.after(weather.broker_restart_every_s, self._restart_broker)

    def _cut(self) -> None:
        mean = self.world.weather.cut_every_s
        if not mean:
            return
        if self.broker.links:
            self.broker.links[self.world.rng.choice(sorted(self.broker.links))].cut()
        self.world.after(self.world.rng.expovariate(1.0 / mean), self._cut)

    def _restart_broker(self) -> None:
        mean = self.world.weather.broker_restart_every_s
        if not mean:
            return
        forget = self.world.chance(self.world.weather.broker_forgets)
        self.broker.restart(forget=forget, down_s=self.world.rng.uniform(0.1, 5.0))
        self.world.after(self.world.rng.expovariate(1.0 / mean), self._restart_broker)

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def clear_up(self, recovered: Callable[[], bool], at_most_s: float = 120.0) -> bool:
        """Let the weather turn fine and the system go on by itself; return whether it has recovered in time."""
        self.world.weather = FINE
        give_up = self.world.now + at_most_s
        while not recovered() and self.world.now < give_up:
            self.run(1.0)
        return recovered()

    # -- what must hold ---------------------------------------------------------------------------------------

    def check(self) -> None:
        store = self.aggregator.store
        accepted = store.identities()
        assert max(Counter(accepted).values(), default=1) == 1, "an update counted twice"
        created = self.created()
        assert set(accepted) <= set(created), "an update that no device made"
        counters = store.restored.counters
        assert counters.accepted == len(accepted) == store.journalled
        assert counters.folded + counters.set_aside == counters.accepted
        withdrawn = [a for a in store.aggregations if a.outcome == "withdrawn"]
        assert counters.set_aside == sum(len(a.lineage) for a in withdrawn)
        assert counters.versions_withdrawn == len(withdrawn)
        assert [v.version for v in store.versions] == list(range(len(store.versions)))
        self._check_devices(set(accepted))
        self._check_models()
        self._check_parameters(created)

    def created(self) -> dict[tuple[str, str, int], ModelUpdate]:
        return {identity: update for device in self.devices for identity, update in device.created.items()}

    def _check_devices(self, accepted: set[tuple[str, str, int]]) -> None:
        for device in self.devices:
            counts = device.disk.state.durable.counters
            settled = counts.updates_accepted + counts.updates_duplicate + counts.updates_stale
            settled += counts.updates_rejected + counts.updates_dropped
            waiting = sum(row.entry.kind == "updates" for row in device.disk.rows.values())
            assert counts.updates_created == len(device.created) == settled + waiting
            self._check_reports(device)
            mine = sum(identity[0] == device.name for identity in accepted)
            # Accepted but not yet, or never, told: still in the outbox, or dropped from it.
            assert counts.updates_accepted + counts.updates_duplicate <= mine
            assert mine <= counts.updates_accepted + counts.updates_duplicate + len(device.disk.rows) + (
                counts.updates_dropped + counts.updates_stale
            )

    def _check_reports(self, device: DeviceProcess) -> None:
        counts = device.disk.state.durable.counters
        settled = counts.reports_accepted + counts.reports_duplicate + counts.reports_stale
        settled += counts.reports_rejected + counts.reports_dropped
        waiting = sum(row.entry.kind == "reports" for row in device.disk.rows.values())
        assert counts.reports_created == len(device.reports) == settled + waiting
        assert counts.reports_rejected == 0
        answered = [a for a in self.aggregator.store.answers if a.device_id == device.name]
        assert {(a.device_id, a.incarnation, a.sequence) for a in answered} <= device.reports

    def _check_models(self) -> None:
        """Whichever way a device came by a version, it held the very bits of it."""
        versions = {version.version: version.digest for version in self.aggregator.store.versions}
        for device in self.devices:
            assert device.held, "a device that never got a model"
            assert device.held.items() <= versions.items()

    def _check_parameters(self, created: dict[tuple[str, str, int], ModelUpdate]) -> None:
        store = self.aggregator.store
        expected = vector_of(store.versions[0].parameters).astype(np.float64)
        for aggregation in store.aggregations:
            if aggregation.outcome in {"withdrawn", "candidate"}:
                continue
            assert aggregation.outcome == "published"
            expected = expected + mean_of(aggregation, created)
        # What a lossy way down rounds off stays in the master, and never adds up.
        np.testing.assert_allclose(store.restored.server.master, expected, rtol=0, atol=1e-5)
        steps = [version.parameters for version in store.versions[-2:]]
        largest = np.abs(vector_of(steps[-1]) - vector_of(steps[0])).max()
        coarseness = largest / 64.0 if self.aggregator.settings.downlink.delta_codec else 0.0
        found = vector_of(store.versions[-1].parameters)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 + coarseness)


def mean_of(aggregation: Aggregation, created: dict[tuple[str, str, int], ModelUpdate]) -> NDArray[np.float64]:
    """Return the weighted mean as the paper writes it, from what the devices sent."""
    total, weights = np.zeros(0), 0.0
    for line in aggregation.lineage:
        update = created[line.device_id, line.incarnation, line.sequence]
        age = aggregation.base_version - update.base_version
        # Accepted while a candidate was tried, and counted from that; then it was withdrawn.
        assert line.staleness - age in {0, 1}
        weight = update.num_examples / np.sqrt(1.0 + line.staleness)
        delta = weight * np.frombuffer(update.delta, "<f4").astype(np.float64)
        total = delta if total.size == 0 else total + delta
        weights += weight
    mean: NDArray[np.float64] = total / weights
    return mean
