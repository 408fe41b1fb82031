"""``fedmq provision`` as its tests call it: the command line in this process, on a keystore of the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fedmq.__main__ import app
from protocol import bundles

RUNNER = CliRunner()


class Desk:
    """A keystore, and the commands that work on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, exits: int = 0) -> str:
        """Run a command; return what it said, lines joined by blanks."""
        result = RUNNER.invoke(app, ["provision", *words, "--keystore", str(self.folder)])
        assert "Traceback" not in result.output, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == exits, result.output
        return result.output

    def init(self, *words: str) -> str:
        return self("init", "plant", "--broker", "localhost", "--broker", "127.0.0.1", *words)

    def values(self) -> dict[str, Any]:
        """Return what ``list --json`` says."""
        found: dict[str, Any] = json.loads(self("list", "--json"))
        return found

    def certificates(self, name: str, role: str = "device") -> list[dict[str, Any]]:
        return [one for one in self.values()["certificates"] if (one["role"], one["id"]) == (role, name)]

    def bundle(self, name: str, folder: str = "bundles") -> bundles.Bundle:
        return bundles.decode((self.folder / folder / f"{name}.fedmq").read_bytes())

    def unpack(self, name: str, where: Path, folder: str = "bundles") -> Path:
        """Write a bundle's files into a folder as ``enroll`` calls them."""
        where.mkdir(parents=True)
        for part, file in bundles.FILE_NAMES.items():
            path = where / file
            path.write_text(self.bundle(name, folder).files[part], encoding="utf-8")
            path.chmod(0o600)
        return where

    def findings(self, *words: str) -> str:
        """Return what ``check`` says, which must be something."""
        return self("check", *words, exits=1)
