from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from protocol.adapters.configuration import ConfigurationError, load
from protocol.fields import Identifier
from protocol.link import BrokerSettings

if TYPE_CHECKING:
    from pathlib import Path


class Device(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Identifier
    federation: Identifier = "demo"
    state_dir: str = "/var/lib/fedmq"


class Numbers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sizes: list[Annotated[int, Meta(ge=1)]] = []
    fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    damping: bool = False
    rule: Literal["polynomial", "hinge", "constant"] = "polynomial"
    label: str | list[str] = ""

    def __post_init__(self) -> None:
        if self.damping and self.rule == "constant":
            raise ValueError("damping makes no sense with a constant rule")


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    device: Device
    broker: BrokerSettings = BrokerSettings()
    numbers: Numbers = Numbers()
    model: dict[str, Any] = {}


MINIMUM = '[device]\nid = "press-07"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.toml"


def fault(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load(file, Settings)
    message = str(caught.value)
    assert all(line.startswith(f"{file}: ") for line in message.splitlines())
    return message.replace(f"{file}: ", "")


def test_a_correct_file_is_loaded(file: Path) -> None:
    file.write_text(MINIMUM + '[broker]\nhost = "10.0.0.1"\nconnect_timeout_s = 3\n[model]\nkind = "mlp"\n')

    settings = load(file, Settings)

    assert settings.device.id == "press-07"
    assert settings.broker == BrokerSettings(host="10.0.0.1", connect_timeout_s=3.0)
    assert isinstance(settings.broker.connect_timeout_s, float)
    assert settings.model == {"kind": "mlp"}


def test_a_byte_order_mark_is_ignored(file: Path) -> None:
    file.write_text("\ufeff" + MINIMUM, encoding="utf-8")

    assert load(file, Settings).device.id == "press-07"


def test_an_unknown_key_lists_the_allowed_ones_and_the_nearest(file: Path) -> None:
    message = fault(file, MINIMUM + '[broker]\nhots = "x"\n')

    assert message.startswith("broker.hots is not a key of [broker]; allowed are host, port, protocol,")
    assert message.endswith("did you mean 'host'?")


def test_an_unknown_table_is_an_unknown_key_of_the_top_level(file: Path) -> None:
    message = fault(file, MINIMUM + "[borker]\nport = 1\n")

    assert "borker is not a key of the file's top level; allowed are device, broker, numbers, model" in message
    assert "did you mean 'broker'?" in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[broker]\nport = 0", "broker.port is 0; allowed is a whole number from 1 to 65535"),
        ("[broker]\nport = true", "broker.port is true; allowed is a whole number from 1 to 65535"),
        ("[broker]\nport = 1883.0", "broker.port is 1883.0; allowed is a whole number from 1 to 65535"),
        ('[broker]\nport = "1883"', "broker.port is the text '1883'; allowed is a whole number from 1 to 65535"),
        (f"[broker]\nport = 1{'0' * 80}", "broker.port is a huge number; allowed is a whole number from 1 to 65535"),
        ('[broker]\nhost = ""', "broker.host is the text ''; allowed is a text of 1 to 253 characters"),
        ("[broker]\nprotocol = 5", "broker.protocol is 5; allowed is '3.1.1', '5' or 'auto'"),
        (
            "[broker]\nconnect_timeout_s = true",
            "broker.connect_timeout_s is true; allowed is a number above 0 and at most 300",
        ),
        (
            "[numbers]\nfraction = nan",
            "numbers.fraction is nan; allowed is a number above 0 and at most 1, and it must be finite",
        ),
        (
            "[numbers]\nsizes = [8, 0]",
            "numbers.sizes is [8, 0]; allowed is a list, each item a whole number of at least 1",
        ),
        ("[numbers]\ndamping = 1", "numbers.damping is 1; allowed is true or false"),
        (
            '[numbers]\nrule = "polinomial"',
            (
                "numbers.rule is the text 'polinomial'; allowed is 'constant', 'hinge' or 'polynomial';"
                " did you mean 'polynomial'?"
            ),
        ),
        ("[numbers]\nlabel = 1", "numbers.label is 1; allowed is a text or a list, each item a text"),
        ("[model]\nl2 = inf", "model is a table; allowed is a table, and it must be finite"),
    ],
)
def test_a_wrong_value_says_what_was_found_and_what_is_allowed(file: Path, line: str, expected: str) -> None:
    assert fault(file, MINIMUM + line) == expected


def test_a_table_where_there_is_a_value_says_how_to_write_it(file: Path) -> None:
    message = fault(file, 'broker = "localhost"\n' + MINIMUM)

    assert message == "broker is the text 'localhost', but it must be a table: write [broker] above its keys"


def test_identifiers_are_described_in_words(file: Path) -> None:
    message = fault(file, '[device]\nid = "press/07"\n')

    assert message == "device.id is the text 'press/07'; allowed is a text of 1 to 64 letters, digits, '_', '.' or '-'"


def test_a_missing_key_says_where_it_belongs(file: Path) -> None:
    message = fault(file, '[device]\nfederation = "demo"\n')

    assert message.startswith("device.id is missing; it belongs in [device] and is a text of 1 to 64 letters")


def test_a_missing_table_says_what_it_needs(file: Path) -> None:
    assert fault(file, "") == "the table [device] is missing; it needs id"


def test_all_faults_are_reported_together(file: Path) -> None:
    lines = fault(file, "[device]\n[broker]\nport = 0\nfoo = 1\n").splitlines()

    assert len(lines) == 3


def test_a_rule_between_keys_is_reported_with_the_file(file: Path) -> None:
    message = fault(file, MINIMUM + '[numbers]\ndamping = true\nrule = "constant"\n')

    assert "damping makes no sense with a constant rule" in message
    assert "numbers" in message


def test_a_syntax_error_names_the_line(file: Path) -> None:
    assert "line 3" in fault(file, MINIMUM + "port = = 3\n")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: there is no such file"):
        load(tmp_path / "nowhere.toml", Settings)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path, Settings)


def test_binary_content_is_refused_with_the_line(file: Path) -> None:
    file.write_bytes(b"a = 1\nb = '\xff'\n")

    with pytest.raises(ConfigurationError, match=r"not UTF-8 text \(line 2\)"):
        load(file, Settings)


def test_a_huge_file_is_refused(file: Path) -> None:
    file.write_bytes(b"#" * (1024 * 1024 + 1))

    with pytest.raises(ConfigurationError, match="larger than"):
        load(file, Settings)


def test_deep_nesting_is_refused(file: Path) -> None:
    assert "not valid TOML" in fault(file, "a = " + "[" * 5000)
