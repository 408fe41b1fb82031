"""A plain paho client, as the bare baselines use it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def bare_client(
    connected: Callable[[mqtt.Client], object], subscribed: Callable[[mqtt.Client], object] | None = None
) -> mqtt.Client:
    """Return a client that calls ``connected`` when it is, and ``subscribed`` for each subscription granted."""

    def on_connect(client: mqtt.Client, _data: object, _flags: object, code: Any, _props: object) -> None:  # noqa: ANN401 - paho's
        assert not code.is_failure, str(code)
        connected(client)

    def on_subscribe(client: mqtt.Client, _data: object, _mid: int, _codes: object, _props: object) -> None:
        if subscribed is not None:
            subscribed(client)

    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_socket_open = _no_delay
    return client


def _no_delay(_client: mqtt.Client, _userdata: object, sock: Any) -> None:  # noqa: ANN401 - paho's socket or a wrapper of it
    # paho leaves Nagle's algorithm on, and small messages then wait 40 ms.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
