"""Sensors read from real trees of files: boards of several kinds, garbage, and files that disappear."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters import counting
from device_agent.adapters.counting import count_examples
from device_agent.adapters.readings import Sensors
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings, PolicySettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from device_agent.policy import Readings

ROUTES = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def route(name: str, *, metric: int = 0, destination: str = "00000000", flags: str = "0003") -> str:
    return f"{name}\t{destination}\t0102A8C0\t{flags}\t0\t0\t{metric}\t00000000\t0\t0\t0\n"


def route6(name: str, *, metric: int = 1024, length: str = "00") -> str:
    zero = "0" * 32
    return f"{zero} {length} {zero} 00 {zero} {metric:08x} 00000001 00000000 00000003 {name:>8}\n"


class Board:
    """A tree with proc and sys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: str, text: str | bytes) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def supply(self, name: str, **files: Any) -> None:
        for file, value in files.items():
            self.write(f"sys/class/power_supply/{name}/{file}", f"{value}\n")

    def zone(self, number: int, kind: str, temp: object) -> None:
        self.write(f"sys/class/thermal/thermal_zone{number}/type", f"{kind}\n")
        self.write(f"sys/class/thermal/thermal_zone{number}/temp", f"{temp}\n")

    def sensors(self, **policy: Any) -> Sensors:
        return Sensors(
            AgentSettings(
                device=DeviceSettings(id="d", federation="f", state_dir=str(self.folder / "state")),
                data=DataSettings(path=str(self.folder / "samples.csv")),
                policy=PolicySettings(system_root=str(self.folder), **policy),
            )
        )

    def read(self, **policy: Any) -> Readings:
        return self.sensors(**policy).read()


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_a_raspberry_pi(board: Board) -> None:
    board.zone(0, "cpu-thermal", 48312)
    board.write("proc/loadavg", "0.40 0.30 0.20 2/130 4711\n")
    board.write("proc/meminfo", "MemTotal:  440000 kB\nMemFree:  100 kB\nMemAvailable:   131072 kB\n")
    board.write("proc/net/route", ROUTES + route("wlan0", metric=600) + route("eth0", metric=100))
    found = board.read()
    assert (found.mains, found.battery_percent) == (None, None)
    assert found.cpu_c == pytest.approx(48.312)
    assert found.load_per_core == pytest.approx(0.4 / (os.cpu_count() or 1))
    assert found.free_memory_bytes == 128 * 1024 * 1024
    assert found.free_disk_bytes
    assert found.interface == "eth0"
    assert found.examples is None


def test_a_notebook_and_its_mouse(board: Board) -> None:
    board.supply("AC", type="Mains", online=0)
    board.supply("BAT0", type="Battery", status="Discharging", capacity=40)
    board.supply("BAT1", type="Battery", status="Unknown", capacity=80)
    board.supply("hidpp_battery_0", type="Battery", scope="Device", status="Discharging", capacity=3)
    board.zone(0, "acpitz", 99000)
    board.zone(1, "x86_pkg_temp", 61000)
    board.zone(2, "iwlwifi_1", 98000)
    board.write("sys/class/hwmon/hwmon0/name", "nvme\n")
    board.write("sys/class/hwmon/hwmon0/temp1_input", "97000\n")
    board.write("sys/class/hwmon/hwmon1/name", "coretemp\n")
    board.write("sys/class/hwmon/hwmon1/temp2_input", "64000\n")
    board.write("sys/class/hwmon/hwmon1/temp2_max", "100000\n")
    found = board.read()
    assert (found.mains, found.battery_percent, found.cpu_c) == (False, 60.0, 64.0)


@pytest.mark.parametrize(
    ("supplies", "mains"),
    [
        ([{"type": "Mains", "online": 1}], True),
        ([{"type": "USB", "online": 0}, {"type": "Mains", "online": 1}], True),
        ([{"type": "Mains", "online": 0}], False),
        ([{"type": "Battery", "status": "Charging"}], True),
        ([{"type": "Battery", "status": "Full"}], True),
        ([{"type": "Battery", "status": "Discharging"}], False),
        ([{"type": "USB", "online": 1}, {"type": "Battery", "status": "Discharging"}], False),
        ([{"type": "Battery", "status": "Unknown", "capacity": 50}], None),
        ([{"type": "Battery", "status": "Charging"}, {"type": "Battery", "status": "Discharging"}], False),
        ([{"type": "UPS", "status": "Discharging"}], False),
        ([], None),
    ],
)
def test_power_from_outside(board: Board, supplies: list[dict[str, Any]], mains: bool | None) -> None:
    for number, files in enumerate(supplies):
        board.supply(f"s{number}", **files)
    assert board.read().mains is mains


@pytest.mark.parametrize("temp", ["-274000", "2147483647", "", "warm", "12.5", "9" * 500, "\0"])
def test_a_temperature_that_makes_no_sense(board: Board, temp: str) -> None:
    board.zone(0, "cpu-thermal", temp)
    assert board.read().cpu_c is None
    board.zone(1, "cpu-thermal", 40000)
    assert board.read().cpu_c == 40.0


def test_where_no_sensor_is_named_after_a_processor_it_is_the_first_zone(board: Board) -> None:
    board.zone(1, "battery", 30000)
    assert board.read().cpu_c is None
    board.zone(0, "acme_ths", 44000)
    assert board.read().cpu_c == 44.0


