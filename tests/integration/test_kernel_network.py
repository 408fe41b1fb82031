"""Packets that the kernel really loses: TCP, paho, Mosquitto and both ends have to live with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmq.processes import Child
from tests.support.federation import Federation, wait_until
from tests.support.kernel_network import BROKER_PORT, SITE_ADDRESS, KernelNetwork

MODEL = {"kind": "mlp", "inputs": 64, "hidden": [128], "outputs": 10}
"""9,610 parameters: a model of 27 packets, and updates of 7."""


@pytest.fixture
def network() -> Iterator[KernelNetwork]:
    with KernelNetwork() as made:
        yield made


@pytest.fixture
def mosquitto_at_site(network: KernelNetwork, tmp_path: Path) -> Iterator[Child]:
    with network.mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def federation(network: KernelNetwork, mosquitto_at_site: Child, tmp_path: Path) -> Federation:
    assert mosquitto_at_site.running
    return Federation(
        tmp_path,
        BROKER_PORT,
        model=MODEL,
        host=SITE_ADDRESS,
        aggregator_within=network.site.within,
        agents_within=network.field.within,
    )


def updates_of(federation: Federation, device: str) -> int:
    return sum(name == device for name, _, _ in federation.accepted())


def test_a_tenth_of_all_packets_lost_both_ways_loses_no_update(network: KernelNetwork, federation: Federation) -> None:
    network.lose(percent=10)
    federation.aggregator_within = network.field.within  # it does no better than its devices
    with federation:
        federation.start_aggregator()
        for number in range(3):
            federation.start_agent(number)

        wait_until(lambda: min(packets.arrived for packets in network.counted()) > 400, "400 packets each way")
        federation.wait_for_version(6)
        federation.wait_for_all(3)
        federation.stop_all()

        federation.check(agents=3)
        for packets in network.counted():
            # 400 draws of one in ten: five standard deviations are 0.075.
            assert 0.025 < packets.lost / packets.arrived < 0.175


def test_a_line_that_goes_dead_without_a_word_is_noticed_by_both_ends(
    network: KernelNetwork, mosquitto_at_site: Child, federation: Federation
) -> None:
    network.lose(percent=0)
    federation.keepalive_s = 5
    federation.goal = 1
    with federation:
        federation.start_aggregator()
        federation.start_agent(0, within=network.site.within)
        federation.start_agent(1)
        wait_until(lambda: updates_of(federation, "device-1") > 1, "the line to work")

        network.cut()
        federation.wait_for_versions_more(5)
        wait_until(lambda: "device-1 has exceeded timeout" in mosquitto_at_site.log.read_text(), "the broker to notice")
        wait_until(lambda: "the broker was silent" in federation.log("device-1"), "the device to notice")
        before = updates_of(federation, "device-1")
        network.mend()

        wait_until(lambda: updates_of(federation, "device-1") > before + 1, "device-1 to be back")
        federation.stop_all()
        federation.check(agents=2)
        assert min(packets.lost for packets in network.counted()) > 0


def test_a_line_slower_than_the_versions_still_gets_its_word_in(network: KernelNetwork, federation: Federation) -> None:
    network.slow(bytes_per_s=4000)
    federation.model = {"kind": "softmax", "inputs": 64, "outputs": 10}
    federation.goal = 1
    with federation:
        federation.start_aggregator()
        # Four versions a second, each of 2,600 bytes and a manifest of 700.
        federation.start_agent(0, within=network.site.within, interval_s=0.25)
        federation.start_agent(1)

        wait_until(lambda: updates_of(federation, "device-1") >= 2, "two updates over the slow line")
        federation.stop_all()
        federation.check(agents=2)
