"""The MQTT link of both ends: one connection after another to one broker, kept up by itself.

paho-mqtt does the protocol; the sockets, the waiting and the retrying are done here (see ``loop``, ``dial``,
``connection``). What happens is told in ``protocol.link`` events to one callable, in the loop's thread.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from protocol.adapters.clock_wait import ClockWait, Recall
from protocol.adapters.connection import Connection
from protocol.adapters.credentials import read_password
from protocol.adapters.dial import Dial, Reached
from protocol.adapters.loop import LinkLoop, Pulse
from protocol.adapters.outgoing import Outgoing
from protocol.adapters.repeats import Repeats
from protocol.adapters.telling import Deliver, Teller
from protocol.adapters.terms import (
    Counters,
    Job,
    Loss,
    Publish,
    Subscribe,
    Terms,
    Unsubscribe,
    fault_text,
    perhaps_taken_over,
)
from protocol.filters import check_filter, check_topic
from protocol.link import BrokerSettings, LinkDown, LinkUp, Published, Received, Subscribed, Will
from protocol.negotiation import Negotiation
from protocol.retries import Retries
from protocol.settings import ConfigurationError

if TYPE_CHECKING:
    from protocol.adapters.loop import Timer
    from protocol.adapters.system_clock import SystemClock
    from protocol.link import DownKind

__all__ = ["Counters", "LinkLoop", "MqttLink"]

log = logging.getLogger(__name__)

MAX_PACKET_BYTES = 1024 * 1024
"""Several times the largest message of the protocol; a broker that sends more is not listened to."""

_RNG = random.Random()  # noqa: S311 - waits are no secret
"""Shared by all links that were given none: its state alone is larger than most links."""


class MqttLink:
    """A link to the broker, from ``start`` to ``stop``; it is not started twice.

    ``deliver(event)`` is called in the loop's thread and must not block. For a message, False means that the inbox is
    full: it is acknowledged, counted as dropped, and forgotten (senders repeat what matters). Other events are offered
    again until they are taken, in order; messages that come meanwhile are dropped. An exception in ``deliver`` is
    logged, ends the connection, and the link tries again.

    All other methods may be called from any thread, ``deliver`` included, and none but ``stop`` ever blocks.
    ``session_expiry_s`` only counts with MQTT 5 and ``clean_session=False``.
    With a ``clock``, TLS waits for it to be set.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        deliver: Deliver,
        *,
        will: Will | None = None,
        clean_session: bool = True,
        session_expiry_s: int = 86400,
        manual_ack: bool = False,
        rng: random.Random | None = None,
        loop: LinkLoop | None = None,
        max_packet_bytes: int = MAX_PACKET_BYTES,
        takeover_wait_s: float | None = None,
        clock: SystemClock | None = None,
    ) -> None:
        self.counters = Counters()
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._clean_session = clean_session
        self._session_expiry_s = session_expiry_s
        self._manual_ack = manual_ack
        self._max_packet_bytes = max_packet_bytes
        self._own_loop = loop is None
        self._loop = loop or LinkLoop(f"fedmq-link-{client_id}"[:15])
        self.pulse = Pulse(self._loop)
        self._retries = Retries(settings, takeover_wait_s or settings.takeover_wait_s, rng or _RNG)
        self._negotiation = Negotiation(settings.protocol)
        self._clock_wait = ClockWait(self._loop, clock if settings.tls is not None else None)
        self._repeats = Repeats(log, f"link {client_id} to {settings.host}:{settings.port}")
        self._teller = Teller(self._loop, deliver, self._fault)
        self._outgoing = Outgoing()
        self._acks: deque[Received] = deque()
        self._asked = False
        self._lock = threading.Lock()
        self._started = False
        self._stopping = False
        self._stopped = threading.Event()
        # The loop thread's own.
        self._dial: Dial | None = None
        self._connection: Connection | None = None
        self._timer: Timer | Recall | None = None
        self._connections = 0
        self._up_since: float | None = None
        self._was_up = False
        self._denied = False
        self._forget_session = False

    # --- for the owner

    def start(self) -> None:
        """Begin to connect. Raise ``ConfigurationError`` when the password file cannot be read."""
        read_password(self._settings.password_file)
        with self._lock:
            if self._started:
                raise RuntimeError("a link is started once")
            self._started = True
        self._loop.start()
        self._loop.call_soon(self._connect)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send what is queued, say goodbye (so that the will is not published) and end; at most ``timeout_s`` or so.

        Publishes that could not be finished in that time are answered with an error. In ``deliver`` it returns at once.
        """
        with self._lock:
            first = self._started and not self._stopping
            self._stopping = True
        self._outgoing.shut()
        if first:
            deadline = self._loop.now() + timeout_s
            self._loop.call_soon(lambda: self._begin_stop(deadline))
        if self._loop.inside:
            return
        if self._started and not self._loop.ended:
            # The margin is for a deliver() that is slow to return.
            self._stopped.wait(timeout_s + 1.0)
        if self._own_loop:
            self._loop.stop()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, token: str = "") -> bool:
        """Queue a message; return False, and do nothing, while the link is down or too much is queued already.

        A ``token`` is answered by exactly one ``Published``: with QoS 1 (PUBACK), with QoS 0 when it was handed over
        for sending. Raise ``ValueError`` for a topic with wildcards, or another QoS.
        """
        check_topic(topic)
        _check_qos(qos)
        return self._put(Publish(topic, payload, qos, retain, token))

    def subscribe(self, topics: Sequence[str], qos: int = 1) -> bool:
        """Subscribe; ``Subscribed`` tells the answer. Return False, and do nothing, while the link is down."""
        for topic in topics:
            check_filter(topic)
        _check_qos(qos)
        return not topics or self._put(Subscribe(tuple(topics), qos))

    def unsubscribe(self, topics: Sequence[str]) -> bool:
        """Unsubscribe. Return False, and do nothing, while the link is down."""
        for topic in topics:
            check_filter(topic)
        return not topics or self._put(Unsubscribe(tuple(topics)))

    def acknowledge(self, received: Received) -> None:
        """With ``manual_ack``: tell the broker that it can forget the message. Cheap; moot for older connections."""
        if received.qos and self._manual_ack:
            self._acks.append(received)
            self._ask()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within the block what is published and acknowledged may be kept, to be sent together at its end.

        For a thread that has much to say: waking the link for each piece costs more than the piece.
        """
        self._asked = True
        try:
            yield
        finally:
            # Whatever was asked for meanwhile, by whomever, relied on this.
            self._asked = False
            self._ask()

    def _put(self, job: Job) -> bool:
        if not self._outgoing.put(job):
            return False
        self._ask()
        return True

    def _ask(self) -> None:
        # Down before the queues are read (see _attend): who finds it up is sure to be seen.
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._attend)

    # --- connecting: the loop's thread from here on

    def _connect(self) -> None:
        self._timer = None
        if self._stopping:
            return
        if reason := self._clock_wait.reason():
            self.lost(Loss(reason=reason, kind="wrong-clock"))
            return
        self._dial = Dial(self._loop, self._settings, self._dialled)
        self._dial.start()

    def _dialled(self, outcome: Reached | Loss) -> None:
        self._dial = None
        if isinstance(outcome, Loss):
            self.lost(outcome)
            return
        try:
            terms = self._terms()
        except ConfigurationError as exc:
            outcome.sock.close()
            self.lost(Loss(reason=str(exc), kind="configuration"))
            return
        self._connections += 1
        self._connection = connection = Connection(self._loop, outcome, terms, self, self._connections)
        connection.open()

    def _terms(self) -> Terms:
        return Terms(
            settings=self._settings,
            client_id=self._client_id,
            protocol=self._negotiation.version,
            will=self._will,
            password=read_password(self._settings.password_file),
            clean_session=self._clean_session or self._forget_session,
            session_expiry_s=self._session_expiry_s,
            max_packet_bytes=self._max_packet_bytes,
            manual_ack=self._manual_ack,
        )

    def _retry(self, kind: DownKind) -> None:
        self._negotiation.next_round()
        due = self._loop.now() + self._retries.wait_s()
        call_at = self._clock_wait.call if kind == "wrong-clock" else self._loop.call_at
        self._timer = call_at(due, self._connect)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what the connection tells (see terms.Owner)

    def came_up(self, *, session_present: bool) -> None:
        """Open for publishing."""
        self.counters.reconnects += self._was_up
        self._was_up = True
        self._denied = False
        self._up_since = self._loop.now()
        self._negotiation.connected()
        self._forget_session = False
        self._retries.came_up(self._up_since, resumed=session_present)
        log.info(f"link {self._client_id}: connected by MQTT {self._negotiation.version}{self._repeats.tally()}")
        self._outgoing.open()
        self._teller.tell(LinkUp(session_present=session_present, protocol=self._negotiation.version))

    def got(self, received: Received) -> bool:
        """Offer a message to the owner."""
        self.counters.bytes_received += len(received.payload)
        if self._teller.offer(received):
            return True
        self.counters.dropped += 1
        return False

    def settled(self, job: Publish, error: str) -> None:
        """Answer the token."""
        self._outgoing.settled(job)
        if job.token:
            self._teller.tell(Published(token=job.token, error=error))
        if self._stopping:
            self._ask()

    def denied(self, topic: str, error: str) -> None:
        """Log it, once for each connection: a device that was revoked would go on in silence otherwise."""
        if not self._denied:
            self._denied = True
            log.warning(
                f"link {self._client_id}: the broker does not take what is published on {topic}: {error}. Does its "
                "access control allow that to us, and has our certificate not been revoked?"
            )

    def subscribed(self, event: Subscribed) -> None:
        """Pass it on."""
        self._teller.tell(event)

    def next_job(self) -> Job | None:
        """Return the oldest job."""
        job = self._outgoing.next()
        if isinstance(job, Publish):
            self.counters.bytes_sent += len(job.payload)
        return job

    def lost(self, loss: Loss) -> None:
        """Answer what was queued, tell the owner, and try again."""
        self._connection = None
        self._acks.clear()
        for job in self._outgoing.close():
            self.settled(job, loss.reason)
        was_up, self._up_since = self._up_since is not None, None
        kind = self._retries.lost(loss.kind, self._loop.now(), silently=loss.closed)
        reason = loss.reason if kind != "perhaps-taken-over" else perhaps_taken_over(self._client_id)
        if self._retries.settled:
            self._repeats.over()
        if loss.oversized or self._retries.poisoned:
            # Where the broker keeps a session for us it would do the same again, for ever.
            self._forget_session = True
        if self._stopping:
            if was_up:
                self._teller.tell(LinkDown(reason="stopped", kind="stopped"))
            self._finish_stop()
            return
        if loss.version_in_doubt and self._negotiation.turned_down():
            log.debug(f"link {self._client_id}: {loss.reason}; trying MQTT {self._negotiation.version}")
            self._loop.call_soon(self._connect)
            return
        self._repeats.note(reason, loss.fault)
        self._teller.tell(LinkDown(reason=reason, kind=kind))
        self._retry(kind)

    def _fault(self, fault: Exception) -> None:
        if self._connection is not None:
            self._connection.fault(fault)
        else:
            self._repeats.note(fault_text(fault), fault)

    # --- carrying on, and stopping

    def _attend(self) -> None:
        self._asked = False
        connection = self._connection
        if connection is None:
            self._acks.clear()
            return
        while self._acks:
            received = self._acks.popleft()
            if received.connection == connection.number:
                connection.acknowledge(received.mid)
        connection.pump()
        # In this order: whoever acknowledged and then stopped is seen to have done both (another call is on its way).
        if self._stopping and not self._acks and self._outgoing.all_settled and self._connection is not None:
            self._connection.finish()

    def _begin_stop(self, deadline: float) -> None:
        self._cancel_timer()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._connection is None:
            self._finish_stop()
        elif self._up_since is None:
            self._connection.end("stopped")
        else:
            self._timer = self._loop.call_at(deadline, self._give_up)
            self._attend()

    def _give_up(self) -> None:
        if self._connection is not None:
            self._connection.end("stopped before everything was sent")

    def _finish_stop(self) -> None:
        self._cancel_timer()
        self._teller.last_call()
        self._stopped.set()
        if self._own_loop:
            self._loop.stop()


def _check_qos(qos: int) -> None:
    if qos not in (0, 1):
        raise ValueError(f"QoS {qos!r} is not 0 or 1")
