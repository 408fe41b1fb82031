"""What keeps a ``.tflite`` file that was sent from running here, and whether another copy of it would help."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from device_agent.adapters.leaving import TaskLeftError
from models import StepLeftError, TfliteError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from protocol.messages import BlobRef


class BackboneError(Exception):
    """The file cannot be used; ``damaged``: it is not what it was, or not there, and another copy may do."""

    def __init__(self, reason: str, *, damaged: bool = False) -> None:
        super().__init__(reason)
        self.damaged = damaged


@contextmanager
def running(what: str, path: Path, blob: BlobRef) -> Iterator[None]:
    """Turn whatever keeps the file from running into ``BackboneError``, and a stop into ``TaskLeftError``."""
    # Late: for federations with such files.
    from models.tflite.runtime import RuntimeUnavailable  # noqa: PLC0415 - see above

    try:
        yield
    except StepLeftError as exc:
        raise TaskLeftError from exc
    except ImportError as exc:
        raise BackboneError(f"{what} cannot be run: {exc}: pip install 'fedmq[tflite]'") from exc
    except RuntimeUnavailable as exc:
        raise BackboneError(f"{what} cannot be run: {exc}") from exc
    except FileNotFoundError as exc:
        raise BackboneError(f"{what} is not here yet", damaged=True) from exc
    except TfliteError as exc:
        raise BackboneError(f"{what}: {exc}", damaged=not _whole(path, blob)) from exc
    except OSError as exc:
        raise BackboneError(f"{what} cannot be read: {exc.strerror or exc}") from exc


def _whole(path: Path, blob: BlobRef) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == blob.digest
    except OSError:
        return False
