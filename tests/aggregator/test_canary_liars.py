"""One device says what it likes of a candidate: it neither hides a bad one nor has a good one withdrawn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from aggregator.commands import SaveVerdict
from models.answering import MAX_MEAN, metrics_to_data
from models.metrics import ClassificationMetrics
from protocol.surveys import pack_content
from tests.aggregator.canaries import books_hold, report, settings_of, trying
from tests.aggregator.harness import Bench, only

COUNT = 20
GOOD, BAD = (1.0, 0.9), (1.0, 2.0)
"""The current version's loss, and the candidate's."""

LIES = {
    "far better": (MAX_MEAN, 0.0),
    "far worse": (0.0, MAX_MEAN),
    "both bad, so that any margin is wide": (MAX_MEAN, MAX_MEAN),
    "both perfect, so that any margin is narrow": (0.0, 0.0),
    "a little better": (1.0, 0.2),
    "a little worse": (1.0, 3.0),
}


def content(first: float, second: float, count: int = COUNT) -> bytes:
    figures = [
        metrics_to_data(ClassificationMetrics(count=count, correct=0, loss_sum=mean * count))
        for mean in (first, second)
    ]
    return pack_content({"examples": count, "metrics": figures[0], "candidate": figures[1]})


def tell(bench: Bench, device: str, first: float, second: float, count: int = COUNT) -> list[Any]:
    commands = bench.send(report(bench, device, 0, 0, content=content(first, second, count)), device)
    return only(commands, SaveVerdict)


def bench_of(**table: Any) -> Bench:
    return trying(settings_of(measure="loss", max_worse=0.1, **table))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("truth", [GOOD, BAD], ids=["good", "bad"])
def test_one_of_four(truth: tuple[float, float], lie: tuple[float, float], place: int) -> None:
    bench = bench_of(min_answers=4)
    says = [truth, truth, truth]
    says.insert(place, lie)
    verdicts = []
    for number, (first, second) in enumerate(says):
        claims = 1_000_000 if number == place else COUNT
        verdicts += tell(bench, f"device-{number}", first, second, claims)
        bench = bench.restart()

    (found,) = verdicts
    assert found.outcome == ("published" if truth == GOOD else "withdrawn")
    assert "on 4 devices without the 1 outermost at each end" in found.reason
    # The books hold figures that a person believes.
    assert found.metrics["fleet_loss_before"] == pytest.approx(1.0)
    assert found.metrics["fleet_loss"] == pytest.approx(truth[1], abs=0.2)
    books_hold(bench)


@pytest.mark.parametrize("truth", [GOOD, BAD], ids=["good", "bad"])
def test_two_liars_of_ten_that_agree(truth: tuple[float, float]) -> None:
    bench = bench_of(min_answers=10)
    lie = (MAX_MEAN, 0.0) if truth == BAD else (0.0, MAX_MEAN)
    says = [lie, lie, *([truth] * 8)]
    verdicts = list(
        itertools.chain.from_iterable(tell(bench, f"device-{n}", *figures) for n, figures in enumerate(says))
    )
    assert [found.outcome for found in verdicts] == ["published" if truth == GOOD else "withdrawn"]


def test_a_liar_makes_no_verdict_wait_for_ever() -> None:
    bench = bench_of(min_answers=3, certainty=1.0)
    assert not tell(bench, "device-0", 0.0, MAX_MEAN)
    assert not tell(bench, "device-1", *GOOD)
    assert not tell(bench, "device-2", *GOOD), "of three, one liar leaves it unsure"
    (found,) = tell(bench, "device-3", *GOOD)
    assert found.outcome == "published"


def test_three_that_agree_decide_at_once() -> None:
    bench = bench_of(min_answers=3, certainty=1.0)
    verdicts = [found for number in range(3) for found in tell(bench, f"device-{number}", *GOOD)]
    assert [found.outcome for found in verdicts] == ["published"]


def test_without_trimming_one_can_do_what_it_likes_and_the_operator_is_warned() -> None:
    bench = bench_of(min_answers=4, trim=0.0)
    verdicts = [found for number in range(3) for found in tell(bench, f"device-{number}", *BAD)]
    (found,) = [*verdicts, *tell(bench, "device-3", MAX_MEAN, 0.0)]
    assert found.outcome == "published"
    (warning,) = bench.settings.canary.warnings()
    assert "[canary] trim = 0" in warning
    (warning,) = settings_of(min_answers=2).canary.warnings()
    assert "[canary] min_answers = 2" in warning
    assert settings_of(min_answers=3).canary.warnings() == []
    assert settings_of(min_answers=1, fraction=0.0).canary.warnings() == []
