"""The program's part changes, the owner's stays."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.toml_block import BEGIN, END, block, quoted, with_block, with_value

TEXT = "# mine\n[a]\nx = 1\n"


def test_a_block_is_put_at_the_end_and_then_replaced() -> None:
    once = with_block(TEXT, block("[b]", "y = 1"))
    twice = with_block(once + "[c]\nz = 1\n", block("[b]", "y = 2"))

    assert once == TEXT + "\n" + block("[b]", "y = 1")
    assert tomllib.loads(twice) == {"a": {"x": 1}, "b": {"y": 2}, "c": {"z": 1}}
    assert twice.count(BEGIN) == twice.count(END) == 1
    assert with_block("", block("x = 1")) == block("x = 1")
    assert tomllib.loads(with_block("x = 1", block("y = 2"))) == {"x": 1, "y": 2}


def test_half_a_block_is_the_owners_business() -> None:
    torn = f"{TEXT}{BEGIN}\n"

    assert with_block(torn, block("[b]")).startswith(torn)


def test_a_value_is_set_where_its_table_is() -> None:
    text = '[a]\npath = "x"\n[b]\n  path = "old\\"er"   # where\nother = 1\n'

    assert with_value(text, "b", "path", "/new") == '[a]\npath = "x"\n[b]\n  path = "/new"   # where\nother = 1\n'
    for table, key in (("c", "path"), ("a", "other")):
        with pytest.raises(ValueError, match="there is no line"):
            with_value(text, table, key, "x")


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_any_text_can_be_quoted(text: str) -> None:
    assert tomllib.loads(f"x = {quoted(text)}") == {"x": text}
