"""A recording, played as a sensor would measure it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedmq.__main__ import app
from fedmq.recording import Message, Playing, RecordingError, Row, played, read
from protocol.link import Received

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links

RUNNER = CliRunner()
WALL = 1_800_000_000.0


def content(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message.payload)
    return found


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recording.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_messages_and_the_label_is_said_when_it_changes() -> None:
    rows = [Row(at_s=i / 10, values={"x": float(i)}, label=label) for i, label in enumerate(["rest", "rest", "walk"])]

    messages = list(played(rows, Playing(topic="imu", label_topic="activity"), WALL))

    assert [(m.topic, m.retain) for m in messages] == [
        ("activity", True), ("imu", False), ("imu", False), ("activity", True), ("imu", False),
    ]  # fmt: skip
    assert [m.due_s for m in messages] == [0.0, 0.0, 0.1, 0.2, 0.2]
    assert content(messages[1]) == {"time": WALL, "x": 0.0}
    assert content(messages[3]) == {"time": WALL + 0.2, "label": "walk"}


@given(
    st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=20).map(sorted),
    st.sampled_from([0.5, 1.0, 3.0, 100.0]),
)
def test_no_row_comes_from_the_future_and_distances_stay(moments: list[float], speed: float) -> None:
    rows = [Row(at_s=at_s - moments[0], values={}) for at_s in moments]

    messages = list(played(rows, Playing(topic="t", speed=speed), WALL))

    stamps = [content(m)["time"] for m in messages]
    if speed >= 1.0:
        assert all(stamp <= WALL + m.due_s + 1e-5 for stamp, m in zip(stamps, messages, strict=True))
    assert stamps[-1] == pytest.approx(WALL + messages[-1].due_s, abs=1e-5)
    for row, stamp in zip(rows, stamps, strict=True):
        assert stamp - stamps[0] == pytest.approx(row.at_s, abs=1e-5)


def test_a_file_is_read_with_times_labels_and_gaps(tmp_path: Path) -> None:
    path = written(tmp_path, "when,x,y,what\n5.0,1,2,rest\n\n5.5,,nan,walk\n")

    rows = read(path, time_column="when", label_column="what")

    assert rows == [
        Row(at_s=0.0, values={"x": 1.0, "y": 2.0}, label="rest"),
        Row(at_s=0.5, values={"x": None, "y": None}, label="walk"),
    ]


def test_without_times_rows_are_equally_far_apart(tmp_path: Path) -> None:
    assert [row.at_s for row in read(written(tmp_path, "x\n1\n2\n3\n"), hz=50)] == [0.0, 0.02, 0.04]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must name the columns"),
        ("x,x\n1,2\n", "each once"),
        ("x\n1,2\n", "line 2 has 2 values"),
        ("x,t\n1,\n", "line 2 has no time"),
        ("x,t\nwarm,1\n", "line 2, column 'x': 'warm' is no number"),
        ("x,t\n1,2\n1,1\n", "line 3, column 't': earlier"),
        ("x,u\n1,2\n", "0 columns are called 't'"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecordingError, match=says):
        read(written(tmp_path, text), time_column="t" if "t" in text or "u" in text else "", hz=1)


def test_the_command_plays_to_a_real_broker(mosquitto: EmbeddedBroker, tmp_path: Path, links: Links) -> None:
    path = written(tmp_path, "x,what\n1,rest\n2,walk\n")
    listener = links(mosquitto.port)
    listener.up()
    listener.subscribe("replay/#")

    arguments = ["replay", str(path), "--topic", "replay/imu", "--hz", "20", "--label", "what"]
    result = RUNNER.invoke(app, [*arguments, "--label-topic", "replay/is", "--broker", f"127.0.0.1:{mosquitto.port}"])

    assert result.exit_code == 0, result.output
    assert "played 4 messages" in result.stdout
    heard = [listener.inbox.wait(Received) for _ in range(4)]
    assert [json.loads(m.payload).get("x") for m in heard if m.topic == "replay/imu"] == [1.0, 2.0]
    assert [json.loads(m.payload)["label"] for m in heard if m.topic == "replay/is"] == ["rest", "walk"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--label", "what"], "they go together"),
        (["--loop", "--speed", "2"], "run into the future"),
        (["--broker", "127.0.0.1:1"], "no connection to the broker"),
        (["--hz", "0"], "--hz"),
    ],
)
def test_what_cannot_be_played_is_said(
    tmp_path: Path, more: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmq.replay.CONNECT_S", 0.3)

    result = RUNNER.invoke(app, ["replay", str(written(tmp_path, "x\n1\n")), "--topic", "t", *more])

    assert result.exit_code != 0
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
