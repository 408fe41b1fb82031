"""Drift: no more false alarms than stated, whatever versions come; real shifts are found; over when it is over."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models import Dataset, build
from models.drift import CLEAR_AFTER, FEWEST, DriftRule, Evidence, errors_of, kinds_of, p_value


class Device:
    """Errors of a device as a normal value on a scale of the version's own; earlier examples are replaced slowly."""

    def __init__(self, seed: int, rule: DriftRule, *, kinds: int = 1, earlier: int = 100) -> None:
        self.chance = np.random.default_rng(seed)
        self.rule, self.kinds = rule, kinds
        self.known = Evidence()
        self.earlier = [self._one(0.0) for _ in range(earlier)]

    def look(self, count: int, shift: float = 0.0) -> None:
        """Judge so many new examples by a new version, whose errors are of another size than those of the last."""
        scale, bend = math.exp(self.chance.normal(0.0, 2.0)), math.exp(self.chance.normal(0.0, 0.3))
        fresh = [self._one(shift) for _ in range(count)]
        sides = [[(kind, scale * math.exp(bend * value)) for kind, value in side] for side in (self.earlier, fresh)]
        self.rule.judge(self.known, sides[0], sides[1], self.chance)
        if not self.known.drifting:
            for one in fresh[::5]:
                self.earlier[int(self.chance.integers(len(self.earlier)))] = one

    def until_alarm(self, shift: float, most: int, count: int = 10) -> int:
        judged = self.known.judged
        while not self.known.alarms and self.known.judged - judged < most:
            self.look(count, shift)
        return self.known.judged - judged

    def _one(self, shift: float) -> tuple[int, float]:
        kind = int(self.chance.integers(self.kinds))
        return kind, float(self.chance.normal(kind, 1.0) + shift)  # some classes are more difficult than others


@pytest.mark.parametrize("kinds", [1, 5])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_false_alarms_are_as_rare_as_stated(kinds: int, margin: float) -> None:
    """So low a bound that there are alarms to be counted: 80,000 examples, 160 alarms allowed."""
    rule = DriftRule(false_alarm_examples=500.0, margin=margin, relearn_examples=200)
    devices = [Device(seed, rule, kinds=kinds) for seed in range(8)]
    for device in devices:
        for _ in range(200):
            device.look(50)
    judged, alarms = (sum(getattr(d.known, name) for d in devices) for name in ("judged", "alarms"))
    assert judged > 79_000
    assert alarms <= judged / rule.false_alarm_examples


def test_with_the_usual_bound_there_is_none_in_a_hundred_thousand() -> None:
    for seed in range(4):
        device = Device(seed, DriftRule(), kinds=3)
        for _ in range(250):
            device.look(100)
        assert (device.known.judged, device.known.alarms) == (25_000, 0)


@pytest.mark.parametrize(("shift", "within"), [(1.5, 100), (3.0, 40)])
def test_a_shift_is_found_soon(shift: float, within: int) -> None:
    for seed in range(20):
        device = Device(seed, DriftRule())
        for _ in range(20):
            device.look(10)
        assert device.until_alarm(shift, most=10 * within) <= within


def test_more_of_a_difficult_class_is_no_drift() -> None:
    device = Device(0, DriftRule(), kinds=4, earlier=128)
    rule = device.rule
    for _ in range(40):
        difficult = [(3, float(device.chance.normal(3.0, 1.0))) for _ in range(20)]
        sides = [[(kind, math.exp(value)) for kind, value in side] for side in (device.earlier, difficult)]
        rule.judge(device.known, sides[0], sides[1], device.chance)
    assert (device.known.judged, device.known.alarms) == (800, 0)


def test_one_class_that_does_badly_is_found_where_another_does_better() -> None:
    device = Device(0, DriftRule(), kinds=2)
    for _ in range(10):
        fresh = [(kind, math.exp(device.chance.normal(kind, 1.0) + (4.0, -4.0)[kind])) for kind in (0, 1) * 5]
        earlier = [(kind, math.exp(value)) for kind, value in device.earlier]
        device.rule.judge(device.known, earlier, fresh, device.chance)
    assert device.known.drifting
    assert device.known.kind == "0"


def test_over_when_the_errors_are_back() -> None:
    for seed in range(10):
        device = Device(seed, DriftRule())
        device.until_alarm(3.0, most=400)
        drifting = []
        for count, shift in ((20, 3.0), (80, 3.0), (3 * CLEAR_AFTER, 0.0)):
            device.look(count, shift)
            drifting.append(device.known.drifting)
        assert drifting == [True, True, False]
        assert all(found < math.log(2e5) for found in device.known.evidence.values())


