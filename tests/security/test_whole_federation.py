"""Agents and an aggregator as they are shipped, on a broker as it is shipped: TLS, names, rights."""

from __future__ import annotations

from pathlib import Path

import broker_config
from tests.support.federation import wait_until
from tests.support.secure import SecureFederation, secure_broker


def test_the_shipped_configuration_lets_the_shipped_processes_work(tmp_path: Path) -> None:
    with secure_broker(tmp_path / "secured", extra="log_type all\n") as (broker, keys):
        federation = SecureFederation(tmp_path, broker.port)
        federation.keys = keys
        with federation:
            federation.start_aggregator()
            federation.start_agent(0)
            federation.start_agent(1)
            federation.wait_for_version(2)
            broker.kill()
            broker.restart()
            federation.wait_for_versions_more(2)
            federation.stop_all()
            federation.check(agents=2)
            text = broker.log.read_text()
            assert "Denied" not in text, "a right is missing"
            assert f"u'{broker_config.AGGREGATOR}'" in text


def test_a_revoked_agent_is_shut_out_and_the_others_work_on(tmp_path: Path) -> None:
    with secure_broker(tmp_path / "secured") as (broker, keys):
        federation = SecureFederation(tmp_path, broker.port, goal=1)
        federation.keys = keys
        with federation:
            federation.start_aggregator()
            federation.start_agent(0)
            federation.start_agent(1)
            wait_until(lambda: len({device for device, _, _ in federation.accepted()}) == 2, "updates of both")
            keys.revoke("device-1")
            broker.restart()
            federation.wait_for_versions_more(1)
            wait_until(lambda: "revoked" in federation.log("device-1"), "the reason in the revoked agent's log")
            seen = sum(device == "device-1" for device, _, _ in federation.accepted())
            federation.wait_for_versions_more(3)
            assert sum(device == "device-1" for device, _, _ in federation.accepted()) == seen
            federation.stop_all()
