from __future__ import annotations

import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.identifiers import check_identifier
from protocol.topics import SHARDS, DeviceTopic, Topics, sender_of, shard

IDS = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=64).filter(
    lambda text: text not in {".", ".."}
)
DIGEST = "0123456789abcdef" * 4


@given(IDS, IDS)
def test_device_topics_are_read_as_they_were_made(federation: str, device_id: str) -> None:
    topics = Topics(federation)
    assert topics.parse_device_topic(topics.update(device_id)) == DeviceTopic(device_id, "update")
    assert topics.parse_device_topic(topics.device_state(device_id)) == DeviceTopic(device_id, "state")
    assert topics.parse_device_topic(topics.device_metrics(device_id)) == DeviceTopic(device_id, "metrics")


@given(IDS, st.integers(0, 10**9 - 1), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_blob_topics_are_read_as_they_were_made(federation: str, index: int, digest: str) -> None:
    topics = Topics(federation)
    assert topics.parse_blob_topic(topics.blob(digest, index)) == (digest, index)


def test_topics_are_those_of_the_documentation() -> None:
    topics = Topics("demo")
    number = zlib.crc32(b"press-07") % 64
    assert topics.update("press-07") == f"fedmq/v1/demo/up/{number}/press-07"
    assert topics.receipt("press-07") == "fedmq/v1/demo/receipt/press-07"
    assert topics.device_state("press-07") == "fedmq/v1/demo/device/press-07/state"
    assert topics.device_metrics("press-07") == "fedmq/v1/demo/device/press-07/metrics"
    assert topics.command("press-07") == "fedmq/v1/demo/command/press-07"
    assert topics.command_all == "fedmq/v1/demo/command/all"
    assert topics.current_model == "fedmq/v1/demo/model/current"
    assert topics.aggregator_state == "fedmq/v1/demo/aggregator/state"
    assert topics.aggregator_metrics == "fedmq/v1/demo/aggregator/metrics"
    assert topics.blob(DIGEST, 3) == f"fedmq/v1/demo/blob/{DIGEST}/3"


FOREIGN = [
    "",
    "fedmq/v1/demo",
    "fedmq/v1/demo/",
    "fedmq/v1/other/device/a/state",
    "fedmq/v1/demo2/device/a/state",
    "fedmq/v2/demo/device/a/state",
    "/fedmq/v1/demo/device/a/state",
    "$SYS/broker/uptime",
    "fedmq/v1/demo/device/a/status",
    "fedmq/v1/demo/device/a",
    "fedmq/v1/demo/device/a/state/x",
    "fedmq/v1/demo/device//state",
    "fedmq/v1/demo/device/a b/state",
    "fedmq/v1/demo/device/a\n/state",
    "fedmq/v1/demo/device/../state",
    "fedmq/v1/demo/device/+/state",
    "fedmq/v1/demo/up/a",
    "fedmq/v1/demo/up/64/a",
    f"fedmq/v1/demo/up/{(shard('a') + 1) % SHARDS}/a",
    f"fedmq/v1/demo/up/0{shard('a')}/a",
    f"fedmq/v1/demo/up/{shard('a')}/a/b",
    "fedmq/v1/demo/up/0/" + "a" * 65,
    "fedmq/v1/demo/up/0/",
    "fedmq/v1/demo/aggregator/state",
    "fedmq/v1/demo/receipt/a",
    "fedmq/v1/demo/" + "x" * 60_000,
]


@pytest.mark.parametrize("topic", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_topics_are_refused_shortly(topic: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        Topics("demo").parse_device_topic(topic)
    assert len(str(caught.value)) < 400
    with pytest.raises(ProtocolError):
        Topics("demo").parse_blob_topic(topic)


@given(st.text(max_size=80))
def test_any_text_under_the_root_is_read_or_refused(rest: str) -> None:
    topics = Topics("demo")
    for topic in (rest, f"{topics.root}/{rest}", f"{topics.root}/device/{rest}/state", f"{topics.root}/blob/{rest}"):
        for read in (topics.parse_device_topic, topics.parse_blob_topic):
            try:
                read(topic)
            except ProtocolError:
                continue


@pytest.mark.parametrize(
    "rest",
    ["x/1", f"{DIGEST}/-1", f"{DIGEST}/1.0", f"{DIGEST}/", f"{DIGEST}/01", f"{DIGEST}/\u0663", f"{DIGEST}/1/2",
     f"{DIGEST.upper()}/1", f"{DIGEST}0/1", f"{DIGEST}/1\n", f"{DIGEST}/1000000000", f"/{DIGEST}/1"],
)  # fmt: skip
def test_a_blob_topic_has_one_spelling(rest: str) -> None:
    with pytest.raises(ProtocolError, match="no blob topic"):
        Topics("demo").parse_blob_topic(f"fedmq/v1/demo/blob/{rest}")


BAD_IDS = ["", ".", "..", "a/b", "a+", "#", "$SYS", "a b", "a\n", "\na", "a\0", "\u00e4", "\u0663", "a" * 65, "a/../b"]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_an_id_that_is_no_topic_segment_or_file_name_makes_no_topic(bad: str) -> None:
    topics = Topics("demo")
    with pytest.raises(ProtocolError, match="federation"):
        Topics(bad)
    for make in (topics.update, topics.receipt, topics.device_state, topics.device_metrics, topics.command):
        with pytest.raises(ProtocolError, match="is not 1 to 64"):
            make(bad)
    with pytest.raises(ProtocolError) as caught:
        check_identifier("x" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("good", ["a", "...", ".a", "a.", "-", "A_b-9.z", "a" * 64])
def test_legal_ids(good: str) -> None:
    assert check_identifier(good) == good


def test_shards_spread_a_fleet() -> None:
    counts = [0] * SHARDS
    for number in range(6400):
        counts[shard(f"device-{number}")] += 1
    assert min(counts) > 50
    assert max(counts) < 160
    assert shard("device-0") == zlib.crc32(b"device-0") % 64


def test_all_topics_of_a_device_have_one_sender() -> None:
    topics = Topics("plant-7")
    up = [f"{topics.root}/up/{number}/press-07" for number in (0, 63, "nonsense")]
    own = [topics.update("press-07"), topics.device_state("press-07"), topics.device_metrics("press-07")]
    assert {sender_of(topic) for topic in (*up, *own)} == {"press-07"}
    for other in (topics.aggregator_state, topics.current_model, "", "t/1", f"{topics.root}/up/0/a/b", "$SYS/x"):
        assert sender_of(other) == other
