"""Sources against a real broker, real files and a real store, within this process."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from device_agent.sensing.adapters import plugin_threads, recorder
from device_agent.sensing.adapters.sample_store import FILE_NAME
from protocol.clock import Reading
from tests.support.sensing import Sensing

if TYPE_CHECKING:
    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links

QUICK = {"reconnect_min_s": 0.05, "reconnect_max_s": 0.2}


def mqtt(broker: EmbeddedBroker, fields: dict[str, str], *topics: str, **table: Any) -> dict[str, Any]:
    return {"kind": "mqtt", "topics": topics, "fields": fields, "broker": {"port": broker.port, **QUICK}, **table}


def ready(sensing: Sensing) -> None:
    """Wait until the broker has taken the subscriptions: a message that is sent before is nobody's."""
    sensing.wait(lambda: all(feed.subscribed for feed in sensing.station._feeds))


def test_messages_of_each_style_are_stored_with_labels_over_one_connection(
    broker: EmbeddedBroker, links: Links, tmp_path: Path
) -> None:
    sources = {
        "zigbee": mqtt(broker, {"t": "temperature", "h": "humidity"}, "zigbee2mqtt/+", limits={"t": [-40, 80]}),
        "tasmota": mqtt(broker, {"power": "ENERGY.Power"}, "tele/+/SENSOR"),
        "state": mqtt(broker, {"bare": "$"}, "homeassistant/sensor/x/state", label_topic="press/state"),
    }
    peer = links(broker.port)
    peer.up()
    peer.publish("zigbee2mqtt/kitchen", b'{"temperature":1,"humidity":1}', retain=True)
    peer.publish("press/state", b"1", retain=True)
    with Sensing(tmp_path, sources) as sensing:
        ready(sensing)
        assert len(sensing.station._feeds) == 1
        for topic, payload in (
            ("zigbee2mqtt/kitchen", b'{"temperature":21.5,"humidity":40}'),
            ("zigbee2mqtt/attic", b'{"temperature":300,"humidity":41}'),
            ("zigbee2mqtt/attic", b"\xff"),
            ("tele/plug/SENSOR", b'{"Time":"2026-05-28T20:26:40","ENERGY":{"Power":7}}'),
            ("tele/plug/STATE", b"{}"),
            ("homeassistant/sensor/x/state", b"21.25"),
            ("homeassistant/sensor/x/state", b"unavailable"),
        ):
            peer.publish(topic, payload)
        sensing.wait(lambda: sensing.station.taken == 4)
        refused = sensing.station.figures().refused
    assert sensing.stored("h") == [40, 41]
    assert sensing.stored("t") == [21.5]
    assert sensing.stored("power") == [7]
    assert sensing.stored("bare") == [21.25]
    assert [row.label for row in sensing.rows if row.source == "state"] == [1.0]
    assert refused == {
        "zigbee: kept by the broker": 1,
        "zigbee: t: outside its limits": 1,
        "zigbee: no JSON": 1,
        "state: nothing in it": 1,
    }


def test_a_broker_that_goes_and_comes_is_told_and_the_label_is_asked_again(
    mosquitto: EmbeddedBroker, links: Links, tmp_path: Path
) -> None:
    sources = {"press": mqtt(mosquitto, {"v": "$"}, "v", label_topic="label")}
    peer = links(mosquitto.port)
    peer.up()
    peer.publish("label", b"3", retain=True)
    with Sensing(tmp_path, sources) as sensing:
        ready(sensing)
        peer.publish("v", b"1")
        sensing.wait(lambda: len(sensing.rows) == 1)
        mosquitto.stop()
        sensing.wait(lambda: "no connection to the broker" in sensing.faults.get("press", ""))
        mosquitto.restart()
        sensing.wait(lambda: sensing.faults == {})
        ready(sensing)
        peer.up()
        peer.publish("v", b"2")
        sensing.wait(lambda: len(sensing.rows) == 2)
    assert [row.label for row in sensing.rows] == [3.0, 3.0]
    assert sensing.stored("v") == [1, 2]