def test_routes(board: Board) -> None:
    def interface(v4: str, v6: str = "") -> str | None:
        board.write("proc/net/route", ROUTES + v4)
        board.write("proc/net/ipv6_route", v6)
        return board.read().interface

    assert interface("") is None
    assert interface(route("eth0", destination="0002A8C0") + route("wwan0", flags="0002")) is None
    assert interface("", route6("wwan0") + route6("lo", metric=1) + route6("eth0", length="40", metric=1)) == "wwan0"
    assert interface(route("eth0"), route6("wwan0")) == "eth0"
    assert interface("garbage\n" + "x " * 20 + "\n" + route("ppp0")) == "ppp0"


def test_a_board_with_nothing_at_all(board: Board) -> None:
    found = board.read()
    assert found.cpu_c is found.mains is found.battery_percent is found.load_per_core is None
    assert (found.free_memory_bytes, found.interface) == (None, None)
    assert found.free_disk_bytes, "also before the state has a folder"


def test_a_load_that_is_none(board: Board) -> None:
    for text in ("", "nan 0 0", "-1 0 0", "many", "inf"):
        board.write("proc/loadavg", text)
        assert board.read().load_per_core is None


FILES = (
    "proc/loadavg", "proc/meminfo", "proc/net/route", "proc/net/ipv6_route", "sys/class/thermal/thermal_zone0/type",
    "sys/class/thermal/thermal_zone0/temp", "sys/class/power_supply/B/type", "sys/class/power_supply/B/status",
    "sys/class/power_supply/B/capacity", "sys/class/power_supply/B/online", "sys/class/hwmon/hwmon0/name",
    "sys/class/hwmon/hwmon0/temp1_input",
)  # fmt: skip
LINES = st.sampled_from([b"MemAvailable:", b"MemAvailable: x kB", b"Battery", b"cpu", b"1", ROUTES.encode(), b"a b c"])


@given(st.lists(st.tuples(st.sampled_from(FILES), st.binary(max_size=200) | LINES), max_size=12))
def test_garbage_is_never_an_error(tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, bytes]]) -> None:
    board = Board(tmp_path_factory.mktemp("board"))
    for path, text in files:
        board.write(path, text)
    found = board.read()
    assert found.cpu_c is None or -60 < found.cpu_c < 150
    assert found.battery_percent is None or 0 <= found.battery_percent <= 100


def test_folders_in_place_of_files_and_files_that_nobody_may_read(board: Board) -> None:
    for path in FILES:
        (board.folder / path).mkdir(parents=True)
    assert board.read().cpu_c is None


def test_devices_that_disappear_while_they_are_read(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.zone(0, "cpu-thermal", 40000)
    board.zone(1, "cpu-thermal", 90000)
    board.supply("BAT0", type="Battery", status="Discharging", capacity=40)
    iterdir = Path.iterdir

    def pulled_out(folder: Path) -> Iterator[Path]:
        yield from list(iterdir(folder))
        for gone in ("sys/class/thermal/thermal_zone1/temp", "sys/class/power_supply/BAT0/status"):
            (board.folder / gone).unlink(missing_ok=True)

    monkeypatch.setattr(Path, "iterdir", pulled_out)
    found = board.read()
    assert found.cpu_c == 40.0
    assert (found.mains, found.battery_percent) == (None, 40.0)


def test_the_clock(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert board.read().clock_s is None
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    monkeypatch.setattr(time, "localtime", lambda: time.gmtime(1_800_000_000))
    assert board.read().clock_s == 1_800_000_000 % 86_400
    board.write("state/clock", "1900000000")
    assert board.read().clock_s is None, "it was later already"


# -- counting examples ---------------------------------------------------------------------------------------------


def test_the_samples_are_counted_when_a_rule_asks_and_again_when_they_change(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[Path] = []

    def counted(path: Path, count: Callable[[Path], int | None] = count_examples) -> int | None:
        counts.append(path)
        return count(path)

    monkeypatch.setattr(counting, "count_examples", counted)
    sensors = board.sensors(min_new_examples=5)
    assert sensors.read().examples is None
    board.write("samples.csv", "a,label\n1,0\n2,1\n")
    assert [sensors.read().examples for _ in range(3)] == [2, 2, 2]
    board.write("samples.csv", "a,label\n1,0\n2,1\n3,1")
    assert sensors.read().examples == 3
    assert len(counts) == 2


def test_rows_of_an_archive(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        for y in (np.zeros(7, np.int64), np.zeros((7, 2), np.float32), np.asfortranarray(np.zeros((7, 3)))):
            save(tmp_path / "samples.npz", x=np.zeros((7, 4)), y=y)
            assert count_examples(tmp_path / "samples.npz") == 7


def test_what_cannot_be_counted(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    assert count_examples(path) is None
    np.savez(path, x=np.zeros(3))
    assert count_examples(path) is None
    np.savez(path, y=np.float32(3))
    assert count_examples(path) is None
    np.savez(path, y=np.zeros(300))
    whole = path.read_bytes()
    for cut in (0, 10, 40, 100, len(whole) - 30):
        path.write_bytes(whole[:cut])
        assert count_examples(path) is None


@given(st.binary(max_size=300))
def test_an_archive_of_garbage(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    path.write_bytes(garbage)
    assert count_examples(path) is None
    np.savez(path, y=np.zeros(3))
    whole = bytearray(path.read_bytes())
    whole[20 : 20 + len(garbage)] = garbage
    path.write_bytes(whole)
    count_examples(path)


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("a,b", 0), ("a,b\n", 0), ("a,b\n1,2", 1), ("a,b\n1,2\n", 1), ("a\n1\n2\n3", 3)]
)
def test_lines_of_a_table(tmp_path: Path, text: str, count: int) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(text)
    assert count_examples(path) == count
