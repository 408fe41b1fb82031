"""What a device does about a backbone that it cannot take, or not any more: no room, too large, replaced, nonsense."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from device_agent.adapters.backbone_files import BackboneFiles, backbone_path
from device_agent.commands import KeepChunk, SeekBackbone, Subscribe
from device_agent.events import BackboneFound
from device_agent.frozen import Frozen
from device_agent.pulling import WINDOW
from device_agent.settings import BackboneSettings
from protocol.chunks import blob_of, split
from protocol.errors import ProtocolError
from protocol.messages import BackboneRef, BlobRef, Manifest
from tests.device_agent.harness import TOPICS, manifest, settings

DATA = bytes(range(256)) * 4
CHUNK = 100
BLOB = blob_of(DATA, "tflite", CHUNK)
PIECES = split(DATA, CHUNK)
OTHER = blob_of(DATA[::-1], "tflite", CHUNK)
ONCE_MORE_S = 600.0


def behind(blob: BlobRef = BLOB) -> Manifest:
    return replace(manifest(1), backbone=BackboneRef(blob=blob, inputs=8, outputs=4))


@pytest.fixture
def frozen() -> Frozen:
    found = Frozen(TOPICS, settings(), random.Random(1))
    found.link_up(0.0)
    return found


def deliver(frozen: Frozen, files: BackboneFiles, now: float, indices: range | list[int]) -> None:
    """Have these chunks come, and be written as the shell does it."""
    for index in indices:
        for command in frozen.chunk(BLOB.digest, index, PIECES[index], now):
            if isinstance(command, KeepChunk):
                frozen.found(files.keep(command.blob, command.index, command.data), now)


# -- with a disk that is full --------------------------------------------------------------------------------------


def test_a_disk_without_room_is_asked_again_after_a_while_and_nobody_has_to_do_anything(frozen: Frozen) -> None:
    assert frozen.follow(behind(), 0.0) == [SeekBackbone(blob=BLOB)]
    told = frozen.found(BackboneFound(digest=BLOB.digest, reason="the .tflite file cannot be kept: no room"), 0.0)
    assert len(told) == 1, "said once"
    assert frozen.reason == "the .tflite file cannot be kept: no room"
    assert not frozen.serves(behind())
    assert not frozen.fetching, "so that a device that sleeps does not stay awake for it"

    assert frozen.due(ONCE_MORE_S - 1.0) == []
    assert frozen.due(ONCE_MORE_S) == [SeekBackbone(blob=BLOB)]
    assert frozen.due(ONCE_MORE_S) == [], "it waits for the answer"
    again = frozen.found(
        BackboneFound(digest=BLOB.digest, reason="the .tflite file cannot be kept: no room"), ONCE_MORE_S
    )
    assert again == [], "nothing that was not said"
    assert frozen.due(2 * ONCE_MORE_S - 1.0) == []

    (begun,) = frozen.due(2 * ONCE_MORE_S)
    assert begun == SeekBackbone(blob=BLOB)
    commands = frozen.found(BackboneFound(digest=BLOB.digest), 2 * ONCE_MORE_S)
    (asked,) = (command for command in commands if isinstance(command, Subscribe))
    assert len(asked.topics) == WINDOW
    assert "fetching the backbone" in frozen.reason


def test_a_file_beyond_the_bound_is_not_asked_for_again() -> None:
    small = Frozen(TOPICS, settings(backbone=BackboneSettings(max_bytes=len(DATA) - 1)), random.Random(1))
    small.link_up(0.0)
    assert not any(isinstance(command, SeekBackbone) for command in small.follow(behind(), 0.0))
    assert small.deadline is None
    assert "max_bytes" in small.reason


def test_what_was_refused_is_forgotten_with_the_connection(frozen: Frozen) -> None:
    frozen.follow(behind(), 0.0)
    frozen.found(BackboneFound(digest=BLOB.digest, reason="no room"), 0.0)
    frozen.link_down()
    assert frozen.deadline is None
    frozen.link_up(10.0)
    assert frozen.follow(behind(), 10.0) == [SeekBackbone(blob=BLOB)], "the manifest comes with each connection"


def test_a_disk_that_has_filled_up_meanwhile_keeps_what_came_and_takes_the_rest_later(
    frozen: Frozen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = BackboneFiles(tmp_path)
    frozen.follow(behind(), 0.0)
    frozen.found(files.seek(BLOB), 0.0)
    deliver(frozen, files, 0.0, range(3))
    monkeypatch.setattr("device_agent.adapters.backbone_files.SPARE_BYTES", 2**60)
    frozen.found(files.seek(BLOB), 0.0)
    assert frozen.reason.startswith("the .tflite file takes 724 bytes more on the disk, and ")
    monkeypatch.undo()

    assert frozen.due(ONCE_MORE_S) == [SeekBackbone(blob=BLOB)]
    frozen.found(files.seek(BLOB), ONCE_MORE_S)
    deliver(frozen, files, ONCE_MORE_S, range(3, len(PIECES)))
    assert frozen.serves(behind())
    assert frozen.reason == ""
    assert backbone_path(tmp_path, BLOB.digest).read_bytes() == DATA


# -- replaced, and nonsense -----------------------------------------------------------------------------------------


def test_a_file_that_is_replaced_between_versions_takes_the_place_of_the_old_one(
    frozen: Frozen, tmp_path: Path
) -> None:
    files = BackboneFiles(tmp_path)
    frozen.follow(behind(), 0.0)
    frozen.found(files.seek(BLOB), 0.0)
    deliver(frozen, files, 0.0, range(5))
    commands = frozen.follow(behind(OTHER), 1.0)
    assert commands[-1] == SeekBackbone(blob=OTHER)
    assert frozen.chunk(BLOB.digest, 5, PIECES[5], 1.0) == [], "late chunks of the old one mean nothing"
    assert frozen.found(files.keep(BLOB, 5, PIECES[5]), 1.0) == []
    assert frozen.found(files.seek(OTHER), 1.0)
    assert list((tmp_path / "backbone").iterdir()) == [], "nothing of the old one is left"
    assert not frozen.serves(behind())
    assert not frozen.serves(behind(OTHER))


@pytest.mark.parametrize(("index", "payload"), [(11, b"x"), (-1, b"x" * CHUNK), (0, b"x"), (0, b"x" * (CHUNK + 1))])
def test_chunks_that_cannot_be_of_it_are_refused(frozen: Frozen, index: int, payload: bytes) -> None:
    frozen.follow(behind(), 0.0)
    frozen.found(BackboneFound(digest=BLOB.digest), 0.0)
    with pytest.raises(ProtocolError, match="backbone"):
        frozen.chunk(BLOB.digest, index, payload, 0.0)
    assert frozen.fetching
