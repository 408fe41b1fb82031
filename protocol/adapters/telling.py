"""Telling the owner of a link what happened, in order, even when its inbox is full for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from protocol.link import LinkEvent

if TYPE_CHECKING:
    from protocol.adapters.loop import LinkLoop
    from protocol.link import Received

Deliver: TypeAlias = Callable[[LinkEvent], bool]

_AGAIN_S = 0.02


class Teller:
    """Calls ``deliver``, in the loop's thread; see ``MqttLink`` for its contract.

    Events about the link are few (there is one for each token, and tokens are bounded), and an owner that missed one
    would wait for ever: those are kept and offered again. Messages are not.
    """

    def __init__(self, loop: LinkLoop, deliver: Deliver, on_fault: Callable[[Exception], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._on_fault = on_fault
        self._kept: deque[LinkEvent] = deque()

    def offer(self, received: Received) -> bool:
        """Return whether there was room for the message. Exceptions of ``deliver`` come through."""
        return not self._kept and self._deliver(received)

    def tell(self, event: LinkEvent) -> None:
        """Deliver the event now or later; an exception is reported to ``on_fault``, later."""
        if self._kept or not self._try(event):
            self._kept.append(event)
            if len(self._kept) == 1:
                self._again_later()

    def last_call(self) -> None:
        """Offer what is kept once more, then forget it."""
        while self._kept and self._try(self._kept[0]):
            self._kept.popleft()
        self._kept.clear()

    def _again_later(self) -> None:
        self._loop.call_at(self._loop.now() + _AGAIN_S, self._again)

    def _again(self) -> None:
        while self._kept:
            if not self._try(self._kept[0]):
                self._again_later()
                return
            self._kept.popleft()

    def _try(self, event: LinkEvent) -> bool:
        try:
            return self._deliver(event)
        except Exception as exc:  # noqa: BLE001 - it is the owner's, and it is passed on
            fault = exc
        # Later, since this may be in the middle of the very connection that has to end.
        self._loop.call_soon(lambda: self._on_fault(fault))
        return True
