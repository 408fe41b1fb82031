"""A real Mosquitto, started with the files that ``fedmq provision`` wrote."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from fedmq.__main__ import app
from fedmq.embedded_broker import EmbeddedBroker
from protocol.topics import Topics
from tests.provision.desk import Desk
from tests.provision.plant import Plant, free_port
from tests.support.secure import Guest

TOPICS = Topics("plant")
DENIED = "Not authorized"


def test_devices_come_in_and_a_revoked_one_is_shut_out_at_once(plant: Plant) -> None:
    with Guest(plant.port, plant.context("press-01")) as stolen, Guest(plant.port, plant.context("press-02")) as other:
        assert stolen.publish(TOPICS.device_state("press-01")) != DENIED
        assert stolen.publish(TOPICS.device_state("press-02")) == DENIED

        plant.desk("revoke", "press-01")
        plant.reload()

        assert plant.refuses("press-01")
        assert stolen.publish(TOPICS.device_state("press-01")) == DENIED
        assert other.publish(TOPICS.device_state("press-02")) != DENIED
    assert not plant.refuses("press-02")
    plant.desk("device", "press-01", "--again")
    plant.desk.unpack("press-01", plant.folder / "carried" / "bundles" / "press-01-again")
    plant.reload()
    with Guest(plant.port, plant.context("press-01-again")) as again:
        assert again.publish(TOPICS.device_state("press-01")) != DENIED


def test_the_overlap_of_a_device_ends_when_it_is_told_to(plant: Plant) -> None:
    plant.context("press-01")
    plant.desk("rotate", "device", "press-01")
    plant.desk.unpack("press-01", plant.folder / "carried" / "bundles" / "press-01-new")

    plant.reload()
    assert not plant.refuses("press-01")
    assert not plant.refuses("press-01-new")
    plant.desk("rotate", "device", "press-01", "--end-overlap")
    plant.reload()
    assert plant.refuses("press-01")
    with Guest(plant.port, plant.context("press-01-new")) as device:
        assert device.publish(TOPICS.device_state("press-01")) != DENIED


def test_check_looks_at_the_broker_itself(plant: Plant, tmp_path: Path) -> None:
    where = f"localhost:{plant.port}"
    assert "all is well" in plant.desk("check", "--connect", where)
    plant.desk("rotate", "broker", "--broker", "127.0.0.1")
    assert "has been replaced since" in plant.desk.findings("--connect", where)
    plant.reload()
    assert "is not good for localhost" in plant.desk.findings("--connect", where)
    assert "replaced since" not in plant.desk.findings("--connect", f"127.0.0.1:{plant.port}")
    plant.desk("rotate", "broker", "--broker", "localhost", "--broker", "127.0.0.1")
    plant.reload()

    other = Desk(tmp_path / "other")
    other.init()
    assert "of another authority" in other.findings("--connect", where)
    assert "refused" in plant.desk.findings("--connect", f"localhost:{free_port()}")

    plant.desk("rotate", "aggregator")
    plant.desk("rotate", "aggregator", "--end-overlap")  # the broker has not heard of it, and takes the new one
    assert "all is well" in plant.desk("check", "--connect", where)


def test_check_tells_of_a_port_without_tls(desk: Desk, broker: EmbeddedBroker) -> None:
    assert "does not speak TLS" in desk.findings("--connect", f"127.0.0.1:{broker.port}")


def test_a_monitor_watches_with_its_bundle(plant: Plant) -> None:
    plant.desk("monitor", "office")
    plant.reload()
    bundle = plant.desk.folder / "monitors" / "office.fedmq"
    state = b'{"device_id": "press-01", "state": "idle", "boot_id": "b", "version": 1}'
    with Guest(plant.port, plant.context("press-01")) as device:
        assert device.publish(TOPICS.device_state("press-01"), state, retain=True) != DENIED

    result = CliRunner().invoke(app, ["monitor", "--bundle", str(bundle), "--json"])
    assert result.exit_code == 0, result.output
    assert "plant" in result.stdout
    wrong = CliRunner().invoke(app, ["monitor", "--bundle", str(plant.desk.folder / "bundles" / "press-01.fedmq")])
    assert wrong.exit_code == 1
    assert "fedmq provision monitor NAME" in wrong.stderr