def test_not_over_while_another_class_does_badly() -> None:
    device = Device(0, DriftRule(), kinds=2)

    def look(shifts: tuple[float, float], count: int = 20) -> None:
        fresh = [(kind, math.exp(device.chance.normal(kind, 1.0) + shifts[kind])) for kind in (0, 1) * (count // 2)]
        earlier = [(kind, math.exp(value)) for kind, value in device.earlier]
        device.rule.judge(device.known, earlier, fresh, device.chance)

    while not device.known.drifting:
        look((4.0, 0.0))
    assert device.known.kind == "0"
    look((0.0, 4.0), 400)  # it has learnt the one, and forgotten the other
    assert device.known.drifting
    look((0.0, 0.0), 400)
    assert not device.known.drifting


def test_not_over_while_errors_are_still_larger_by_less() -> None:
    """What half adapts to the new must not end drift and begin it anew with every other version."""
    over = 0
    for seed in range(10):
        device = Device(seed, DriftRule(), earlier=200)
        device.until_alarm(3.0, most=400)
        device.look(300, shift=0.8)
        over += not device.known.drifting
    assert over <= 1


def test_over_when_so_much_was_new_that_it_is_normal() -> None:
    device = Device(0, DriftRule(relearn_examples=300))
    device.until_alarm(3.0, most=400)
    while device.known.drifting:
        device.look(10, 3.0)
    assert device.known.since_alarm == 300
    assert device.known.alarms == 1


def test_with_few_earlier_examples_nothing_is_said() -> None:
    known = Evidence()
    DriftRule().judge(known, [(0, 1.0)] * (FEWEST - 1), [(0, 1e9)] * 100, np.random.default_rng(0))
    assert known == Evidence()


def test_errors_that_are_larger_by_less_than_the_margin_are_none() -> None:
    for margin, alarms in ((0.0, 1), (0.1, 0)):
        known = Evidence()
        earlier = [(0, 1.0 + k / 1e4) for k in range(100)]
        DriftRule(margin=margin).judge(known, earlier, [(0, 1.05)] * 60, np.random.default_rng(0))
        assert known.alarms == alarms


def test_p_values_are_uniform_and_never_0() -> None:
    chance = np.random.default_rng(0)
    found = [p_value(sorted(chance.random(9)), float(chance.random()), float(chance.random())) for _ in range(20_000)]
    counts, _ = np.histogram(found, 10, (0.0, 1.0))
    assert counts.min() > 1800
    assert counts.max() < 2200
    assert 0.0 < p_value([1.0, 2.0], 3.0, 0.0) < 1e-3
    assert p_value([1.0, 1.0, 1.0], 1.0, 1.0) == 1.0  # all the same: no evidence either way
    assert p_value([1.0, 1.0, 1.0], 1.0, 0.5) == 0.5


def test_errors_are_those_of_the_task() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3)).astype(np.float32)
    model = build({"kind": "softmax", "inputs": 3, "outputs": 2})
    parameters = rng.standard_normal(model.layout.size).astype(np.float32)
    data = Dataset.for_model(model, x, [0, 1, 1, 0, 1])
    chosen = model.predict(parameters, x)[np.arange(5), data.y]
    np.testing.assert_allclose(errors_of(model, parameters, data), -np.log(chosen), rtol=1e-5)
    assert kinds_of(model, data) == [0, 1, 1, 0, 1]
    linear = build({"kind": "linear", "inputs": 3, "outputs": 2})
    weights = rng.standard_normal(linear.layout.size).astype(np.float32)
    values = Dataset.for_model(linear, x, rng.standard_normal((5, 2)))
    wanted = ((linear.predict(weights, x) - values.y) ** 2).mean(axis=1)
    np.testing.assert_allclose(errors_of(linear, weights, values), wanted, rtol=1e-5)
    assert kinds_of(linear, values) == [0] * 5
    diverged = np.full(linear.layout.size, np.nan, np.float32)
    assert np.isfinite(errors_of(linear, diverged, values)).all()
    encoder = build({"kind": "autoencoder", "inputs": 3, "hidden": [2]})
    inner = encoder.init(rng)
    np.testing.assert_array_equal(
        errors_of(encoder, inner, Dataset.for_model(encoder, x)), encoder.errors(inner, x).astype(np.float64)
    )
