"""The threshold for anomalies: the quantile of all devices' errors, announced with the versions, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.adapters.preparing import prepare
from aggregator.commands import Log, Reply, SaveFindings
from aggregator.configuration import AggregatorSettings, AnomalyTable, ScheduleTable
from aggregator.events import RollbackRequested, SurveyCloseRequested, SurveyRequested
from aggregator.manifests import check_manifest_fits, largest_manifest_bytes, own_surveys
from models import ReconstructionMetrics, build
from models.answering import metrics_from_data, metrics_to_data
from protocol.packing import encode
from protocol.settings import ConfigurationError
from tests.aggregator.harness import Bench, only, settings_with
from tests.aggregator.test_surveys import announced, report

SPEC: dict[str, Any] = {"kind": "autoencoder", "inputs": 4, "hidden": [2]}
SIZE = build(SPEC).layout.size
ACCURACY = 0.025
Errors = NDArray[np.float64]


def errors_of(device: int, count: int = 400) -> Errors:
    return np.random.default_rng(device).gamma(2.0, 0.1 * (1 + device), count)


def content(errors: Errors) -> dict[str, Any]:
    metrics = ReconstructionMetrics.of(errors, float(errors.sum()))
    return {"examples": len(errors), "metrics": metrics_to_data(metrics)}


def settings(**table: Any) -> AggregatorSettings:
    wanted: dict[str, Any] = {"quantile": 0.99, "min_devices": 3, "wait_s": 60.0, "every_versions": 5} | table
    return settings_with(model=SPEC, anomaly=AnomalyTable(**wanted), schedule=ScheduleTable(goal=1))


def train(bench: Bench, versions: int = 1) -> None:
    for _ in range(versions):
        update = bench.update("dev", delta=np.full(SIZE, 0.01), layout=bench.model.layout.digest)
        assert bench.answer(update).status == "accepted"
        bench.tick(0.0)


def trained(versions: int = 1, **table: Any) -> Bench:
    bench = Bench(settings(**table))
    train(bench, versions)
    return bench


def reply_all(bench: Bench, devices: int = 3, first: int = 0, sequence: int = 0) -> list[Any]:
    (survey,) = announced(bench).surveys
    found: list[Any] = []
    for number in range(first, first + devices):
        sent = report(f"d{number}", content(errors_of(number)), survey=survey.id, sequence=sequence or bench.version)
        found = bench.send(sent, f"d{number}")
    return found


@given(
    st.lists(st.lists(st.floats(1e-6, 1e8), min_size=1, max_size=60), min_size=1, max_size=8), st.floats(0.001, 0.999)
)
def test_the_merged_quantile_is_that_of_all_errors_in_one_place(devices: list[list[float]], share: float) -> None:
    total = ReconstructionMetrics()
    for errors in devices:
        metrics = ReconstructionMetrics.of(np.array(errors), sum(errors))
        there = metrics_from_data("reconstruction", metrics_to_data(metrics))
        assert isinstance(there, ReconstructionMetrics)
        total += there

    pooled = np.concatenate([np.array(errors) for errors in devices])
    # Of the two values between which a rank may lie the sketch names the lower one.
    wanted = float(np.quantile(pooled, share, method="lower"))
    assert total.quantile(share) == pytest.approx(wanted, rel=ACCURACY * 1.001)


def test_the_threshold_comes_with_the_first_version_that_has_learned_and_goes_with_all_after_it() -> None:
    bench = Bench(settings())
    bench.tick(0.0)
    assert announced(bench).surveys == [], "errors of an untrained model say nothing"
    train(bench)
    manifest = announced(bench)
    assert (manifest.version, manifest.anomaly, manifest.surveys[0].kind) == (1, None, "evaluation")

    commands = reply_all(bench)

    (saved,) = only(commands, SaveFindings)
    after = announced(bench)
    assert after.anomaly == saved.findings.threshold
    assert (after.version, after.surveys, after.issued > manifest.issued) == (1, [], True)
    assert after.anomaly is not None
    assert (after.anomaly.quantile, after.anomaly.version) == (0.99, 1)
    pooled = np.concatenate([errors_of(number) for number in range(3)])
    assert after.anomaly.error == pytest.approx(np.quantile(pooled, 0.99, method="lower"), rel=ACCURACY)
    assert (pooled > after.anomaly.error).mean() == pytest.approx(0.01, abs=0.01)
    assert announced(bench.restart()).anomaly == after.anomaly
    train(bench)
    assert (announced(bench).version, announced(bench).anomaly) == (2, after.anomaly)


def test_it_is_measured_again_when_the_version_has_doubled_and_then_at_intervals() -> None:
    bench = trained()
    measured = []
    for _ in range(22):
        if announced(bench).surveys:
            reply_all(bench)
            found = announced(bench).anomaly
            assert found is not None
            measured.append(found.version)
        train(bench)
    assert measured == [1, 2, 4, 8, 13, 18]


def test_a_restart_goes_on_with_the_survey_that_is_open() -> None:
    bench = trained()
    reply_all(bench, devices=2)
    asked = announced(bench).surveys
    train(bench)

    bench = bench.restart()
    bench.tick(0.0)
    assert announced(bench).surveys == asked
    reply_all(bench, devices=1, first=2)

    found = announced(bench).anomaly
    assert found is not None
    assert found.version == 1
    pooled = np.concatenate([errors_of(number) for number in range(3)])
    assert found.error == pytest.approx(np.quantile(pooled, 0.99, method="lower"), rel=ACCURACY)


def test_after_the_wait_one_device_is_enough() -> None:
    bench = trained(min_devices=50)
    bench.tick(59.0)
    reply_all(bench, devices=1)
    assert announced(bench).anomaly is None
    bench.tick(2.0)
    assert announced(bench).anomaly is not None

    patient = trained(min_devices=50, wait_s=0.0)
    reply_all(patient, devices=3)
    patient.tick(1e6)
    assert announced(patient).anomaly is None


def test_a_rollback_forgets_what_was_measured_on_other_parameters_and_asks_again() -> None:
    bench = trained()
    reply_all(bench)
    before = bench.core.ledger.version.parameters
    train(bench)
    assert announced(bench).surveys, "asked again at version 2"

    bench.feed(RollbackRequested(request_id="r" * 16, target=1, parameters=before))
    assert (announced(bench).anomaly, announced(bench).surveys) == (None, [])
    assert bench.restart().core.ledger.findings.threshold is None
    bench.tick(0.0)
    reply_all(bench)
    found = announced(bench).anomaly
    assert found is not None
    assert found.version == 3


def test_a_margin_and_another_quantile_hold_from_the_next_measurement_on() -> None:
    bench = trained(margin=2.0)
    reply_all(bench)
    first = announced(bench).anomaly
    assert first is not None
    pooled = np.concatenate([errors_of(number) for number in range(3)])
    assert first.error == pytest.approx(2 * np.quantile(pooled, 0.99, method="lower"), rel=ACCURACY)

    bench = bench.restart(settings(quantile=0.9))
    bench.tick(0.0)
    assert announced(bench).surveys, "it is measured anew"
    assert announced(bench.restart(settings(quantile=0.0))).anomaly is None


def test_another_quantile_can_be_measured_on_the_same_version_again_and_again() -> None:
    bench = trained()
    reply_all(bench)
    asked: set[str] = set()
    for sequence, quantile in enumerate((0.9, 0.99, 0.9, 0.99), start=2):
        bench = bench.restart(settings(quantile=quantile))
        bench.tick(0.0)
        (survey,) = announced(bench).surveys
        assert survey.id not in asked, "devices answer no survey twice"
        asked.add(survey.id)
        reply_all(bench, sequence=sequence)
        found = announced(bench).anomaly
        assert found is not None
        assert (found.quantile, found.version) == (quantile, 1)


def test_switched_off_while_devices_are_asked_nobody_is_asked_any_more() -> None:
    bench = trained()
    (survey,) = announced(bench).surveys
    bench = bench.restart(settings(quantile=0.0))
    for number in range(3):  # these were on their way
        bench.send(report(f"d{number}", content(errors_of(number)), survey=survey.id), f"d{number}")
    bench.tick(0.0)
    assert (announced(bench).surveys, announced(bench).anomaly) == ([], None)
    assert bench.core.ledger.findings.threshold is None

    bench = bench.restart(settings())
    bench.tick(0.0)
    assert announced(bench).surveys[0].id != survey.id
    reply_all(bench, sequence=2)
    assert announced(bench).anomaly is not None


def test_of_too_few_examples_it_is_said() -> None:
    bench = trained(quantile=0.9999)
    (told,) = only(reply_all(bench), Log)
    assert (told.level, "10000 say more" in told.text) == ("warning", True)


def test_the_survey_cannot_be_closed_by_hand() -> None:
    bench = trained()
    (survey,) = announced(bench).surveys
    (reply,) = only(bench.feed(SurveyCloseRequested(request_id="c" * 16, survey=survey.id)), Reply)
    assert "threshold for anomalies waits" in reply.error


def test_devices_without_examples_give_no_threshold() -> None:
    bench = trained(min_devices=1)
    (survey,) = announced(bench).surveys
    nothing = {"examples": 0, "metrics": metrics_to_data(ReconstructionMetrics())}
    bench.send(report("empty", nothing, survey=survey.id), "empty")
    bench.tick(1000.0)
    assert announced(bench).anomaly is None
    reply_all(bench, devices=1)
    assert announced(bench).anomaly is not None


def test_devices_that_had_too_few_examples_are_asked_again_later() -> None:
    bench = trained(min_devices=2, wait_s=0.0)
    nothing = {"examples": 0, "metrics": metrics_to_data(ReconstructionMetrics())}
    (first,) = announced(bench).surveys
    bench.send(report("d0", nothing, survey=first.id, sequence=1), "d0")
    train(bench, 3)
    assert announced(bench).surveys == [first], "one that is slow is waited for"
    bench.send(report("d1", nothing, survey=first.id, sequence=1), "d1")
    bench.tick(0.0)

    bench = bench.restart()
    bench.tick(0.0)
    (second,) = announced(bench).surveys
    assert second.id != first.id
    reply_all(bench, devices=2)
    found = announced(bench).anomaly
    assert found is not None
    assert found.version == 4


def test_the_manifest_has_room_for_it() -> None:
    found = settings()
    model = build(SPEC)
    check_manifest_fits(found, model)
    bench = trained()
    reply_all(bench)
    assert len(encode(announced(bench))) <= largest_manifest_bytes(found, model)


def test_surveys_of_operators_leave_room_for_the_one_that_measures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(settings())
    bench.tick(0.0)
    model = build(SPEC)
    (own,) = own_surveys(bench.settings)
    room = largest_manifest_bytes(bench.settings, model, surveys=[own, own])
    for number, fits in enumerate((True, False)):
        # As if the description of the model left room for two surveys, one of an operator.
        monkeypatch.setattr("aggregator.asking.MAX_MANIFEST_BYTES", room)
        asked = SurveyRequested(request_id=f"{number}" * 16, kind="evaluation", fraction=1.0, min_examples=1)
        (reply,) = only(bench.feed(asked), Reply)
        assert (not reply.error) == fits
    train(bench)
    assert len(announced(bench).surveys) == 2
    assert len(encode(announced(bench))) <= room


def test_a_model_without_errors_has_no_threshold(tmp_path: Path) -> None:
    path = tmp_path / "aggregator.toml"
    path.write_text(
        f'[aggregator]\nfederation = "x"\nstate_dir = "{tmp_path}"\n[training]\n[anomaly]\nquantile = 0.99\n'
        '[model]\nkind = "softmax"\ninputs = 4\noutputs = 3\n'
    )
    with pytest.raises(ConfigurationError, match="task is classification, without errors of reconstruction"):
        prepare(path)
