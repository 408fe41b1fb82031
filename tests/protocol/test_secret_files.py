from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from protocol.adapters.secret_files import MAX_FILE_BYTES, path_of, read_private, read_public
from protocol.settings import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = b"-----BEGIN PRIVATE KEY-----\nhush\n"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "device.key"
    file.write_bytes(SECRET)
    file.chmod(0o600)
    return file


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def fault(read: object, name: str) -> str:
    assert callable(read)
    with pytest.raises(ConfigurationError) as caught:
        read(name, "private key")
    assert "hush" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_alone_is_read(key: Path, mode: int) -> None:
    key.chmod(mode)
    assert read_private(str(key), "private key") == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620])
def test_a_secret_that_others_can_get_at_is_refused_with_the_cure(key: Path, mode: int) -> None:
    key.chmod(mode)
    assert fault(read_private, str(key)) == (
        f"private key {key}: others than its owner can get at it (mode {mode:04o}); chmod 600 {key}"
    )
    assert read_public(str(key), "certificate") == SECRET


def test_credentials_of_systemd_are_found_and_believed(credentials: Path) -> None:
    file = credentials / "device.key"
    file.write_bytes(SECRET)
    file.chmod(0o444)
    assert path_of("credential:device.key", "private key") == file
    assert read_private("credential:device.key", "private key") == SECRET


def test_without_systemd_the_credential_is_missed_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "LoadCredential=device.key:" in fault(read_private, "credential:device.key")


@pytest.mark.parametrize("name", ["", ".", "..", "../device.key", "/etc/shadow"])
def test_a_credential_is_a_name_and_no_path(credentials: Path, name: str) -> None:
    assert credentials.is_dir()
    assert "the name of a credential" in fault(read_private, f"credential:{name}")


def test_what_is_no_such_file_is_said(tmp_path: Path) -> None:
    assert "No such file" in fault(read_private, str(tmp_path / "none"))
    assert "Is a directory" in fault(read_private, str(tmp_path))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert "not a file" in fault(read_private, str(pipe))
    empty = tmp_path / "empty"
    empty.touch(0o600)
    assert "the file is empty" in fault(read_private, str(empty))
    large = tmp_path / "large"
    large.touch(0o600)
    os.truncate(large, MAX_FILE_BYTES + 1)
    assert "larger than" in fault(read_private, str(large))
    assert "no path" in fault(read_public, "a\0b")