def test_a_row_is_handed_on_before_it_is_stored(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    peer = links(broker.port)
    peer.up()
    with Sensing(tmp_path, {"press": mqtt(broker, {"v": "$"}, "v")}, commit_s=3000) as sensing:
        ready(sensing)
        peer.publish("v", b"5")
        sensing.wait(lambda: len(sensing.rows) == 1)
        assert sensing.station.taken == 0
    # What waits is written at the end.
    assert sensing.stored("v") == [5]


def test_a_flood_is_dropped_and_counted_and_costs_no_memory(
    broker: EmbeddedBroker, links: Links, tmp_path: Path
) -> None:
    peer = links(broker.port)
    peer.up()
    with Sensing(tmp_path, {"press": mqtt(broker, {"v": "$"}, "v", max_rows_per_s=20)}) as sensing:
        ready(sensing)
        begun = time.monotonic()
        for number in range(3000):
            while not peer.link.publish("v", str(number).encode()):
                time.sleep(0.001)
        sensing.wait(lambda: sensing.faults.get("press") == "too many rows: some are dropped")
        sensing.wait(
            lambda: sensing.station.figures().refused.get("press: too many rows", 0) + len(sensing.rows) == 3000
        )
        allowed = 2 * 20 + 20 * (time.monotonic() - begun) + 1  # two seconds' worth at once
    assert len(sensing.rows) <= allowed
    assert sensing.stored("v") == [row.values[0] for row in sensing.rows]


def test_silence_is_told_and_ends_with_the_next_message(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    peer = links(broker.port)
    peer.up()
    with Sensing(tmp_path, {"press": mqtt(broker, {"v": "$"}, "v", silence_s=3)}) as sensing:
        sensing.wait(lambda: sensing.faults == {"press": "silent for more than 3 s"})
        ready(sensing)
        told = len(sensing.told)
        peer.publish("v", b"5")
        sensing.wait(lambda: {} in sensing.told[told:])  # and then it is silent again


def test_a_broker_that_refuses_the_topic_is_told(dynamic_security: EmbeddedBroker, tmp_path: Path) -> None:
    with Sensing(tmp_path, {"press": mqtt(dynamic_security, {"v": "$"}, "secret/v")}) as sensing:
        sensing.wait(lambda: sensing.faults == {"press": "the broker refuses the topic secret/v"})


# -- the disk --------------------------------------------------------------------------------------------------------


def log_of(folder: Path, count: int) -> dict[str, Any]:
    (folder / "log.csv").write_text("v\n" + "".join(f"{n}\n" for n in range(count)))
    return {"log": {"kind": "csv", "path": str(folder / "log.csv"), "fields": {"v": "v"}, "poll_s": 0.05}}


@pytest.mark.parametrize(
    ("pragma", "back", "fault"),
    [
        ("max_page_count = 8", "max_page_count = 1000000", "database or disk is full"),
        ("query_only = 1", "query_only = 0", "attempt to write a readonly database"),
    ],
)
def test_a_disk_that_takes_nothing_pauses_sampling_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pragma: str, back: str, fault: str
) -> None:
    monkeypatch.setattr(recorder, "AGAIN_FIRST_S", 0.1)
    sensing = Sensing(tmp_path, log_of(tmp_path, 10))
    with sensing:
        sensing.wait(lambda: sensing.station.taken == 10)
        store = sensing.station._recorder._store
        assert store is not None
        store._db.execute(f"PRAGMA {pragma}")
        with (tmp_path / "log.csv").open("a") as file:
            file.writelines(f"{n}\n" for n in range(10, 30_000))
        sensing.wait(lambda: sensing.faults.get("sample store", "").endswith(fault))
        assert sensing.station.alive()
        assert len(sensing.rows) < 29_000, "files wait while nothing can be stored"
        store._db.execute(f"PRAGMA {back}")
        sensing.wait(lambda: sensing.faults == {})
        sensing.wait(lambda: sensing.station.taken == 30_000)
    assert sensing.stored("v") == [float(n) for n in range(30_000)]


def test_a_store_that_is_damaged_is_begun_anew_and_files_are_read_again(tmp_path: Path) -> None:
    sensing = Sensing(tmp_path, log_of(tmp_path, 5000))
    with sensing:
        sensing.wait(lambda: sensing.station.taken == 5000)
    path = sensing.state_dir / FILE_NAME
    content = bytearray(path.read_bytes())
    content[3 * 4096 :] = os.urandom(len(content) - 3 * 4096)
    path.write_bytes(content)
    with sensing:
        sensing.wait((sensing.state_dir / f"{FILE_NAME}.corrupt-1").exists)
        sensing.wait(lambda: len(sensing.stored("v")) == 5000)
    assert sensing.stored("v") == [float(n) for n in range(5000)]


def test_a_store_that_cannot_be_opened_yet_is_opened_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "AGAIN_FIRST_S", 0.1)
    sensing = Sensing(tmp_path, log_of(tmp_path, 100))
    (sensing.state_dir / FILE_NAME).mkdir()  # no file can be opened there
    with sensing:
        sensing.wait(lambda: "cannot be stored" in sensing.faults.get("sample store", ""))
        assert sensing.station.taken is None
        (sensing.state_dir / FILE_NAME).rmdir()
        sensing.wait(lambda: sensing.station.taken == 100)
        sensing.wait(lambda: sensing.faults == {})


# -- the clock -------------------------------------------------------------------------------------------------------


def test_rows_from_before_the_clock_was_set_get_their_times_when_it_is(
    broker: EmbeddedBroker, links: Links, tmp_path: Path
) -> None:
    wall = {"offset": -time.time()}  # 1970

    def clocks() -> Reading:
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return Reading(wall=time.time() + wall["offset"], since_boot=boot, synchronized=None)

    peer = links(broker.port)
    peer.up()
    with Sensing(tmp_path, {"press": mqtt(broker, {"v": "$"}, "v")}, clock=clocks) as sensing:
        ready(sensing)
        before = time.time()
        peer.publish("v", b"1")
        sensing.wait(lambda: sensing.faults == {"sample store": "the clock is not set: rows wait in memory"})
        assert sensing.station.taken == 0
        wall["offset"] = 0.0
        sensing.wait(lambda: sensing.station.taken == 1)
        sensing.wait(lambda: sensing.faults == {})
        after = time.time()
    from device_agent.sensing.adapters.reading import read  # noqa: PLC0415 - here alone

    assert before - 0.1 <= read(sensing.state_dir, ("v",)).times[0] <= after


