"""What the board's sensors say, from ``/sys``, ``/proc`` and the file system.

No sensor is a must, and none is believed blindly: what is not there, cannot be read or makes no sense is None. Nothing
is kept open: devices come and go (USB supplies, hot-plugged batteries), also while they are read.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from device_agent.policy import Readings
from protocol.adapters.system_clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from device_agent.settings import AgentSettings

MAX_READ_BYTES = 65536

CPU_SENSORS = ("cpu", "soc", "core", "pkg", "package", "cluster", "tsens", "k10temp", "zenpower")
"""In the names of thermal zones and hwmon chips of processors; all others (disks, radios) do not count."""

SENSIBLE_C = (-60.0, 150.0)
"""Sensors that are switched off or broken say 0 K, or the largest number that they know."""

ROUTE_UP = 0x1


class Counted(Protocol):
    """Who knows how many rows there have ever been."""

    @property
    def taken(self) -> int | None:
        """The number; None while nobody knows."""
        ...


class Sensors:
    """Reads everything that the policy can ask for."""

    def __init__(
        self, settings: AgentSettings, clock: SystemClock | None = None, samples: Counted | None = None
    ) -> None:
        """Look where the settings say; ``samples`` counts the rows, where they are in no file."""
        self._samples = samples
        self._clock = clock or SystemClock(Path(settings.device.state_dir), wait_s=settings.clock.wait_s)
        self._root = Path(settings.policy.system_root)
        self._state_dir = Path(settings.device.state_dir)
        self._data = Path(settings.data.path) if settings.data.path else None
        self._count = settings.policy.min_new_examples > 0
        self._counted: tuple[tuple[int, int, int], int | None] | None = None

    def read(self) -> Readings:
        """Read all sensors; never fails. Takes less than a millisecond, but for a file of samples that is new."""
        cores = os.cpu_count() or 1
        load = _load(self._root)
        mains, battery = _power(self._root / "sys/class/power_supply")
        return Readings(
            mains=mains,
            battery_percent=battery,
            cpu_c=_cpu_c(self._root),
            load_per_core=None if load is None else load / cores,
            cores=cores,
            free_memory_bytes=_free_memory(self._root),
            free_disk_bytes=_free_disk(self._state_dir),
            interface=_interface(self._root),
            clock_s=_time_of_day() if self._clock.plausible() else None,
            examples=self._examples() if self._count else None,
        )

    def _examples(self) -> int | None:
        if self._samples is not None:
            return self._samples.taken
        if self._data is None:
            return None
        try:
            found = self._data.stat()
        except OSError:
            return None
        print_of_file = found.st_mtime_ns, found.st_size, found.st_ino
        if self._counted is None or self._counted[0] != print_of_file:
            # Imports zipfile: only for who asks.
            from device_agent.adapters.counting import count_examples  # noqa: PLC0415 - see above

            self._counted = print_of_file, count_examples(self._data)
        return self._counted[1]


def _text(path: Path) -> str:
    """Return the file's text, without blanks around it; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_READ_BYTES).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(int(_text(path)))
    except (ValueError, OverflowError):
        return None


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _power(folder: Path) -> tuple[bool | None, float | None]:
    """Return whether there is power from outside, and the mean charge of the batteries."""
    states: set[str] = set()
    online: list[bool] = []
    charges: list[float] = []
    for supply in _folders(folder):
        if _text(supply / "scope") == "Device":
            continue  # the battery of a mouse or keyboard
        if _text(supply / "type") in ("Battery", "UPS"):
            states.add(_text(supply / "status"))
            charge = _number(supply / "capacity")
            if charge is not None and 0 <= charge <= 100:  # noqa: PLR2004 - percent
                charges.append(charge)
        elif (said := _number(supply / "online")) is not None:
            online.append(said > 0)
    return _mains(states, online), sum(charges) / len(charges) if charges else None


def _mains(states: set[str], online: list[bool]) -> bool | None:
    if "Discharging" in states:
        return False  # also with a supply that is too weak
    if any(online) or states & {"Charging", "Full", "Not charging"}:
        return True
    return False if online else None


def _cpu_c(root: Path) -> float | None:
    found = [*_zones(root / "sys/class/thermal"), *_chips(root / "sys/class/hwmon")]
    if not found:
        # Some boards name it after the chip's maker; by custom the first zone is the processor's.
        found = [_number(root / "sys/class/thermal/thermal_zone0/temp")]
    sensible = [value / 1000.0 for value in found if value is not None]
    return max((value for value in sensible if SENSIBLE_C[0] < value < SENSIBLE_C[1]), default=None)


def _zones(folder: Path) -> Iterator[float | None]:
    for zone in _folders(folder):
        if zone.name.startswith("thermal_zone") and _is_cpu(_text(zone / "type")):
            yield _number(zone / "temp")


def _chips(folder: Path) -> Iterator[float | None]:
    for chip in _folders(folder):
        if _is_cpu(_text(chip / "name")):
            for sensor in _folders(chip):
                if sensor.name.startswith("temp") and sensor.name.endswith("_input"):
                    yield _number(sensor)


def _is_cpu(name: str) -> bool:
    return any(part in name.lower() for part in CPU_SENSORS)


def _load(root: Path) -> float | None:
    try:
        load = float(_text(root / "proc/loadavg").split()[0])
    except (ValueError, IndexError):
        return None
    return load if 0.0 <= load < 1e6 else None  # noqa: PLR2004 - neither NaN nor nonsense


def _free_memory(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            try:
                return int(value.split()[0]) * 1024
            except (ValueError, IndexError):
                return None
    return None


def _free_disk(folder: Path) -> int | None:
    for place in (folder, *folder.absolute().parents):  # before the first start there is no such folder yet
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return found.f_bavail * found.f_frsize
    return None


def _interface(root: Path) -> str | None:
    """Return the interface of the default route with the lowest metric; that of IPv6 where IPv4 has none."""
    return min(_routes(root), default=(0, None))[1] or min(_routes6(root), default=(0, None))[1]


def _routes(root: Path) -> Iterator[tuple[int, str]]:
    for line in _text(root / "proc/net/route").splitlines()[1:]:
        try:
            name, destination, _gateway, flags, _refs, _use, metric, mask = line.split()[:8]
            if int(destination, 16) == 0 and int(mask, 16) == 0 and int(flags, 16) & ROUTE_UP:
                yield int(metric), name
        except ValueError:
            continue


def _routes6(root: Path) -> Iterator[tuple[int, str]]:
    for line in _text(root / "proc/net/ipv6_route").splitlines():
        try:
            destination, length, _src, _len, _hop, metric, _refs, _use, flags, name = line.split()[:10]
            # The kernel's own "unreachable" entry is on lo.
            if int(destination, 16) == 0 and int(length, 16) == 0 and int(flags, 16) & ROUTE_UP and name != "lo":
                yield int(metric, 16), name
        except ValueError:
            continue


def _time_of_day() -> int:
    now = time.localtime()
    return now.tm_hour * 3600 + now.tm_min * 60 + min(now.tm_sec, 59)
