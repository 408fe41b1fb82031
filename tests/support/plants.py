"""A store with versions that are put there by hand, for tests of cards and of what leads back to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from aggregator.adapters.card_sources import card_in
from aggregator.adapters.exporting import Wish, export
from aggregator.adapters.exports import ExportLog
from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import prepare
from aggregator.adapters.registry import open_registry
from aggregator.buffer import Contribution
from aggregator.card import Card
from aggregator.commands import SaveAggregation
from aggregator.configuration import DownlinkTable
from aggregator.downlink import render
from aggregator.recording import record_of, shelf_of
from aggregator.records import Aggregation, ServerState
from tests.support.aggregators import write_config
from tests.support.stores import contribution


class Plant:
    """A store with versions that are put there by hand."""

    def __init__(self, directory: Path, more: str = "") -> None:
        self.config = write_config(directory, more=more)
        self.prepared = prepare(self.config)
        self.state_dir = self.prepared.state_dir
        self.newest = 0
        self.put()

    def put(self, *commands: Any) -> None:
        store = open_store(self.state_dir, self.prepared.founding, self.prepared.settings.registry)
        store.apply(list(commands))
        store.close()

    def version(
        self,
        lineage: tuple[Contribution, ...],
        kind: Any = "aggregate",
        withdrawn: Any = (),
        why: str = "",
        found: dict[str, float] | None = None,
        **fields: Any,
    ) -> int:
        number, base = self.newest + 1, self.newest
        master = np.full(self.prepared.model.layout.size, number, np.float32)
        made = render(master, DownlinkTable(), np.random.default_rng(0))
        record = replace(
            record_of(number, kind, made, 1.7e9 + number),
            num_updates=len(lineage),
            total_weight=sum(each.weight for each in lineage),
            step_norm=0.25,
            **fields,
        )
        outcome: Any = "set-aside" if kind == "rollback" else "published"
        ended = Aggregation(
            outcome=outcome,
            base_version=base,
            version=number,
            reason=why,
            created=1.7e9 + number,
            lineage=lineage,
            metrics=found or {},
        )
        server = ServerState(master=master, optimizer="plain", vectors=())
        shelf = tuple(shelf_of(number, record))
        self.put(SaveAggregation(aggregation=ended, version=record, server=server, shelf=shelf, withdrawn=withdrawn))
        self.newest = number
        return number

    def withheld(self, reason: str, outcome: Any = "withheld") -> None:
        ended = Aggregation(
            outcome=outcome,
            base_version=self.newest,
            version=None,
            reason=reason,
            created=1.7e9,
            lineage=(contribution(),),
            metrics={"loss": float("inf")},
        )
        self.put(SaveAggregation(aggregation=ended))

    def card(self, version: int | None = None) -> Card:
        return card_in(self.state_dir, version)

    def export(self, version: int, to: Path, **wish: Any) -> dict[str, Any]:
        with open_registry(self.state_dir) as registry:
            return export(registry, ExportLog(self.state_dir), Wish(version=version, to=to, **wish))


def given(device: str, base: int, staleness: int, examples: int, **more: Any) -> Contribution:
    weight = examples / (1 + staleness) ** 0.5
    changes = {"base_version": base, "staleness": staleness, "num_examples": examples, "weight": weight, **more}
    return msgspec.structs.replace(contribution(device), **changes)