# -- plug-ins --------------------------------------------------------------------------------------------------------

MISBEHAVING = """
import os, threading

class Plugin:
    def __init__(self, options):
        self.options, self.how = options, options["how"]
        if self.how == "never":
            raise ValueError("no such sensor")

    def run(self, emit, stop):
        if self.how == "raises" and not os.path.exists(self.options["mended"]):
            raise SystemExit("broken")
        if self.how == "garbage":
            class Strange:
                def keys(self):
                    raise RuntimeError
            for values in (None, 5, "x", [1], {"v": object()}, {"v": "much"}, {}, {1: 2}, Strange()):
                assert emit(values) is False
            assert emit({"v": 1}, time="never") is False
            assert emit({"v": 1}, label=[]) is True
        if self.how == "flood":
            for number in range(5000):
                emit({"v": number})
        emit({"v": 7})
        if self.how == "hangs":
            threading.Event().wait()
        stop.wait()
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package, as pip leaves one."""
    site = tmp_path / "site"
    (site / "misbehaving-1.0.dist-info").mkdir(parents=True)
    (site / "misbehaving.py").write_text(MISBEHAVING)
    (site / "misbehaving-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1.0\n")
    (site / "misbehaving-1.0.dist-info/entry_points.txt").write_text(
        "[fedmq.sources]\nmisbehaving = misbehaving:Plugin\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(plugin_threads, "AGAIN_MIN_S", 0.05)
    monkeypatch.setattr(plugin_threads, "AGAIN_FIRST_S", 0.05)
    monkeypatch.delitem(__import__("sys").modules, "misbehaving", raising=False)


def plugged(how: str, mended: Path | None = None, **table: Any) -> dict[str, Any]:
    options = {"how": how, "mended": str(mended)}
    return {"p": {"kind": "plugin", "plugin": "misbehaving", "options": options, "fields": {"v": "v"}, **table}}


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("how", "fault"), [("raises", "plug-in: SystemExit: broken"), ("never", "plug-in: ValueError: no such sensor")]
)
def test_a_plugin_that_fails_is_told_and_started_again(tmp_path: Path, how: str, fault: str) -> None:
    with Sensing(tmp_path, plugged(how, tmp_path / "mended")) as sensing:
        sensing.wait(lambda: {"p": fault} in sensing.told)
        if how == "raises":
            (tmp_path / "mended").touch()
            sensing.wait(lambda: [row.values for row in sensing.rows] == [(7.0,)])
            sensing.wait(lambda: sensing.faults == {})
        assert sensing.station.alive()


@pytest.mark.usefixtures("plugin")
def test_a_plugin_that_emits_garbage(tmp_path: Path) -> None:
    with Sensing(tmp_path, plugged("garbage")) as sensing:
        sensing.wait(lambda: len(sensing.rows) == 2)
        refused = sensing.station.figures().refused
    assert sum(refused.values()) == 11
    assert refused["p: v: no number"] == 2


@pytest.mark.usefixtures("plugin")
def test_a_plugin_that_floods_or_hangs(tmp_path: Path) -> None:
    sources = {"flood": plugged("flood", max_rows_per_s=10)["p"], "hangs": plugged("hangs")["p"]}
    started = time.monotonic()
    with Sensing(tmp_path, sources) as sensing:
        sensing.wait(lambda: sensing.faults == {"flood": "too many rows: some are dropped"})
        sensing.wait(lambda: any(row.source == "hangs" for row in sensing.rows))
        allowed = 20 + 10 * (time.monotonic() - started) + 1
        assert sum(row.source == "flood" for row in sensing.rows) <= allowed
        begun = threading.active_count()
    assert begun >= 4


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    with Sensing(tmp_path, {"p": {"kind": "plugin", "plugin": "nope", "fields": {"v": "v"}}}) as sensing:
        sensing.wait(lambda: "no plug-in 'nope' is installed" in sensing.faults.get("p", ""))


def test_the_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib  # noqa: PLC0415 - here alone

    example = Path(__file__).parents[2] / "examples" / "board_load"
    project = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["fedmq.sources"]
    info = tmp_path / "fedmq_board_load-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fedmq.sources]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(example))
    table = {
        "kind": "plugin",
        "plugin": "board-load",
        "options": {"every_s": 0.05},
        "fields": {"load": "load.minute", "free": "free_bytes"},
    }
    with Sensing(tmp_path, {"board": table}) as sensing:
        sensing.wait(lambda: len(sensing.rows) >= 2)
        assert sensing.rows[0].values[1] > 1e6
        assert sensing.faults == {}
