"""One source's gate: raw values in, a row out, or a reason why not. Counts, and knows what is wrong with its sensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from device_agent.sensing.freezing import FreezeWatch
from device_agent.sensing.labelling import EVERYBODY, LabelBoard, label_of
from device_agent.sensing.moments import MomentError, moment_of
from device_agent.sensing.pacing import Pace
from device_agent.sensing.rows import Moment, Row
from device_agent.sensing.sources import SourceTable
from device_agent.sensing.values import LARGEST, MISSING, Gauge, Sent, ValueFault, number_of

FLOOD_MEMORY_S = 60.0
"""So long after its last dropped row a source is said to send too many."""

USELESS_AFTER = 3
"""So many refusals without a row in between are more than an accident."""

MAX_KINDS = 32
"""Kinds of refusals that are counted apart; of what comes later there is one more."""

MAX_NEWS = 16

TOO_MANY = "too many rows"


class Intake:
    """The rules of one ``[sources.NAME]``. Not thread-safe: its owner has a lock."""

    def __init__(self, name: str, table: SourceTable, board: LabelBoard, now: float) -> None:
        """``now``: monotonic seconds; silence counts from here on."""
        self.name = name
        self.table = table
        self.channels = tuple(table.fields)
        self.rows = 0
        """Taken since the start."""
        self.refused: dict[str, int] = {}
        """Rows, values and labels by what was wrong with them."""
        self.last_time: float | None = None
        self.trouble = ""
        """What the source itself says is wrong: no connection, no such file. Empty: nothing."""
        self.said = MISSING
        """The label that this source said last; NaN: none."""
        self.column_trouble = ""
        """What the source's data lack, in the same way."""
        self._board = board
        self._gauges = [_gauge(table, channel) for channel in self.channels]
        self._freezes = [FreezeWatch(table.freeze_s.get(channel, math.inf)) for channel in self.channels]
        self._pace = Pace(table.max_rows_per_s)
        self._heard_at = now
        self._dropped_at = -math.inf
        self._useless = 0
        self._useless_kind = ""
        self._refused_here = ""
        self._news: list[str] = []

    # -- what comes in

    def allows(self, now: float) -> bool:
        """Return whether one more may come; count it as dropped if not. For sources that are not asked, but send."""
        if self._pace.allows(now):
            return True
        self._dropped_at = now
        self._count(TOO_MANY, f"more than {self.table.max_rows_per_s:g} rows a second")
        return False

    def take(
        self, raws: Sequence[Sent], at: Moment, *, time: Sent = None, label: Sent = None, where: str = ""
    ) -> Row | None:  # ``time`` and ``label`` are as they were sent, None: not there
        """Return the row of these raw values, one for each channel in order; None when nothing of it can be used.

        A value that is refused is missing in its row. ``where`` is for messages: the line, or the topic.
        """
        moment = self._time_of(time, at, where) if time is not None else at.wall_s
        if moment is None:
            return None
        self._heard_at = at.monotonic_s
        self._refused_here = ""
        values = [self._value_of(index, raw, where) for index, raw in enumerate(raws)]
        if all(map(math.isnan, values)):
            self._note_useless(raws, where)
            return None
        kept = tuple(map(self._unfrozen, range(len(values)), values, [moment] * len(values)))
        self._useless = 0
        if all(map(math.isnan, kept)):
            return None
        self.rows += 1
        self.last_time = moment
        return Row(
            source=self.name,
            channels=self.channels,
            values=kept,
            time=moment,
            label=self._label_for_row(label, where),
            arrived=at.monotonic_s if time is None and not (at.clock_set and at.clock_sure) else None,
        )

    def hold_label(self, label: Sent, where: str = "") -> None:
        """Take in a label that holds from now on."""
        found = self.label(label, where)
        if found is not None:
            scope = EVERYBODY if self.table.label_scope == "all" else self.name
            self.said = found
            self._board.put(self.name, scope, found)

    def label(self, label: Sent, where: str = "") -> float | None:
        """Return the label as a number, NaN for none; None when it is refused."""
        try:
            return label_of(label, self.table.labels)
        except ValueFault as exc:
            self._count(f"label: {exc}", where)
            return None

    def moment(self, time: Sent, at: Moment, where: str = "") -> float | None:
        """Return a time that was sent; None when it is refused."""
        return self._time_of(time, at, where)

    def forget_labels(self) -> None:
        """Take back the label that holds: it may have changed unnoticed."""
        self.said = MISSING
        self._board.forget(self.name)

    def refuse(self, kind: str, where: str = "") -> None:
        """Count something that no row can be made of."""
        self._useless += 1
        self._useless_kind = kind
        self._count(kind, where)

    def note(self, kind: str, where: str = "") -> None:
        """Count something that is left out, and is no fault."""
        self._count(kind, where)

    # -- how it is

    def faults(self, now: float) -> tuple[str, ...]:
        """Return what is wrong now, in few words each; the same words for as long as the same is wrong."""
        found = [text for text in (self.trouble, self.column_trouble) if text]
        silence_s = self.table.silence_s
        if silence_s and now >= self._heard_at + silence_s:
            found.append(f"silent for more than {silence_s:g} s")
        frozen = [name for name, watch in zip(self.channels, self._freezes, strict=True) if watch.frozen]
        if frozen:
            found.append(f"frozen: {', '.join(frozen[:4])}")
        if self._useless >= USELESS_AFTER:
            found.append(f"nothing can be used: {self._useless_kind}")
        if now < self._dropped_at + FLOOD_MEMORY_S:
            found.append("too many rows: some are dropped")
        return tuple(found)

    def next_change(self, now: float) -> float:
        """Return when ``faults`` says something else if nothing comes in until then; infinity: never."""
        found = [math.inf]
        if self.table.silence_s:
            found.append(self._heard_at + self.table.silence_s)
        found.append(self._dropped_at + FLOOD_MEMORY_S)
        return min(moment for moment in found if moment > now)

    def take_news(self) -> list[str]:
        """Return lines for the log, and forget them."""
        news, self._news = self._news, []
        return news

    # -- steps

    def _value_of(self, index: int, raw: Sent, where: str) -> float:
        try:
            return self._gauges[index](number_of(raw))
        except ValueFault as exc:
            self._refused_here = f"{self.channels[index]}: {exc}"
            self._count(self._refused_here, where)
            return MISSING

    def _note_useless(self, raws: Sequence[Sent], where: str) -> None:
        if self._refused_here:
            self._useless += 1
            self._useless_kind = self._refused_here
        elif raws:
            self.refuse("nothing in it", where)

    def _unfrozen(self, index: int, value: float, moment: float) -> float:
        return MISSING if not math.isnan(value) and self._freezes[index].see(value, moment) else value

    def _time_of(self, time: Sent, at: Moment, where: str) -> float | None:
        try:
            return moment_of(time, at.wall_s if at.clock_set else None)
        except MomentError as exc:
            self.refuse(str(exc), where)
            return None

    def _label_for_row(self, label: Sent, where: str) -> float:
        found = MISSING if label is None else self.label(label, where)
        if found is None or not math.isnan(found):
            return MISSING if found is None else found
        return self._board.holding(self.name)

    def _count(self, kind: str, where: str) -> None:
        if kind not in self.refused and len(self.refused) >= MAX_KINDS:
            kind = "other"
        count = self.refused[kind] = self.refused.get(kind, 0) + 1
        # The first, the tenth, the hundredth: a fault that lasts must not fill the log.
        if len(self._news) < MAX_NEWS and str(count).strip("0") == "1":
            times = f" ({count} times)" if count > 1 else ""
            self._news.append(f"{kind}{times}{f': {where}' if where else ''}")


def _gauge(table: SourceTable, channel: str) -> Gauge:
    low, high = table.limits.get(channel, (-LARGEST, LARGEST))
    return Gauge(
        scale=table.scale.get(channel, 1.0),
        offset=table.offset.get(channel, 0.0),
        low=low,
        high=high,
        error_values=frozenset(table.error_values.get(channel, ())),
    )
