"""A survey asked in bad weather: each device counts once, and the sum is that of those who count."""

from __future__ import annotations

import pytest

from aggregator.events import SurveyRequested
from aggregator.keyring import Keyring
from models.answering import metrics_from_data
from models.metrics import ClassificationMetrics, Metrics
from protocol.sealing import Opener
from protocol.signing import Signer
from tests.simulation.fleet import Fleet
from tests.simulation.test_weather import STORMS

SURVEY = "5" * 16
SECURE = Keyring(signer=Signer([bytes(range(32))]), opener=Opener([("x25519", bytes(range(32)))]))


def ask(fleet: Fleet) -> None:
    """Ask as an operator does: again, when no answer came."""
    aggregator = fleet.aggregator
    if not aggregator.store.restored.surveys:
        if aggregator.alive:
            wish = SurveyRequested(request_id=SURVEY, kind="evaluation", fraction=1.0, min_examples=1)
            aggregator.take(wish)
        fleet.world.after(1.0, lambda: ask(fleet))


def done(fleet: Fleet) -> bool:
    """Whether every device has answered, or had to drop its report for updates."""
    answered = {answer.device_id for answer in fleet.aggregator.store.answers}
    dropped = {d.name for d in fleet.devices if d.disk.state.durable.counters.reports_dropped}
    return {device.name for device in fleet.devices} <= answered | dropped


def merged(fleet: Fleet) -> Metrics:
    (record,) = fleet.aggregator.store.restored.surveys
    return metrics_from_data("classification", record.total)


def survey(fleet: Fleet) -> None:
    fleet.world.after(10.0, lambda: ask(fleet))
    fleet.run(60.0)
    assert fleet.clear_up(lambda: done(fleet)), "somebody never answered"
    fleet.check()
    answers = fleet.aggregator.store.answers
    assert 0 < len({answer.device_id for answer in answers}) == len(answers)
    assert not {(a.device_id, a.incarnation, a.sequence) for a in answers} & set(fleet.aggregator.store.identities())
    by_name = {device.name: device.measured for device in fleet.devices}
    wanted = ClassificationMetrics()
    for answer in answers:
        wanted += by_name[answer.device_id]
    assert merged(fleet) == wanted


@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("seed", range(6))
def test_each_device_counts_once_in_any_weather(storm: str, seed: int) -> None:
    survey(Fleet(seed, STORMS[storm]))


@pytest.mark.parametrize("seed", range(3))
def test_and_sealed(seed: int) -> None:
    survey(Fleet(seed, STORMS["everything"], keys=SECURE))
