"""A broker and its connections, as far as MQTT 3.1.1 promises anything, and as badly as the weather allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from protocol.link import LinkDown, LinkEvent, LinkUp, Published, Received, Subscribed, Will
from tests.simulation.world import World

MIN_RECONNECT_S, MAX_RECONNECT_S = 0.05, 2.0


@lru_cache(maxsize=10_000)
def matches(pattern: str, topic: str) -> bool:
    wanted, found = pattern.split("/"), topic.split("/")
    return len(wanted) == len(found) and all(w in ("+", f) for w, f in zip(wanted, found, strict=True))


@dataclass(slots=True)
class Session:
    """What the broker remembers of one client."""

    exact: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    unacknowledged: dict[int, Received] = field(default_factory=dict)
    next_mid: int = 1

    def wants(self, topic: str) -> bool:
        if topic in self.exact:
            return True
        return bool(self.patterns) and any(matches(pattern, topic) for pattern in self.patterns)


class Link:
    """One client's connection: what ``MqttLink`` is in the product, under the same rules."""

    def __init__(self, world: World, broker: Broker, name: str, deliver: Callable[[LinkEvent], None]) -> None:
        self.world, self.broker, self.name, self.deliver = world, broker, name, deliver
        self.will: Will | None = None
        self.persistent = False
        self.connection = 0
        self.up = False
        self.wanted = False
        self._outstanding: set[str] = set()

    def start(self, will: Will, *, persistent: bool) -> None:
        self.will, self.persistent, self.wanted = will, persistent, True
        self._try()

    def _try(self) -> None:
        self.connection += 1
        self._here(self._arrive, self.world.transit_s())

    def _here(self, action: Callable[[], None], delay_s: float) -> None:
        """Do something later, unless this connection is gone by then."""
        connection = self.connection

        def act() -> None:
            if self.wanted and connection == self.connection:
                action()

        self.world.after(delay_s, act)

    def _arrive(self) -> None:
        if not self.broker.running:
            self.deliver(LinkDown(reason="connection refused"))
            if self.wanted:
                self._here(self._try, self.world.rng.uniform(MIN_RECONNECT_S, MAX_RECONNECT_S))
            return
        self.up = True
        present = self.broker.attach(self)
        self.deliver(LinkUp(session_present=present, protocol="3.1.1"))
        self.broker.redeliver(self)

    def cut(self, reason: str = "connection reset") -> None:
        """The connection dies without a goodbye."""
        if not self.up:
            return
        self._drop_connection(say_will=True)
        for token in sorted(self._outstanding):
            self.deliver(Published(token=token, error="connection lost"))
        self._outstanding.clear()
        self.deliver(LinkDown(reason=reason))
        if self.wanted:
            self._here(self._try, self.world.rng.uniform(MIN_RECONNECT_S, MAX_RECONNECT_S))

    def kill(self) -> None:
        """The process is gone; nobody is there to be told."""
        self.wanted = False
        self._outstanding.clear()
        if self.up:
            self._drop_connection(say_will=True)

    def stop(self) -> None:
        self.wanted = False
        self._outstanding.clear()
        if self.up:
            self._drop_connection(say_will=False)

    def _drop_connection(self, *, say_will: bool) -> None:
        self.up = False
        self.connection += 1
        self.broker.detach(self, say_will=say_will)

    def publish(self, topic: str, payload: bytes, *, retain: bool, token: str) -> None:
        if not self.up:
            if token:
                self.deliver(Published(token=token, error="not connected"))
            return
        if token:
            self._outstanding.add(token)

        def taken() -> None:
            self.broker.route(topic, payload, retain=retain)
            if token:
                self._here(lambda: self._acknowledged(token), self.world.transit_s())

        self._here(taken, self.world.transit_s())

    def _acknowledged(self, token: str) -> None:
        if token in self._outstanding:
            self._outstanding.discard(token)
            self.deliver(Published(token=token))

    def on_wire(self, message: Received) -> None:
        self._here(lambda: self.deliver(message), self.world.transit_s())

    def subscribe(self, topics: tuple[str, ...]) -> None:
        def taken() -> None:
            self.broker.subscribe(self, topics)
            self._here(lambda: self.deliver(Subscribed(topics=topics)), self.world.transit_s())

        self._here(taken, self.world.transit_s())

    def unsubscribe(self, topics: tuple[str, ...]) -> None:
        self._here(lambda: self.broker.unsubscribe(self, topics), self.world.transit_s())

    def acknowledge(self, received: Received) -> None:
        if self.up and received.connection == self.connection:
            self.broker.acknowledged(self, received.mid)


class Broker:
    """Retained messages, sessions, and who is connected."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.running = True
        self.retained: dict[str, bytes] = {}
        self.sessions: dict[str, Session] = {}
        self.links: dict[str, Link] = {}

    def restart(self, *, forget: bool, down_s: float) -> None:
        self.running = False
        for link in list(self.links.values()):
            link.cut("broker died")
        if forget:
            self.retained.clear()
            self.sessions.clear()
        self.world.after(down_s, self._start)

    def _start(self) -> None:
        self.running = True

    def attach(self, link: Link) -> bool:
        present = link.persistent and link.name in self.sessions
        if not present:
            self.sessions[link.name] = Session()
        self.links[link.name] = link
        return present

    def detach(self, link: Link, *, say_will: bool) -> None:
        self.links.pop(link.name, None)
        if not link.persistent:
            self.sessions.pop(link.name, None)
        if say_will and link.will and self.running:
            self.route(link.will.topic, link.will.payload, retain=link.will.retain)

    def redeliver(self, link: Link) -> None:
        session = self.sessions.get(link.name)
        if session is None:
            return  # its process died of the good news
        waiting, session.unacknowledged = list(session.unacknowledged.values()), {}
        for received in waiting:
            self._send(link.name, received.topic, received.payload, retained=received.retain)

    def subscribe(self, link: Link, topics: tuple[str, ...]) -> None:
        session = self.sessions[link.name]
        session.patterns.update(topic for topic in topics if "+" in topic)
        session.exact.update(topic for topic in topics if "+" not in topic)
        exact = [topic for topic in topics if "+" not in topic]
        candidates = set(self.retained) if len(exact) < len(topics) else self.retained.keys() & set(exact)
        for topic in sorted(candidates):
            if any(matches(pattern, topic) for pattern in topics):
                self._send(link.name, topic, self.retained[topic], retained=True)

    def unsubscribe(self, link: Link, topics: tuple[str, ...]) -> None:
        self.sessions[link.name].exact.difference_update(topics)

    def acknowledged(self, link: Link, mid: int) -> None:
        self.sessions[link.name].unacknowledged.pop(mid, None)

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if retain:
            if payload:
                self.retained[topic] = payload
            else:
                self.retained.pop(topic, None)
        for name, session in sorted(self.sessions.items()):
            if session.wants(topic):
                self._send(name, topic, payload, retained=False)

    def _send(self, name: str, topic: str, payload: bytes, *, retained: bool) -> None:
        if self.world.chance(self.world.weather.drop):
            return
        session, link = self.sessions[name], self.links.get(name)
        connection = link.connection if link is not None else 0
        for _ in range(2 if self.world.chance(self.world.weather.duplicate) else 1):
            mid, session.next_mid = session.next_mid, session.next_mid + 1
            received = Received(topic=topic, payload=payload, retain=retained, mid=mid, connection=connection)
            if link is None or link.persistent:
                session.unacknowledged[mid] = received  # kept until acknowledged, connected or not
            if link is not None:
                link.on_wire(received)
