"""How much one device may ask of the aggregator: token buckets, so that a flood is the flooder's problem alone."""

from __future__ import annotations

from aggregator.configuration import AdmissionTable

BYTES_BURST_S = 8.0
"""The bucket of bytes holds so many seconds of its rate, or two of the largest updates if that is more."""

ANSWER_EVERY_S = 1.0
"""A device that asks too much is told so at most this often: answers must not become a flood of their own."""


class TokenBucket:
    """Fills by ``rate`` a second up to ``burst``; what is taken out must be in it. ``rate`` 0: never empty."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def wait_s(self, cost: float, now: float) -> float:
        """Return how long until ``cost`` can be taken; 0 = now. A cost above the burst can be taken when it is full."""
        if not self._rate:
            return 0.0
        self._tokens = min(self._burst, self._tokens + self._rate * max(0.0, now - self._at))
        self._at = now
        return max(0.0, (min(cost, self._burst) - self._tokens) / self._rate)

    def take(self, cost: float) -> None:
        """Take it out, after ``wait_s`` said that it is there."""
        self._tokens = max(0.0, self._tokens - cost)

    def put_back(self, cost: float) -> None:
        """Undo a ``take``."""
        self._tokens = min(self._burst, self._tokens + cost)

    def full(self, now: float) -> bool:
        """Whether forgetting this bucket and making a new one would make no difference."""
        return self.wait_s(self._burst, now) <= 0.0


class _Allowance:
    __slots__ = ("answer_at", "bytes", "messages")

    def __init__(self, messages: TokenBucket, payload: TokenBucket) -> None:
        self.messages = messages
        self.bytes = payload
        self.answer_at = float("-inf")


class Allowances:
    """The buckets of all devices: one for messages, one for bytes. Forgotten when full, and with the process."""

    def __init__(self, limits: AdmissionTable, max_update_bytes: int) -> None:
        self._limits = limits
        self._bytes_burst = max(BYTES_BURST_S * limits.bytes_per_s, 2.0 * max_update_bytes)
        self._by_device: dict[str, _Allowance] = {}

    def __len__(self) -> int:
        return len(self._by_device)

    def spend(self, device_id: str, payload_bytes: int, now: float) -> float:
        """Take one message of this size out of the device's buckets and return 0, or how long it has to wait."""
        allowance = self._of(device_id, now)
        wait_s = max(allowance.messages.wait_s(1.0, now), allowance.bytes.wait_s(payload_bytes, now))
        if wait_s <= 0.0:
            allowance.messages.take(1.0)
            allowance.bytes.take(payload_bytes)
        return wait_s

    def refund(self, device_id: str) -> None:
        """Put the message back: it was a chunk that brought an upload on, of which a large model has thousands."""
        allowance = self._by_device.get(device_id)
        if allowance is not None:
            allowance.messages.put_back(1.0)

    def may_answer(self, device_id: str, now: float) -> bool:
        """Return whether a device beyond its allowance is to be told so now; once a second is enough."""
        allowance = self._of(device_id, now)
        if now < allowance.answer_at:
            return False
        allowance.answer_at = now + ANSWER_EVERY_S
        return True

    def expire(self, now: float) -> None:
        """Forget devices that are owed everything."""
        gone = [
            d for d, a in self._by_device.items() if now >= a.answer_at and a.messages.full(now) and a.bytes.full(now)
        ]
        for device_id in gone:
            del self._by_device[device_id]

    def _of(self, device_id: str, now: float) -> _Allowance:
        allowance = self._by_device.get(device_id)
        if allowance is None:
            limits = self._limits
            allowance = self._by_device[device_id] = _Allowance(
                TokenBucket(limits.messages_per_s, limits.message_burst, now),
                TokenBucket(limits.bytes_per_s, self._bytes_burst, now),
            )
        return allowance
