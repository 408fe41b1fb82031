"""Mosquitto's access control file of a federation: who may publish and read which topics, by certificate name.

A table says for every topic which role writes and which reads it; the texts follow from it. Topics that are not in the
table nobody can use. Mosquitto checks reads when a message is delivered: a subscription to ``#`` is taken, and brings
nothing that the table does not allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from broker_config import names
from protocol.topics import SHARDS, Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who may ``read`` or ``write`` the topics that match a filter below the federation's root."""

    topic: str
    device: str = ""
    own: str = ""
    """The filter with Mosquitto's ``%u`` in the place of the device's name; empty: the topic is common to all."""
    aggregator: str = ""
    monitor: str = ""
    bridge: str = ""
    """At the hub. At the site's own broker it is the other way round."""

    @property
    def uplink(self) -> str:
        """What the bridge may do at the site: it brings what it reads at the hub, and takes what it writes there."""
        return {"read": "write", "write": "read"}.get(self.bridge, "")


RULES = (
    Rule(topic="aggregator/state", aggregator="readwrite", monitor="read", bridge="read"),
    Rule(topic="aggregator/metrics", aggregator="write", monitor="read", bridge="read"),
    # Between aggregators, which are all at the hub.
    Rule(topic="aggregator/claim", aggregator="readwrite"),
    Rule(topic="model/current", device="read", aggregator="write", bridge="read"),
    Rule(topic="blob/+/+", device="read", aggregator="write", bridge="read"),
    Rule(topic="up/+/+", own="up/+/%u", device="write", aggregator="read", bridge="write"),
    Rule(topic="receipt/+", own="receipt/%u", device="read", aggregator="write", bridge="read"),
    Rule(topic="command/+", own="command/%u", device="read", aggregator="write", bridge="read"),
    Rule(topic="command/all", device="read"),  # the line above covers it for the others
    Rule(
        topic="device/+/state", own="device/%u/state", device="readwrite", aggregator="read", monitor="read",
        bridge="write",
    ),
    Rule(
        topic="device/+/metrics", own="device/%u/metrics", device="write", aggregator="read", monitor="read",
        bridge="write",
    ),
)  # fmt: skip


def access_control(
    federation: str,
    *,
    monitors: Iterable[str] = (),
    bridges: Iterable[str] = (),
    uplink: str = "",
    revoked: Iterable[str] = (),
    local: bool = False,
) -> str:
    """Return the ACL file.

    ``revoked``: names that may do nothing, also on connections that they have already. A name belongs here only as long
    as no certificate with it is good: it is the name that is shut out.
    ``uplink`` names the bridge by which this broker, a site's, is joined to its hub: it stands for the aggregator then.
    ``local``: anonymous clients (of a loopback listener) may read what monitors may.
    Raise ``NameRefusedError`` for a name that is no identifier.
    """
    root = Topics(names.checked(federation, "federation")).root
    blocks = [_HEADER.format(federation=federation)]
    if local:
        blocks.append(_block("Anonymous clients of the loopback listener: what anybody may see.", _anonymous(root)))
    else:
        blocks.append(_block("Clients without a name: nothing, should they ever be let in.", [_NOTHING]))
    if uplink:
        text = "The bridge to the hub, where the aggregator is: what comes by it is as from there."
        # Mosquitto writes there whether the line is up; what is retained is delivered only if its source may write it.
        notice = f"topic write $SYS/broker/connection/{names.bridge(uplink)}/state"
        blocks.append(_block(text, chain(_role(root, names.bridge(uplink), "uplink", sees_broker=False), [notice])))
    else:
        blocks.append(_block("The aggregator.", _role(root, names.AGGREGATOR, "aggregator", sees_broker=True)))
    for name in sorted(set(monitors)):
        text = f"Monitor {name}: sees, and changes nothing."
        blocks.append(_block(text, _role(root, names.monitor(name), "monitor", sees_broker=True)))
    for name in sorted(set(bridges)):
        text = f"Bridge {name}: speaks for the devices of its site, and hears what is meant for them."
        blocks.append(_block(text, _role(root, names.bridge(name), "bridge", sees_broker=False)))
    gone = sorted(set(revoked))
    if gone:
        lines = (f"user {_revocable(name)}\n{_NOTHING}" for name in gone)
        blocks.append(_block("Revoked: nothing any more, at once.", lines))
    blocks.append(_DEVICES + "\n".join(_patterns(root)) + "\n")
    return "\n".join(blocks)


def _revocable(name: str) -> str:
    return names.checked(name.removeprefix("role:").rpartition(":")[2], "revoked name") and name


def _role(root: str, common_name: str, role: str, *, sees_broker: bool) -> Iterator[str]:
    yield f"user {common_name}"
    # The patterns at the end hold for everybody, so what they would give and the role must not have is taken away.
    for rule in RULES:
        access = getattr(rule, role)
        if rule.own:
            yield f"topic deny {root}/{rule.own.replace('%u', common_name)}"
        elif rule.device and not access and not _covered(rule, role):
            yield f"topic deny {root}/{rule.topic}"
        if access:
            yield f"topic {access} {root}/{rule.topic}"
    if sees_broker:
        yield "topic read $SYS/#"


def _covered(rule: Rule, role: str) -> bool:
    """Whether a wider rule gives the role this topic too."""
    folder = rule.topic.rpartition("/")[0]
    return any(getattr(wider, role) for wider in RULES if wider.topic == f"{folder}/+")


def _anonymous(root: str) -> Iterator[str]:
    for rule in RULES:
        if rule.device and not rule.own:
            yield f"topic deny {root}/{rule.topic}"
        elif rule.monitor:
            yield f"topic read {root}/{rule.topic}"


def _patterns(root: str) -> Iterator[str]:
    for rule in RULES:
        if rule.device:
            # One line for each shard: with "+" a device could retain any number of messages below names of its choice.
            for number in range(SHARDS) if rule.topic == "up/+/+" else range(1):
                yield f"pattern {rule.device} {root}/{rule.own.replace('+', str(number)) or rule.topic}"


def _block(comment: str, lines: Iterable[str]) -> str:
    return "\n".join([f"# {comment}", *lines]) + "\n"


_HEADER = """\
# Who may do what in federation {federation}, by the common name of the certificate. Made by fedmq: change it there.
# What is not allowed here is refused. Mosquitto checks reads when it delivers: anybody may subscribe to anything, and
# is sent nothing that is not allowed. Wills and retained messages are checked as any other message.
"""

_NOTHING = "topic deny #"

_DEVICES = """\
# Devices. %u is the name in the certificate, so each has its own topics only. Patterns hold for every name, hence the
# "deny" lines above. At the start Mosquitto warns of patterns without %u: they are for all devices on purpose.
"""
