"""What is to be installed: the clone that this program lies in, or a folder of wheels; and the name of that version."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmq_installer.layout import InstallError

SYSTEMD = Path(__file__).resolve().parent.parent
CLONE = SYSTEMD.parent


@dataclass(frozen=True, slots=True)
class Source:
    """Where pip gets fedmq, and what it needs, from."""

    wheels: Path | None
    """A folder of wheels, for machines without a network; None: the package index, and fedmq from the clone."""
    build: bool = False
    """Compile what has no wheel; otherwise that is an error, told at once and not after an hour."""
    system_packages: bool = False
    """Take what the machine's own packages give (python3-numpy, where there is no wheel), in place of pip's."""
    clone: Path = CLONE

    def check(self) -> None:
        """Raise ``InstallError`` where there is nothing to install from."""
        if self.wheels is not None and not self.wheels.is_dir():
            raise InstallError(f"--wheels {self.wheels}: no such folder")
        if self.wheel() is None and not (self.clone / "pyproject.toml").is_file():
            raise InstallError(
                f"there is no clone of fedmq around {SYSTEMD}: run systemd/install of a clone, or "
                "name a folder with fedmq's wheel: --wheels DIR"
            )

    def wheel(self) -> Path | None:
        """Return fedmq's own wheel, if there is one among the wheels; raise ``InstallError`` if there are several."""
        found = sorted(self.wheels.glob("fedmq-*.whl")) if self.wheels else []
        if len(found) > 1:
            raise InstallError(f"which one? {', '.join(path.name for path in found)} are in {self.wheels}: leave one")
        return found[0] if found else None

    def requirement(self, extra: str, workshop: Path) -> str:
        """Return what pip is asked for. A clone is copied first: building leaves traces, and a clone is somebody's."""
        target = self.wheel() or self._copied(workshop)
        return f"{target}[{extra}]" if extra else str(target)

    def options(self) -> list[str]:
        """Return pip's options."""
        index = ["--no-index", f"--find-links={self.wheels.resolve()}"] if self.wheels else []
        return [*index, "--prefer-binary" if self.build else "--only-binary=:all:"]

    def environment(self) -> list[str]:
        """Return the options of venv."""
        return ["--system-site-packages"] if self.system_packages else []

    def version_id(self, extra: str, python: str) -> str:
        """Return the name of the version: the release's number, and a digest of all that makes it what it is."""
        digest = hashlib.sha256()
        for name, content in self._parts(extra, python):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return f"{self._number()}-{digest.hexdigest()[:12]}"

    def _parts(self, extra: str, python: str) -> Iterator[tuple[str, bytes]]:
        yield "extra", extra.encode()
        about = "import platform, sys; print(sys.version, platform.machine())"
        yield "python", python.encode() + subprocess.run([python, "-c", about], capture_output=True, check=True).stdout
        if self.system_packages:
            yield "environment", b"system packages"
        if self.wheels is not None:
            yield "wheels", "\n".join(sorted(path.name for path in self.wheels.glob("*.whl"))).encode()
        own = [self.wheel()] if self.wheel() else [self.clone / name for name in self._names()]
        for path in [*filter(None, own), *_files(SYSTEMD)]:
            yield path.name, path.read_bytes()

    def _number(self) -> str:
        wheel = self.wheel()
        if wheel is not None:
            return wheel.name.split("-")[1]
        number = str(self._project()["project"]["version"])
        return re.sub(r"[^A-Za-z0-9.+]", "_", number)

    def _project(self) -> dict[str, dict[str, object]]:
        return tomllib.loads((self.clone / "pyproject.toml").read_text())

    def _names(self) -> list[str]:
        """Return the files that a wheel is built of, and no others: a clone has much beside them."""
        packages = self._project()["tool"]["setuptools"]["packages"]  # type: ignore[index]
        folders = [self.clone / package.replace(".", "/") for package in packages]
        files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
        return ["pyproject.toml", "README.md", "LICENSE", *(str(path.relative_to(self.clone)) for path in files)]

    def _copied(self, workshop: Path) -> Path:
        target = workshop / "fedmq"
        for name in self._names():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.clone / name, target / name)
        return target


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def copy_systemd(target: Path) -> None:
    """Put this folder, units and installer, beside a version: to go back to, and to uninstall without a clone."""
    shutil.copytree(SYSTEMD, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
