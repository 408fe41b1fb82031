"""The table of rights, against ``protocol.topics``: nothing is missing, and nothing is too wide."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import broker_config
from protocol.topics import Topics
from tests.broker_config.rules import Rules

TOPICS = Topics("demo")
A, B = "press-07", "press-08"
WALL, NORTH = broker_config.monitor("wall"), broker_config.bridge("north")
WHO = {"aggregator": broker_config.AGGREGATOR, "monitor": WALL, "bridge": NORTH, "device": A, "other": B, "nobody": ""}

TABLE = {
    # topic: who writes, who reads; "device" is the one whose topic it is, "other" any other
    "aggregator_state": ("aggregator", "aggregator monitor bridge"),
    "aggregator_claim": ("aggregator", "aggregator"),
    "aggregator_metrics": ("aggregator", "monitor bridge"),
    "current_model": ("aggregator", "aggregator bridge device other"),
    "blob": ("aggregator", "aggregator bridge device other"),
    "update": ("device bridge", "aggregator"),
    "receipt": ("aggregator", "device bridge"),
    "device_state": ("device bridge", "aggregator monitor device"),
    "device_metrics": ("device bridge", "aggregator monitor"),
    "command": ("aggregator", "device bridge"),
    "command_all": ("aggregator", "aggregator bridge device other"),
}
"""That the aggregator may read its own model, blobs and commands is the price of Mosquitto's patterns, and harmless."""

WILDCARDS = {"all_updates": "update", "all_device_states": "device_state", "all_device_metrics": "device_metrics"}
"""Filters that cover topics of the table."""


def topic(name: str) -> str:
    found = getattr(TOPICS, name)
    if isinstance(found, str):
        return found
    made: str = found("a" * 64, 0) if name == "blob" else found(A)
    return made


def rules(**roles: object) -> Rules:
    chosen = {"monitors": ["wall"], "bridges": ["north"], **roles}
    return Rules.read(broker_config.files("demo", **chosen)["acl"])  # type: ignore[arg-type]  # of mixed types


def test_the_table_has_every_topic_of_the_protocol() -> None:
    made = {
        name
        for name, member in inspect.getmembers(TOPICS)
        if not name.startswith(("_", "parse_")) and (callable(member) or str(member).startswith(TOPICS.root + "/"))
    }
    assert made == set(TABLE) | set(WILDCARDS)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("access", ["write", "read"])
def test_each_topic_is_open_to_exactly_the_roles_that_need_it(name: str, access: str) -> None:
    expected = set(TABLE[name][access == "read"].split())
    found = {role for role, user in WHO.items() if rules().allow(user, access, topic(name))}
    assert found == expected


@pytest.mark.parametrize("name", TABLE)
def test_nothing_of_another_federation_is_open(name: str) -> None:
    elsewhere = topic(name).replace("/demo/", "/other/")
    assert not [user for user in WHO.values() for access in ("read", "write") if rules().allow(user, access, elsewhere)]


@pytest.mark.parametrize("text", ["fedmq/v1/demo/new/topic", "fedmq/v1/demo/up/1/a/b", "fedmq/v1", "a", "$CONTROL/x"])
def test_topics_that_the_protocol_does_not_have_are_closed(text: str) -> None:
    assert not [user for user in WHO.values() for access in ("read", "write") if rules().allow(user, access, text)]


def test_the_brokers_own_figures_are_for_the_aggregator_and_monitors() -> None:
    readers = {role for role, user in WHO.items() if rules().allow(user, "read", "$SYS/broker/uptime")}
    assert readers == {"aggregator", "monitor"}


@pytest.mark.parametrize("user", [WALL, broker_config.AGGREGATOR, NORTH])
def test_a_role_has_no_topics_as_a_device(user: str) -> None:
    own = [f"up/7/{user}", f"device/{user}/state", f"device/{user}/metrics", f"receipt/{user}", f"command/{user}"]
    for access in ("read", "write"):
        assert not [one for one in own if rules().allow(user, access, f"{TOPICS.root}/{one}")]


