"""Boards that start in 1970, with real processes, a real broker and real certificates."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from protocol.clock import EARLIEST_S
from tests.integration.test_signed_and_sealed import Keys
from tests.support.false_clock import Dated
from tests.support.federation import wait_until
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.certificates import Authority
    from tests.support.manager import Manager


@pytest.fixture
def dated(tmp_path: Path, ours: Authority, tls_broker: EmbeddedBroker) -> Dated:
    return Dated(tmp_path, tls_broker.port, goal=1, interval_s=0.0, tls=ours.client())


def status(federation: Dated, name: str) -> str:
    """What ``fedmq-agent status`` says of the clock, by the right clock of this process."""
    command = [sys.executable, "-m", "device_agent", "status", "--json"]
    done = subprocess.run(
        [*command, "--config", str(federation.directory / f"{name}.toml")], capture_output=True, check=True
    )
    return str(json.loads(done.stdout)["clock"])


def test_a_board_in_1970_trains_offline_and_connects_when_its_clock_is_set(dated: Dated, manager: Manager) -> None:
    dated.step_intervals_s = {"device-0": 1000.0}
    with dated:
        dated.start_aggregator()
        dated.start_agent(0)
        wait_until(lambda: "training version=0" in dated.log("device-0"), "the agent to have the model")
        dated.kill("device-0")

        dated.step_intervals_s, dated.wrong = {}, {"device-0"}
        dated.start_agent(0)
        wait_until(lambda: bool(dated.query("SELECT 1 FROM outbox", "device-0")), "a training in 1970")
        manager.wait_for_line("READY=1")
        manager.wait_for_status("no connection (the clock says 1970-01-01 00:0", "waiting up to 600 s")
        assert "the clock says 1970-01-01 00:01 UTC, and cannot be right" in dated.log("device-0")
        assert not dated.accepted()

        dated.set_clocks()
        wait_until(lambda: bool(dated.accepted()), "what was trained in 1970")
        dated.stop_all()
        dated.check(agents=1)
        known = int((dated.directory / "device-0-state" / "clock").read_text())
        assert known > EARLIEST_S, "the certificate vouched for the date"
        assert status(dated, "device-0") == "as it should be"
        (dated.directory / "device-0-state" / "clock").write_text("4000000000")
        assert "it was later already" in status(dated, "device-0")


def test_a_date_that_was_later_already_is_not_believed_and_when_the_wait_is_over_tls_is_tried(dated: Dated) -> None:
    """Nobody sets the clock: the broker's certificate is younger than this date, so OpenSSL has the last word."""
    dated.clock_wait_s = 0.2
    dated.begins = EARLIEST_S + 1.0
    dated.wrong = {"device-0"}
    (dated.directory / "device-0-state").mkdir()
    (dated.directory / "device-0-state" / "clock").write_text(f"{EARLIEST_S + 864000:.0f}")
    with dated:
        dated.start_aggregator()
        dated.start_agent(0)
        wait_until(lambda: "it was later already" in dated.log("device-0"), "a wait")
        wait_until(lambda: "is not valid before" in dated.log("device-0"), "an attempt all the same")
        dated.set_clocks()
        dated.wait_for_version(1)
        dated.stop_all()
        dated.check(agents=1)


def test_a_signing_aggregator_waits_for_the_date_before_it_numbers_an_epoch(dated: Dated) -> None:
    dated.aggregator_keys = Keys(dated.directory).aggregator("k1")
    dated.agent_keys = {"federation_keys": "federation.json"}
    dated.wrong = {"aggregator"}
    with dated:
        dated.start_aggregator()
        wait_until(lambda: "waiting up to 600 s" in dated.log("aggregator"), "the aggregator to say why")
        assert dated.version() == -1
        dated.set_clocks()
        dated.start_agent(0)
        dated.wait_for_version(1)
        dated.stop_all()
        dated.check(agents=1)
        assert int(dated.query("SELECT value FROM meta WHERE key = 'generation'")[0][0]) > EARLIEST_S * 1000


def test_a_signing_aggregator_gives_up_without_a_date_and_leaves_nothing_behind(dated: Dated) -> None:
    dated.aggregator_keys = Keys(dated.directory).aggregator("k1")
    dated.wrong, dated.clock_wait_s = {"aggregator"}, 0.0
    with dated:
        process = dated.start_aggregator()
        assert process.wait(PATIENCE_S) == 1
        log = dated.log("aggregator")
        assert "set the clock, then start again" in log
        assert "Traceback" not in log
        dated.set_clocks()
        dated.start_aggregator()
        dated.wait_for_version(0)
