"""The link over TLS: what it does in the clear it does over TLS too, with a real Mosquitto and real certificates."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from fedmq.embedded_broker import start
from protocol.adapters.loop import LinkLoop
from protocol.adapters.system_clock import SystemClock
from protocol.adapters.tls import Contexts, make_context
from protocol.clock import Reading
from protocol.link import LinkDown, LinkUp, Published, Received, TlsSettings, Will
from tests.support.certificates import DAY, Authority
from tests.support.federation import wait_until
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links
    from tests.support.proxy import Direction, FaultProxy


@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_messages_go_both_ways(
    tls_broker: EmbeddedBroker, me: dict[str, Any], links: Links, protocol: str, minimum: str
) -> None:
    peer = links(tls_broker.port, settings={"tls": {**me["tls"], "minimum": minimum}, "protocol": protocol})
    assert peer.up().protocol == protocol
    peer.subscribe("a/b")
    peer.publish("a/b", b"hello")
    assert peer.inbox.wait(Received).payload == b"hello"


@pytest.mark.parametrize("size", [0, 1, 127, 16_383, 16_384, 65_536, 131_072])
def test_payloads_of_all_sizes_arrive_whole(
    tls_broker: EmbeddedBroker, me: dict[str, Any], links: Links, size: int
) -> None:
    peer = links(tls_broker.port, settings=me)
    peer.up()
    peer.subscribe("big")
    payload = bytes(index % 251 for index in range(size))
    peer.publish("big", payload)
    assert peer.inbox.wait(Received).payload == payload


def test_many_messages_arrive_once_and_in_order(tls_broker: EmbeddedBroker, me: dict[str, Any], links: Links) -> None:
    count = 5000
    receiver = links(tls_broker.port, "receiver", settings=me)
    receiver.up()
    receiver.subscribe("many")
    sender = links(tls_broker.port, "sender", settings=me)
    sender.up()
    for number in range(count):
        assert sender.link.publish("many", b"%d" % number)
    receiver.inbox.wait(Received, lambda event: event.payload == b"%d" % (count - 1))
    assert [int(event.payload) for event in receiver.inbox.all(Received)] == list(range(count))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_stop_says_goodbye_before_it_closes(
    tls_broker: EmbeddedBroker, me: dict[str, Any], links: Links, protocol: str
) -> None:
    watcher = links(tls_broker.port, "watcher", settings=me)
    watcher.up()
    watcher.subscribe("will", "last")
    for number in range(10):
        will = Will(topic="will", payload=b"lost", retain=False)
        leaving = links(tls_broker.port, f"leaving-{number}", settings={**me, "protocol": protocol}, will=will)
        leaving.up()
        leaving.subscribe("last")
        assert leaving.link.publish("last", b"x" * 70_000, token="sent")
        leaving.link.stop(PATIENCE_S)
        assert [event.error for event in leaving.inbox.all(Published)] == [""]
    watcher.publish("last", b"after")
    watcher.inbox.wait(Received, lambda event: event.payload == b"after")
    assert [event for event in watcher.inbox.all(Received) if event.topic == "will"] == []
    said = [f"Client leaving-{number} disconnected." for number in range(10)]
    wait_until(lambda: all(line in tls_broker.log.read_text(encoding="utf-8") for line in said), "ten goodbyes")


@pytest.mark.parametrize(
    ("direction", "byte_count"), [("up", 1), ("up", 100), ("up", 600), ("down", 1), ("down", 100), ("down", 900)]
)
def test_a_reset_in_the_handshake_is_tried_again(
    tls_proxy: FaultProxy, me: dict[str, Any], links: Links, direction: Direction, byte_count: int
) -> None:
    tls_proxy.reset_after(byte_count, direction)
    peer = links(tls_proxy.port, settings=me)
    peer.up()
    assert tls_proxy.accepted > 1


def test_a_handshake_that_is_not_answered_is_given_up(tls_proxy: FaultProxy, me: dict[str, Any], links: Links) -> None:
    tls_proxy.freeze()
    peer = links(tls_proxy.port, settings={**me, "connect_timeout_s": 2.0})
    told = peer.inbox.wait(LinkDown)
    assert told.kind == "timeout"
    assert told.reason == f"127.0.0.1 port {tls_proxy.port} did not finish the TLS handshake within 2 s"
    tls_proxy.thaw()
    peer.up()


def test_stop_in_the_handshake(tls_proxy: FaultProxy, me: dict[str, Any], links: Links) -> None:
    tls_proxy.freeze()
    peer = links(tls_proxy.port, settings=me)
    tls_proxy.wait_until(lambda: tls_proxy.accepted > 0, "the link has connected")
    peer.link.stop()
    assert peer.inbox.all(LinkUp) == []


def test_a_restarted_broker_is_used_again(tls_broker: EmbeddedBroker, me: dict[str, Any], links: Links) -> None:
    peer = links(tls_broker.port, settings=me)
    for ending in (tls_broker.stop, tls_broker.kill):
        peer.up()
        ending()
        peer.inbox.wait(LinkDown)
        tls_broker.restart()
    peer.up()
    peer.subscribe("a")
    peer.publish("a", b"1")
    peer.inbox.wait(Received)


def test_a_device_in_1970_connects_when_its_clock_is_right(tmp_path: Path, ours: Authority, links: Links) -> None:
    ours.server(name="tomorrow", since=DAY, until=9 * DAY)
    with start("mosquitto", tmp_path / "clock", extra=ours.listener(name="tomorrow")) as broker:
        peer = links(broker.port, settings={"tls": ours.client()})
        assert peer.inbox.wait(LinkDown).kind == "wrong-clock"
        ours.server(name="tomorrow")  # clocks cannot be set here: time comes to the certificate instead
        os.kill(broker.pid, signal.SIGHUP)
        peer.up()


def test_a_clock_that_is_set_is_noticed_however_long_the_wait_between_attempts(
    tmp_path: Path, tls_broker: EmbeddedBroker, me: dict[str, Any], links: Links
) -> None:
    dates = [60.0]
    clock = SystemClock(
        tmp_path, wait_s=1e6, read=lambda: Reading(wall=dates[-1], since_boot=time.monotonic(), synchronized=None)
    )
    waits = {"reconnect_min_s": 3600.0, "reconnect_max_s": 86400.0}
    peer = links(tls_broker.port, settings={**me, **waits}, clock=clock)
    told = peer.inbox.wait(LinkDown)
    assert told.kind == "wrong-clock"
    assert told.reason.startswith("the clock says 1970-01-01 00:01 UTC, and cannot be right")
    dates.append(time.time())
    peer.up()


def test_a_new_certificate_is_used_without_a_restart(
    tmp_path: Path, ours: Authority, theirs: Authority, links: Links
) -> None:
    mine = ours.client("press-07")
    lines = ours.listener("use_identity_as_username true", f"cafile {bundle(tmp_path, ours, theirs)}")
    lines = lines.replace(f"cafile {ours.ca}\n", "")
    with start("mosquitto", tmp_path / "rotating", extra=lines) as broker:
        peer = links(broker.port, settings={"tls": mine})
        peer.up()
        new = theirs.client("press-08")
        for kind in ("certificate", "key"):
            shutil.copyfile(new[kind], mine[kind])
        broker.restart()
        peer.up()
        assert "press-08" in broker.log.read_text(encoding="utf-8")


def bundle(folder: Path, *authorities: Authority) -> Path:
    """Return a file with several authorities, as there is during a rotation."""
    path = folder / "bundle.crt"
    path.write_bytes(b"".join(authority.ca.read_bytes() for authority in authorities))
    return path


def test_no_link_is_lost_when_the_broker_gets_a_new_certificate(
    tls_broker: EmbeddedBroker, ours: Authority, me: dict[str, Any], links: Links
) -> None:
    peers = [links(tls_broker.port, f"device-{number}", settings=me) for number in range(20)]
    for peer in peers:
        peer.up()
        peer.subscribe("all")
    ours.server("127.0.0.1", "localhost", "new-name")
    os.kill(tls_broker.pid, signal.SIGHUP)
    # A newcomer sees the new certificate: Mosquitto has read it.
    newcomer = links(tls_broker.port, "newcomer", settings={"tls": {**me["tls"], "server_name": "new-name"}})
    newcomer.up()
    newcomer.publish("all", b"still there?")
    for peer in peers:
        assert peer.inbox.wait(Received).payload == b"still there?"
        assert peer.inbox.all(LinkDown) == []
    tls_broker.restart()
    for peer in peers:
        peer.up()


def test_links_with_the_same_files_share_a_context(ours: Authority) -> None:
    settings = msgspec.convert(ours.client(), TlsSettings)
    contexts = Contexts()
    first = contexts.get(settings)
    assert contexts.get(msgspec.convert(ours.client(), TlsSettings)) is not first  # written anew, under the same name
    second = contexts.get(settings)
    assert contexts.get(TlsSettings(ca=settings.ca, certificate=settings.certificate, key=settings.key)) is second
    assert contexts.get(TlsSettings(ca=settings.ca)) is not second
    assert make_context(settings) is not second


@pytest.fixture
def shared_loop() -> Iterator[LinkLoop]:
    """A loop for many links."""
    loop = LinkLoop()
    yield loop
    loop.stop()


def test_many_links_on_one_loop(
    tls_broker: EmbeddedBroker, me: dict[str, Any], shared_loop: LinkLoop, links: Links
) -> None:
    peers = [links(tls_broker.port, f"many-{number}", settings=me, loop=shared_loop) for number in range(100)]
    for peer in peers:
        peer.up()
        peer.subscribe("all")
    peers[0].publish("all", b"x" * 40_000)
    for peer in peers:
        assert len(peer.inbox.wait(Received).payload) == 40_000
