"""Fixtures: real brokers, started for one test and stopped after it. A plugin, named in tests/conftest.py."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import pytest

from fedmq.embedded_broker import EmbeddedBroker, start
from tests.support.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

BrokerKind = Literal["mosquitto", "iotcore"]


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str:
    """How ``mosquitto`` is spoken to by ``links``: "clear", or by a test that asks for it (``OVER_BOTH``) "tls"."""
    return str(getattr(request, "param", "clear"))


OVER_BOTH = pytest.mark.parametrize("transport", ["clear", "tls"], indirect=True)


@pytest.fixture
def mosquitto(tmp_path: Path, transport: str, request: pytest.FixtureRequest) -> Iterator[EmbeddedBroker]:
    """A Mosquitto that keeps its memory over ``stop`` and ``restart`` (and all but the last second over ``kill``)."""
    extra = request.getfixturevalue("ours").listener() if transport == "tls" else ""
    with start("mosquitto", tmp_path / "mosquitto", extra=extra) as broker:
        yield broker


@pytest.fixture
def forgetful_mosquitto(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A Mosquitto that remembers nothing when it is started again."""
    with start("mosquitto", tmp_path / "mosquitto", persistent=False) as broker:
        yield broker


@pytest.fixture
def iotcore(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """The broker of machines without Mosquitto: 3.1.1 on ``port``, 5 on ``port_v5``, everything in memory."""
    with start("iotcore", tmp_path / "iotcore") as broker:
        yield broker


@pytest.fixture(params=["mosquitto", "iotcore"])
def any_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """Each broker in turn."""
    kind = cast("BrokerKind", request.param)
    with start(kind, tmp_path / kind) as broker:
        yield broker


@pytest.fixture
def broker(mosquitto: EmbeddedBroker) -> EmbeddedBroker:
    """The broker of tests for which it does not matter which one it is."""
    return mosquitto


@pytest.fixture
def proxy(mosquitto: EmbeddedBroker) -> Iterator[FaultProxy]:
    """A fault proxy in front of ``mosquitto``."""
    with FaultProxy(mosquitto.port) as running:
        yield running


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A Mosquitto with one user, "someone", whose password is "letmein", and an ACL.

    Everybody else is refused; "someone" may publish on and read ``open/#`` only.
    """
    passwords = tmp_path / "passwords"
    salt = b"a fixed salt"
    digest = hashlib.pbkdf2_hmac("sha512", b"letmein", salt, 101)
    encoded = f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
    passwords.write_text(f"someone:{encoded}\n", encoding="utf-8")
    rules = tmp_path / "acl"
    rules.write_text("user someone\ntopic readwrite open/#\n", encoding="utf-8")
    extra = f"allow_anonymous false\npassword_file {passwords}\nacl_file {rules}\n"
    with start("mosquitto", tmp_path / "guarded", extra=extra) as broker:
        yield broker


@pytest.fixture
def dynamic_security(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A Mosquitto on which everybody may subscribe below ``open/`` only (its ACL files do not check that)."""
    allowed = {"acltype": "subscribePattern", "topic": "open/#", "priority": 0, "allow": True}
    everything = dict.fromkeys(("publishClientSend", "publishClientReceive", "unsubscribe"), True)
    rules = tmp_path / "rules.json"
    rules.write_text(
        json.dumps(
            {
                "defaultACLAccess": {**everything, "subscribe": False},
                "roles": [{"rolename": "anybody", "acls": [allowed]}],
                "groups": [{"groupname": "strangers", "roles": [{"rolename": "anybody"}]}],
                "anonymousGroup": "strangers",
                "clients": [],
            }
        ),
        encoding="utf-8",
    )
    plugin = next(Path("/usr/lib").rglob("mosquitto_dynamic_security.so"))
    extra = f"plugin {plugin}\nplugin_opt_config_file {rules}\n"
    with start("mosquitto", tmp_path / "dynamic", extra=extra) as broker:
        yield broker
