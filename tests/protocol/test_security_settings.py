"""What both configuration files say of TLS, and when they are refused for the lack of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import Struct

from aggregator.configuration import AggregatorSettings
from device_agent.settings import AgentSettings
from protocol.adapters.configuration import ConfigurationError, load
from protocol.link import BrokerSettings, TlsSettings, is_loopback
from protocol.settings import FilePath, OptionalFilePath, anchored

if TYPE_CHECKING:
    from pathlib import Path

AGENT = '[device]\nid = "press-07"\nfederation = "demo"\nstate_dir = "state"\n[data]\npath = "samples.npz"\n'
AGGREGATOR = '[aggregator]\nfederation = "demo"\n[model]\nkind = "softmax"\n[training]\n'
BOTH = pytest.mark.parametrize(("kind", "rest"), [(AgentSettings, AGENT), (AggregatorSettings, AGGREGATOR)])


class Keys(Struct, frozen=True):
    signing: list[FilePath] = []
    other: FilePath | None = None
    empty: OptionalFilePath = ""
    text: str = "text"


class Whole(Struct, frozen=True):
    keys: Keys | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "configuration.toml"


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.255.0.3", "127.1", "::1"])
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1.example.com",
        "localhost.example.com",
        "10.0.0.1",
        "1127.0.0.1",
        "::",
        "::2",
        "128.0.0.1",
        "broker",
        "0",
    ],
)
def test_everything_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@BOTH
def test_a_broker_elsewhere_without_tls_is_refused_with_the_cure(
    file: Path, kind: type[AgentSettings | AggregatorSettings], rest: str
) -> None:
    file.write_text(rest + '[broker]\nhost = "broker.example.com"\n')
    with pytest.raises(ConfigurationError) as caught:
        load(file, kind)
    message = str(caught.value)
    assert message.startswith(f"{file}: broker.host is 'broker.example.com'")
    assert "[broker.tls]" in message
    assert "insecure = true in [security]" in message


@BOTH
@pytest.mark.parametrize(
    "broker",
    [
        '[broker]\nhost = "broker.example.com"\n[broker.tls]\nca = "ca.pem"\n[security]\nKEYS\n',
        '[broker]\nhost = "broker.example.com"\n[security]\ninsecure = true\n',
        '[broker]\nhost = "127.0.0.1"\n',
        "",
    ],
    ids=["tls", "allowed", "loopback", "default"],
)
def test_what_is_safe_or_allowed_is_taken(
    file: Path, kind: type[AgentSettings | AggregatorSettings], rest: str, broker: str
) -> None:
    keys = 'federation_keys = "f.json"' if kind is AgentSettings else 'signing_keys = ["s.key"]'
    file.write_text(rest + broker.replace("KEYS", keys))
    load(file, kind)


@BOTH
def test_tls_without_the_federations_keys_is_refused_on_a_network(
    file: Path, kind: type[AgentSettings | AggregatorSettings], rest: str
) -> None:
    file.write_text(rest + '[broker]\nhost = "broker.example.com"\n[broker.tls]\nca = "ca.pem"\n')
    with pytest.raises(ConfigurationError, match=r"security.(federation|signing)_keys is not set: .*make up"):
        load(file, kind)


@pytest.mark.parametrize("half", ['certificate = "a.pem"', 'key = "a.key"'])
def test_a_certificate_needs_its_key_and_the_other_way_round(file: Path, half: str) -> None:
    file.write_text(AGENT + f'[broker.tls]\nca = "ca.pem"\n{half}\n')
    with pytest.raises(ConfigurationError, match="certificate and key belong together"):
        load(file, AgentSettings)


def test_paths_of_secrets_are_relative_to_the_file_that_names_them(file: Path) -> None:
    file.write_text(
        AGENT
        + '[broker]\npassword_file = "../password"\n[broker.tls]\nca = "tls/ca.pem"\n'
        + 'certificate = "/etc/fedmq/device.pem"\nkey = "credential:device.key"\n'
    )
    settings = load(file, AgentSettings)
    assert settings.broker.password_file == f"{file.parent}/../password"
    assert settings.broker.tls == TlsSettings(
        ca=f"{file.parent}/tls/ca.pem", certificate="/etc/fedmq/device.pem", key="credential:device.key"
    )
    assert settings.data.path == "samples.npz"
    assert BrokerSettings().password_file == ""


def test_lists_of_paths_are_anchored_too() -> None:
    assert anchored(Whole(), "/etc") == Whole()
    assert anchored(Whole(keys=Keys(signing=["a", "/b", "credential:c"], other="d")), "/etc") == Whole(
        keys=Keys(signing=["/etc/a", "/b", "credential:c"], other="/etc/d")
    )