def test_a_monitor_publishes_nothing_and_reads_no_model() -> None:
    assert not [name for name in TABLE if rules().allow(WALL, "write", topic(name))]
    assert not [name for name in ("current_model", "blob", "update") if rules().allow(WALL, "read", topic(name))]


def test_anonymous_readers_see_what_monitors_see_but_for_the_broker() -> None:
    found = rules(local_port=1883)
    for name in TABLE:
        assert not found.allow("", "write", topic(name))
        assert found.allow("", "read", topic(name)) == found.allow(WALL, "read", topic(name))
    assert not found.allow("", "read", "$SYS/broker/uptime")


def test_at_a_site_the_bridge_stands_for_the_aggregator() -> None:
    site = Rules.read(broker_config.site_files("demo", "north", hub="hub.example")["acl"])
    hub = rules()
    for name in TABLE:
        assert site.allow(NORTH, "write", topic(name)) == hub.allow(NORTH, "read", topic(name))
        common = hub.allow(broker_config.AGGREGATOR, "read", topic(name)) and hub.allow(A, "read", topic(name))
        assert site.allow(NORTH, "read", topic(name)) == hub.allow(NORTH, "write", topic(name)) or common
        for access in ("read", "write"):
            assert site.allow(A, access, topic(name)) == hub.allow(A, access, topic(name))
            assert not site.allow(broker_config.AGGREGATOR, access, topic("command"))


def test_a_bridge_carries_every_topic_one_way_only() -> None:
    text = broker_config.site_files("demo", "north", hub="hub.example")["bridge-north.conf"]
    lines = re.findall(r"^topic (\S+) (in|out) ([01]) (\S+) (\S+)$", text, flags=re.MULTILINE)
    ways = {local + pattern: way for pattern, way, _, local, remote in lines if local == remote}
    assert len(ways) == len(lines) == len(TABLE) - 2  # the claim stays at the hub; command/+ is one filter for two
    hub = rules()
    for filter_, way in ways.items():
        sample = filter_.replace("+", A)
        assert hub.allow(NORTH, "write" if way == "out" else "read", sample)


@pytest.mark.parametrize("name", ["", "a b", "x\nuser y", "#", "a/b", "n" * 65, "+"])
def test_names_that_would_break_out_are_refused(name: str) -> None:
    for arguments in ({"monitors": [name]}, {"bridges": [name]}):
        with pytest.raises(broker_config.NameRefusedError):
            broker_config.files("demo", **arguments)  # type: ignore[arg-type]  # lists of names
    with pytest.raises(broker_config.NameRefusedError):
        broker_config.files(name)


def test_a_name_that_fits_no_certificate_is_refused() -> None:
    assert len(broker_config.monitor("m" * 51)) == 64
    with pytest.raises(broker_config.NameRefusedError, match="51 characters"):
        broker_config.monitor("m" * 52)


@pytest.mark.parametrize("directory", ["relative", "", "/etc/x\nlistener 1883"])
def test_a_folder_that_would_break_out_is_refused(directory: str) -> None:
    with pytest.raises(ValueError, match="folder"):
        broker_config.files("demo", directory=directory)


@pytest.mark.parametrize("hub", ["", "a b", "h\ntopic # both"])
def test_a_hub_that_is_no_host_is_refused(hub: str) -> None:
    with pytest.raises(ValueError, match="host"):
        broker_config.site_files("demo", "north", hub=hub)


def test_every_file_named_in_the_configuration_is_made_or_told_of() -> None:
    made = broker_config.files("demo", directory="/some/where")
    named = set(re.findall(r"^\w+ /some/where/(\S+)$", made[broker_config.CONFIGURATION], flags=re.MULTILINE))
    assert named == {"acl", "ca.crt", "broker.crt", "broker.key", "crl.pem"}
    told = (Path(broker_config.__file__).parent / "README.md").read_text()
    assert not [name for name in named | set(made) if f"`{name}`" not in told]
