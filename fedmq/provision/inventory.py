"""Device ids from a CSV file with a column ``id``. All that is wrong is told at once, and nothing is done then."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from broker_config import NameRefusedError
from fedmq.provision.names import Subject, common_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

COLUMN = "id"
MAX_BYTES = 64 * 1024 * 1024
MAX_TOLD = 10


class InventoryError(ValueError):
    """Ids that cannot be used; the text has a line for each fault."""


def ids_from_csv(path: Path) -> list[str]:
    """Return the ids in the column ``id``; other columns do not matter. Comma, semicolon or tab part them."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InventoryError(f"{path}: larger than {MAX_BYTES} bytes; this is no list of devices")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InventoryError(f"{path}: not UTF-8 text") from exc
    header = text.partition("\n")[0]
    delimiter = next((mark for mark in (",", ";", "\t") if mark in header), ",")
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        names = [name.strip() for name in rows.fieldnames or ()]
        if COLUMN not in names:
            found = f"there are {', '.join(names)[:200]}" if names else "the file is empty"
            raise InventoryError(f"{path}: its first line has no column {COLUMN!r}; {found}")
        rows.fieldnames = names
        return _ids(path, ((rows.line_num, (row[COLUMN] or "").strip()) for row in rows))
    except csv.Error as exc:
        raise InventoryError(f"{path}: line {rows.line_num}: {exc}") from exc


def checked_ids(texts: Iterable[str]) -> list[str]:
    """Return the ids, each once; raise ``InventoryError`` with the reason for each that is none."""
    faults, ids = [], dict.fromkeys(texts)
    for text in ids:
        try:
            common_name(Subject("device", text))
        except NameRefusedError as exc:
            faults.append(str(exc))
    _refuse(faults)
    return list(ids)


def _ids(path: Path, lines: Iterator[tuple[int, str]]) -> list[str]:
    seen: dict[str, int] = {}
    faults = []
    for number, text in lines:
        if not text:
            faults.append(f"{path}: line {number}: no id")
        elif text in seen:
            faults.append(f"{path}: line {number}: {text!r} stands in line {seen[text]} already")
        else:
            seen[text] = number
            try:
                common_name(Subject("device", text))
            except NameRefusedError as exc:
                faults.append(f"{path}: line {number}: {exc}")
    _refuse(faults)
    if not seen:
        raise InventoryError(f"{path}: no device in it")
    return list(seen)


def _refuse(faults: list[str]) -> None:
    if faults:
        more = [f"and {len(faults) - MAX_TOLD} more"] if len(faults) > MAX_TOLD else []
        raise InventoryError("\n".join([*faults[:MAX_TOLD], *more]))
