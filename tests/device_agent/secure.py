"""A driven core with pinned keys, and what an aggregator that signs says to it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from device_agent import commands as do
from protocol.messages import Manifest
from protocol.packing import encode
from protocol.sealing import Opener
from protocol.signing import Signer
from tests.device_agent.harness import TOPICS, Driver, manifest, model_bytes

K1, K2, K3, K4 = (bytes([number]) * 32 for number in (1, 2, 3, 4))
PUBLIC = {key: Signer([key]).public_keys[0] for key in (K1, K2, K3, K4)}
FIRST, SECOND, STRANGER = Signer([K1], PUBLIC[K2]), Signer([K2, K1], PUBLIC[K3]), Signer([K4])
OPENER = Opener([("x25519", b"s" * 32)])
GENERATION = 1_800_000_000_000


def fresh(pins: tuple[bytes, ...] = (PUBLIC[K1],)) -> Driver:
    driver = Driver(pins=pins)
    driver.start()
    return driver


def signed(version: int = 1, signer: Signer = FIRST, **fields: Any) -> Manifest:
    fields = {"generation": GENERATION, "issued": GENERATION + 1, "signing_keys": list(signer.public_keys)} | fields
    return replace(manifest(version), **fields)


def announce(driver: Driver, what: Manifest | bytes, signer: Signer = FIRST) -> list[do.Command]:
    payload = what if isinstance(what, bytes) else signer.sign("manifest", encode(what))
    return driver.receive(TOPICS.current_model, payload, retain=True)


def hold(driver: Driver, what: Manifest, signer: Signer = FIRST) -> None:
    announce(driver, what, signer)
    driver.chunks(what, model_bytes(what.version))
    assert held(driver) == what.version


def held(driver: Driver) -> int | None:
    driver.wait(1.0)
    return driver.states()[-1].version


def refused(driver: Driver, code: str, commands: list[do.Command]) -> None:
    """It changed nothing, is counted and told once, and stands in the state."""
    assert not driver.all(do.Persist, commands)
    assert not driver.all(do.CacheModel, commands)
    assert not driver.subscribed(commands)
    driver.wait(1.0)
    kind = code.partition(" ")[0]
    assert driver.states()[-1].reason.startswith(f"{kind} refused: ")
    assert driver.last(do.PublishMetrics).metrics.refusals[code] >= 1
    assert [log.message for log in driver.all(do.Log) if code in log.message] == [f"{code}: refused"]
