"""The command line on a store that holds something, with the aggregator running and not running."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.__main__ import main
from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import prepare
from aggregator.adapters.registry import open_registry
from aggregator.commands import Journal, SaveAggregation, SaveFleet
from aggregator.downlink import render
from aggregator.recording import record_of, shelf_of
from aggregator.records import Aggregation, Counters, DeviceRecord, ServerState
from fedmq.embedded_broker import EmbeddedBroker
from models.predicting import Origin
from models.tflite.file import TfliteModel
from protocol.link import Received
from protocol.packing import decode_command
from tests.support.aggregators import HandDevice, spawn, write_config
from tests.support.links import Links
from tests.support.patience import PATIENCE_S
from tests.support.stores import contribution, journal

VERSIONS = 3


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "80")
    path = write_config(tmp_path)
    prepared = prepare(path)
    store = open_store(prepared.state_dir, prepared.founding, prepared.settings.registry)
    for number in range(1, VERSIONS + 1):
        lineage = tuple(contribution(f"press-{k:02}", 10 * number + k) for k in range(4))
        master = np.full(prepared.model.layout.size, number, np.float32)
        made = render(master, prepared.settings.downlink, np.random.default_rng(0))
        version = replace(
            record_of(number, "aggregate", made, 1.7e9 + number),
            metrics={"accuracy": 0.5 + number / 10, "loss": 1.0 / number},
            num_updates=len(lineage),
            total_weight=sum(c.weight for c in lineage),
            step_norm=0.25,
        )
        aggregation = Aggregation(
            outcome="published", base_version=number - 1, version=number, reason="", created=1.7e9, lineage=lineage
        )
        server = ServerState(master=master, optimizer="plain", vectors=())
        shelf = tuple(shelf_of(number, made))
        store.apply([SaveAggregation(aggregation=aggregation, version=version, server=server, shelf=shelf)])
    long_name = DeviceRecord(device_id="d" * 64, state="training", version=3, last_seen=time.time())
    press = DeviceRecord(device_id="press-00", state="idle", version=2, accepted=7, bytes_received=5_000_000)
    counters = Counters(received=20, accepted=13, folded=13, stale=4, refusals={"too-old": 4})
    store.apply([SaveFleet(devices=(press, long_name), counters=counters)])
    store.close()
    return path


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config, self._capsys = config, capsys

    def __call__(self, *arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--config", str(self._config)])
        out, err = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Result(code, out, err)


@pytest.fixture
def cli(config: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(config, capsys)


def fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80


def test_versions(cli: Cli) -> None:
    result = cli("versions")
    assert result.code == 0
    assert fits(result.out)
    lines = result.out.splitlines()
    assert lines[0].split() == ["version", "made", "of", "updates", "weight", "step", "accuracy", "loss"]
    assert len(lines) == 1 + 1 + VERSIONS
    assert re.search(r"^ +3  .*aggregate +4 .* 0\.8000 +0\.3333$", result.out, re.MULTILINE)
    assert [line["version"] for line in cli("versions", "--json").json] == [0, 1, 2, 3]
    assert [line["version"] for line in cli("versions", "--json", "--last", "2").json] == [2, 3]


def test_show(cli: Cli) -> None:
    result = cli("show", "2")
    assert result.code == 0
    assert fits(result.out)
    assert result.out.count("press-0") == 4
    shares = [float(share) for share in re.findall(r"([\d.]+) %", result.out)]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(100.0, abs=0.3)
    lineage = cli("show", "2", "--json").json
    assert lineage["outcome"] == "published"
    assert [c["sequence"] for c in lineage["contributions"]] == [20, 21, 22, 23]
    assert sum(c["weight"] for c in lineage["contributions"]) == pytest.approx(lineage["line"]["total_weight"])


def test_show_version_0(cli: Cli) -> None:
    assert cli("show", "0").code == 0
    assert cli("show", "0", "--json").json["contributions"] == []


def test_show_an_unknown_version(cli: Cli) -> None:
    result = cli("show", "9")
    assert (result.code, result.out) == (1, "")
    assert "there is no version 9; parameters are kept of versions 0 to 3" in result.err
    assert cli("show", "-1").code == 2


def test_status(cli: Cli) -> None:
    result = cli("status")
    assert result.code == 0
    assert fits(result.out)
    for text in ("not running", "13 of 20 messages", "too-old:4", "press-00", "4.8 MB", "never"):
        assert text in result.out
    assert "and 1 more" in cli("status", "--devices", "1").out
    found = cli("status", "--json").json
    assert found["running"] is False
    assert found["live"] is None
    assert found["store"]["counters"]["accepted"] == 13
    assert len(found["store"]["devices"]) == 2


def test_export(cli: Cli, config: Path, tmp_path: Path) -> None:
    to = tmp_path / "model.npz"
    result = cli("export", "2", "--to", str(to))
    assert result.code == 0
    model = prepare(config).model
    with np.load(to, allow_pickle=False) as arrays:
        assert np.array_equal(arrays["parameters"], np.full(model.layout.size, 2.0, np.float32))
        for name, shape in model.layout.entries:
            assert arrays[name].shape == shape
        assert json.loads(str(arrays["spec"])) == dict(model.spec)
        assert str(arrays["layout"]) == model.layout.digest
        assert int(arrays["version"]) == 2
    assert [path.name for path in tmp_path.glob("model*")] == ["model.npz"]
    assert cli("export", "2", "--to", str(to), "--json").json["version"] == 2


def test_export_to_where_nothing_can_be_written(cli: Cli, tmp_path: Path) -> None:
    result = cli("export", "2", "--to", str(tmp_path / "nowhere" / "model.npz"))
    assert result.code == 1
    assert "No such file or directory" in result.err


def test_export_for_tflite(cli: Cli, config: Path, tmp_path: Path) -> None:
    to = tmp_path / "model.tflite"
    result = cli("export", "2", "--to", str(to))
    assert result.code == 0
    assert "float32" in result.out
    prepared = prepare(config)
    file = TfliteModel.parse(to.read_bytes(), prepared.model)
    assert file.origin == Origin(federation="test", epoch=file.origin.epoch, version=2)
    assert len(file.origin.epoch) == 16
    parameters = np.full(prepared.model.layout.size, 2.0, np.float32)
    assert file.data == TfliteModel.export(prepared.model, parameters, file.origin).data
    assert [path.name for path in tmp_path.glob("model*")] == ["model.tflite"]


def calibration_files(folder: Path, inputs: int) -> list[Path]:
    x = np.random.default_rng(0).standard_normal((50, inputs))
    np.savez(folder / "examples.npz", x=x)
    np.savez(folder / "statistics.npz", mean=x.mean(0), deviation=x.std(0), low=x.min(0), high=x.max(0))
    (folder / "ranges.json").write_text(json.dumps({"x": [-3, 3], "dense0": [-60, 60], "probabilities": [0, 1]}))
    return [*sorted(folder.glob("*.npz")), folder / "ranges.json"]


def test_export_in_int8(cli: Cli, config: Path, tmp_path: Path) -> None:
    model = prepare(config).model
    for path in calibration_files(tmp_path, model.inputs):
        to = tmp_path / "model.tflite"
        done = cli("export", "2", "--to", str(to), "--int8", "--calibration", str(path), "--json").json
        assert done["weights"] == "int8"
        assert done["bytes"] == to.stat().st_size
        assert ("agreement" in done) == (path.name == "examples.npz")
        assert TfliteModel.parse(to.read_bytes(), model).scheme


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "model.onnx"], ".npz or .tflite"),
        (["--to", "model"], ".npz or .tflite"),
        (["--to", "model.npz", "--int8"], "--int8 and --calibration are for .tflite"),
        (["--to", "model.tflite", "--int8"], "--calibration"),
        (["--to", "model.tflite", "--calibration", "x.npz"], "without --int8"),
        (["--to", "model.tflite", "--int8", "--calibration", "no-such.npz"], "No such file"),
        (["--to", "model.tflite", "--int8", "--calibration", "empty.npz"], "neither x (examples) nor mean"),
        (["--to", "model.tflite", "--int8", "--calibration", "narrow.npz"], "x has shape (2, 1)"),
        (["--to", "model.tflite", "--int8", "--calibration", "text.npz"], "is no NPZ file"),
        (["--to", "model.tflite", "--int8", "--calibration", "text.json"], "does not hold ranges"),
        (["--to", "model.tflite", "--int8", "--calibration", "other.json"], "no range for"),
    ],
)
def test_export_that_cannot_be(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("empty.npz", z=np.zeros(1))
    np.savez("narrow.npz", x=np.zeros((2, 1)))
    Path("text.npz").write_text("x")
    Path("text.json").write_text("x")
    Path("other.json").write_text('{"x": [-1, 1]}')
    result = cli("export", "2", *options)
    assert result.code == 1
    assert said in result.err
    assert not list(tmp_path.glob("model*"))


def test_rollback_without_a_running_aggregator(cli: Cli, config: Path) -> None:
    directory = prepare(config).state_dir
    prepared = prepare(config)
    store = open_store(directory, prepared.founding, prepared.settings.registry)
    entry = journal("press-07", 70).entry
    size = prepared.model.layout.size
    store.apply([Journal(msgspec.structs.replace(entry, codec="f32", delta=bytes(4 * size)))])
    store.close()

    result = cli("rollback", "1")

    assert result.code == 0
    assert result.out == "version 4 has the parameters of version 1; 1 updates set aside\n"
    with open_registry(directory) as registry:
        assert registry.parameters(4) == registry.parameters(1)
        lineage = registry.lineage(4)
        assert (lineage.line.rolled_back_to, lineage.outcome) == (1, "set-aside")
        assert registry.status().counters.set_aside == 1
        assert registry.status().buffered == 0
    assert "version 1" in cli("versions").out
    assert "rollback to version 1" in cli("show", "4").out
    assert cli("rollback", "2", "--json").json == {"version": 5, "rolled_back_to": 2, "updates_set_aside": 0}


def test_rollback_to_what_is_not_there(cli: Cli) -> None:
    result = cli("rollback", "9")
    assert result.code == 1
    assert "there is no version 9" in result.err
    result = cli("rollback", "3")
    assert result.code == 1
    assert "not older than the current one" in result.err


def test_commands_need_a_running_aggregator(cli: Cli) -> None:
    result = cli("command", "all", "pause")
    assert result.code == 1
    assert "no aggregator is running" in result.err
    assert cli("command", "all", "explode").code == 2
    assert cli("command", "a/b", "pause").code == 2


def test_with_a_running_aggregator(
    broker: EmbeddedBroker, links: Links, config: Path, cli: Cli, tmp_path: Path
) -> None:
    config.write_text(config.read_text().replace("port = 1883", f"port = {broker.port}"))
    process = spawn(config, tmp_path / "log")
    peer = links(broker.port)
    device = HandDevice(peer)
    assert device.manifest().version == VERSIONS
    peer.subscribe(device.topics.command("press-07"), device.topics.command_all)

    assert cli("command", "press-07", "evaluate").code == 0
    received = peer.inbox.wait(Received, lambda event: event.topic == device.topics.command("press-07"))
    assert decode_command(received.payload).action == "evaluate"
    assert cli("command", "all", "pause", "--json").json == {"sent_to": "all", "action": "pause"}
    received = peer.inbox.wait(Received, lambda event: event.topic == device.topics.command_all)
    assert decode_command(received.payload).action == "pause"
    status = cli("status")
    assert re.search(r"running for \d+ s", status.out)
    assert fits(status.out)
    assert cli("status", "--json").json["live"]["version"] == VERSIONS
    assert cli("rollback", "0", "--json").json["version"] == VERSIONS + 1
    assert device.manifest().version == VERSIONS + 1
    second = subprocess.run(
        [sys.executable, "-m", "aggregator", "run", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert second.returncode == 3
    assert f"pid {process.pid}" in second.stderr
    assert "Traceback" not in second.stderr

    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0


def test_check(cli: Cli) -> None:
    result = cli("run", "--check")
    assert result.code == 0
    assert "fine; a model of 15 parameters" in result.out


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "softmax"', 'kind = "magic"', "magic"),
        ("outputs = 3", "outputs = 4", "another shape"),
        ('federation = "test"', 'federation = "other"', "belongs to federation 'test'"),
        ("goal = 1000", "gaol = 1000", "goal"),
    ],
)
def test_configurations_that_cannot_run(cli: Cli, config: Path, old: str, new: str, says: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    result = cli("run")
    assert result.code == 2
    assert says in result.err
    assert all(line.startswith(("fedmq-aggregator: ", "time=")) for line in result.err.splitlines())


def test_a_configuration_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Cli(tmp_path / "none.toml", capsys)("status")
    assert result.code == 2
    assert result.err == f"fedmq-aggregator: {tmp_path}/none.toml: there is no such file\n"


def test_a_store_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("status",), ("versions",), ("show", "0"), ("rollback", "0")):
        result = Cli(write_config(tmp_path), capsys)(*command)
        assert result.code == 2
        assert "has the aggregator been started with this state_dir?" in result.err
    assert not (tmp_path / "state").exists()
