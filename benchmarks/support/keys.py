"""A federation's keys for a benchmark: what the ``[security]`` tables of its aggregator and its agents say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.federation import FEDERATION
from protocol.adapters.key_files import new_sealing_key, new_signing_key, raw_public_signing_key
from protocol.adapters.pins import federation_json
from protocol.fields import SealingSuite


@dataclass(frozen=True, slots=True)
class SecurityTables:
    """What to write into ``aggregator.toml`` and into each ``agent.toml``."""

    aggregator: Mapping[str, Any]
    agent: Mapping[str, Any]


def make_keys(folder: Path, suite: SealingSuite = "x25519") -> SecurityTables:
    """Write a signing key, a sealing key and ``federation.json`` into the folder."""
    signing, sealing, pins = folder / "signing.key", folder / "sealing.key", folder / "federation.json"
    for file, content in ((signing, new_signing_key()), (sealing, new_sealing_key(suite))):
        file.touch(0o600)
        file.write_bytes(content)
    pins.write_bytes(federation_json(FEDERATION, [raw_public_signing_key(signing.read_bytes())]))
    aggregator = {"signing_keys": [str(signing)], "sealing_keys": [str(sealing)]}
    return SecurityTables(aggregator, {"federation_keys": str(pins)})
