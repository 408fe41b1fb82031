from __future__ import annotations

import pytest

from protocol.link import ProtocolChoice
from protocol.negotiation import Negotiation


def test_five_comes_first_then_the_older_one_at_once() -> None:
    negotiation = Negotiation()
    offered = [str(negotiation.version)]
    assert negotiation.turned_down()
    offered.append(negotiation.version)

    assert offered == ["5", "3.1.1"]


def test_a_round_has_two_attempts_at_most() -> None:
    negotiation = Negotiation()
    negotiation.turned_down()

    assert not negotiation.turned_down()


def test_what_connected_last_comes_first() -> None:
    negotiation = Negotiation()
    negotiation.turned_down()
    negotiation.connected()
    negotiation.next_round()

    assert negotiation.version == "3.1.1"


def test_failures_alone_decide_nothing() -> None:
    negotiation = Negotiation()
    negotiation.connected()
    for _ in range(5):
        negotiation.next_round()
        negotiation.turned_down()
    negotiation.next_round()

    assert negotiation.version == "5"


def test_an_upgraded_broker_is_noticed_within_ten_rounds() -> None:
    negotiation = Negotiation()
    negotiation.turned_down()
    negotiation.connected()
    offered = set()
    for _ in range(10):
        negotiation.next_round()
        offered.add(negotiation.version)

    assert "5" in offered


@pytest.mark.parametrize("choice", ["5", "3.1.1"])
def test_a_fixed_choice_stays(choice: ProtocolChoice) -> None:
    negotiation = Negotiation(choice)

    assert not negotiation.turned_down()
    for _ in range(20):
        negotiation.next_round()
        assert negotiation.version == choice
