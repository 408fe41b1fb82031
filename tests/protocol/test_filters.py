from __future__ import annotations

import pytest

from protocol.filters import check_filter, check_topic


@pytest.mark.parametrize("text", ["a", "a/b", "/", "fedmq/v1/d/up/+/+", "#", "+", "a/#", "+/b/#", "\N{SNOWMAN}"])
def test_filters_that_mqtt_allows(text: str) -> None:
    check_filter(text)


@pytest.mark.parametrize("text", ["", "a/#/b", "a#", "#a", "a+/b", "++", "\0", "a" * 65536, "\ud800"])
def test_filters_that_it_does_not(text: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        check_filter(text)


@pytest.mark.parametrize("text", ["", "a/+", "#", "a\0b"])
def test_topics_that_nothing_can_be_published_on(text: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        check_topic(text)
