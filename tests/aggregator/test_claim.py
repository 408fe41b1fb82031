from __future__ import annotations

from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.claim import ANNOUNCED_WAIT_S, MAX_LOST, QUIET_WAIT_S, Claim
from aggregator.commands import Acknowledge, Command, Exit, Publish, Subscribe
from aggregator.core import AggregatorCore
from aggregator.events import Event, StopRequested, Tick
from aggregator.presence import EXIT_NOT_ALONE, MAX_TAKEOVERS
from models import build
from protocol.link import LinkDown, LinkUp, Received
from protocol.status import AggregatorClaim, AggregatorState, decode_status, encode_status
from tests.aggregator.harness import Bench, fresh, nothing_to_say, only, settings_with

UP = LinkUp(session_present=False, protocol="3.1.1")


def core_of(store: str, *, instance: str = "", before: tuple[str, ...] = ()) -> AggregatorCore:
    settings = settings_with()
    model = build(settings.model)
    restored = replace(fresh(settings, model, store * 16), instances=before)
    return AggregatorCore(settings, model, restored, (instance or store) * 16, nothing_to_say)


def state_of(
    core: AggregatorCore,
    store: str,
    status: Literal["online", "offline"] = "online",
    *,
    retain: bool = False,
    instance: str = "",
) -> Received:
    said = (instance or store) * 16
    state = AggregatorState(federation="bench", epoch="e" * 16, instance=said, store=store * 16, status=status)
    return Received(topic=core.topics.aggregator_state, payload=encode_status(state), retain=retain)


def claim_of(core: AggregatorCore, store: str) -> Received:
    claim = AggregatorClaim(instance=store * 16, store=store * 16)
    return Received(topic=core.topics.aggregator_claim, payload=encode_status(claim))


def said(core: AggregatorCore, commands: list[object]) -> list[str]:
    """Return the states that were published."""
    topic = core.topics.aggregator_state
    return [
        decode_status(c.payload, AggregatorState).status
        for c in commands
        if isinstance(c, Publish) and c.topic == topic
    ]


def started(store: str = "5", now: float = 0.0) -> AggregatorCore:
    core = core_of(store)
    core.handle(UP, now, now)
    return core


def test_whoever_starts_listens_before_it_asks() -> None:
    core = core_of("5")

    commands = core.handle(UP, 0.0, 0.0)

    listening = commands.index(Subscribe((core.topics.aggregator_state, core.topics.aggregator_claim)))
    asking = next(i for i, c in enumerate(commands) if isinstance(c, Publish))
    assert listening < asking
    question = commands[asking]
    assert isinstance(question, Publish)
    assert question.topic == core.topics.aggregator_claim
    assert not question.retain
    assert len(only(commands, Publish)) == 1, "it says nothing of itself before it knows that it is alone"


def test_a_quiet_start() -> None:
    core = started()
    assert core.deadline() == QUIET_WAIT_S
    assert not core.handle(Tick(), QUIET_WAIT_S - 0.01, 0.0)

    commands = core.handle(Tick(), QUIET_WAIT_S, 0.0)

    assert core.active
    assert said(core, list(commands)) == ["online"]
    assert core.topics.all_updates in only(commands, Subscribe)[0].topics


def test_a_second_aggregator_refuses_clearly_and_the_first_one_answers() -> None:
    first = started("9")
    first.handle(Tick(), 1.0, 0.0)
    second = started("1", 2.0)

    answer = first.handle(claim_of(first, "1"), 2.1, 0.0)
    refusal = second.handle(state_of(second, "9"), 2.2, 0.0)

    assert said(first, list(answer)) == ["online"]
    (end,) = only(refusal, Exit)
    assert end.code == EXIT_NOT_ALONE
    assert "bench" in end.reason
    assert "another aggregator" in end.reason
    assert not second.active


def test_the_will_of_one_that_gave_way_does_not_stand() -> None:
    first = started("9")
    first.handle(Tick(), 1.0, 0.0)

    commands = first.handle(state_of(first, "1", "offline"), 2.0, 0.0)

    assert said(first, list(commands)) == ["online"]


def test_an_offline_of_our_own_from_an_older_connection_does_not_stand() -> None:
    bench = Bench()

    commands = bench.handle(state_of(bench.core, "5", "offline", instance="1"))

    assert said(bench.core, list(commands)) == ["online"]
    echo = bench.handle(state_of(bench.core, "5", instance="1"))
    assert not said(bench.core, list(echo)), "it would talk to itself for ever"


def test_a_goodbye_is_not_taken_back() -> None:
    bench = Bench()

    commands = bench.handle(StopRequested())

    assert said(bench.core, list(commands)) == ["offline"]
    assert only(commands, Exit)[0].code == 0
    assert not said(bench.core, list(bench.handle(state_of(bench.core, "5", "offline"))))


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_of_two_that_start_together_exactly_one_stays(order: str) -> None:
    cores = {name: started(name) for name in order}
    ends = {name: cores[name].handle(claim_of(cores[name], other), 0.1, 0.0) for name, other in ("ab", "ba")}

    stayed = [name for name, commands in ends.items() if not only(commands, Exit)]

    assert stayed == ["a"]
    cores["a"].handle(Tick(), 1.0, 0.0)
    assert cores["a"].active


def test_a_claim_that_is_missed_is_answered_by_the_state() -> None:
    # "a" subscribed after "b" had asked, and never heard it: "b" hears "a" and gives way, as its name is larger.
    a, b = started("a", 0.3), started("b", 0.0)
    assert only(b.handle(claim_of(b, "a"), 0.4, 0.0), Exit)
    a.handle(Tick(), 0.8, 0.0)
    assert a.active


@pytest.mark.parametrize("claims", [False, True])
def test_what_waited_in_the_session_of_a_store_that_is_gone_costs_only_time(claims: bool) -> None:
    core = core_of("5")
    core.handle(LinkUp(session_present=True, protocol="3.1.1"), 0.0, 0.0)
    old = claim_of(core, "1") if claims else state_of(core, "1")
    assert not only(core.handle(old, 0.1, 0.0), Exit)
    core.handle(claim_of(core, "5"), 0.2, 0.0)  # our own question comes back
    assert core.deadline() == 0.1 + ANNOUNCED_WAIT_S

    core.handle(Tick(), 0.1 + ANNOUNCED_WAIT_S, 0.0)

    assert core.active


def test_what_comes_behind_the_own_question_is_an_answer_in_whatever_session() -> None:
    core = core_of("5")
    core.handle(LinkUp(session_present=True, protocol="3.1.1"), 0.0, 0.0)
    core.handle(state_of(core, "1"), 0.1, 0.0)
    core.handle(claim_of(core, "5"), 0.2, 0.0)

    (end,) = only(core.handle(state_of(core, "9"), 0.3, 0.0), Exit)

    assert end.code == EXIT_NOT_ALONE


def test_a_stale_online_of_a_dead_stranger_costs_only_time() -> None:
    core = started()
    core.handle(state_of(core, "9", retain=True), 0.1, 0.0)
    assert core.deadline() == 0.1 + ANNOUNCED_WAIT_S
    assert not core.handle(Tick(), 1.0, 0.0)

    core.handle(Tick(), 0.1 + ANNOUNCED_WAIT_S, 0.0)

    assert core.active


def test_a_stranger_that_is_alive_answers_within_that_time() -> None:
    core = started()
    core.handle(state_of(core, "9", retain=True), 0.1, 0.0)

    assert only(core.handle(state_of(core, "9"), 0.2, 0.0), Exit)


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("status", ["online", "offline"])
def test_words_of_a_predecessor_on_the_same_store_cost_nothing(
    status: Literal["online", "offline"], retain: bool
) -> None:
    core = core_of("5", instance="8", before=("6" * 16, "7" * 16))
    core.handle(UP, 0.0, 0.0)

    for instance in "678":
        core.handle(state_of(core, "5", status, retain=retain, instance=instance), 0.1, 0.0)

    assert core.deadline() == QUIET_WAIT_S


@pytest.mark.parametrize("retain", [False, True])
def test_words_of_one_that_ran_after_the_backup_cost_only_time(retain: bool) -> None:
    core = core_of("5", instance="8", before=("6" * 16,))
    core.handle(UP, 0.0, 0.0)

    for _ in range(2):
        assert not only(core.handle(state_of(core, "5", retain=retain, instance="7"), 0.1, 0.0), Exit)
    core.handle(Tick(), 0.1 + ANNOUNCED_WAIT_S, 0.0)

    assert core.active


def test_an_active_one_that_comes_back_to_a_stale_online_asks_rather_than_ends() -> None:
    core = core_of("9")
    core.resume_active()
    core.handle(UP, 0.0, 0.0)

    commands = core.handle(state_of(core, "1", retain=True), 0.1, 0.0)

    assert not only(commands, Exit)
    assert said(core, list(commands)) == ["online"], "whoever is alive hears this, and answers"


def test_of_two_active_ones_exactly_one_stays() -> None:
    low, high = core_of("1"), core_of("9")
    for core in (low, high):
        core.resume_active()
        core.handle(UP, 0.0, 0.0)

    assert said(low, list(low.handle(state_of(low, "9"), 1.0, 0.0))) == ["online"]
    assert only(high.handle(state_of(high, "1"), 1.0, 0.0), Exit)


def test_without_a_connection_nobody_is_alone() -> None:
    core = started()

    core.handle(LinkDown(reason="cut"), 0.1, 0.0)

    assert core.deadline() is None
    assert not core.handle(Tick(), 99.0, 0.0)
    assert not core.active
    again = core.handle(UP, 100.0, 0.0)
    assert only(again, Publish)[0].topic == core.topics.aggregator_claim
    assert core.deadline() == 100.0 + QUIET_WAIT_S


def test_an_active_one_asks_no_more_on_reconnecting() -> None:
    bench = Bench()
    bench.handle(LinkDown(reason="cut"))

    commands = bench.handle(UP)

    assert bench.topics.aggregator_claim not in [c.topic for c in only(commands, Publish)]
    assert said(bench.core, list(commands)) == ["online"]


def test_garbage_on_its_topics_is_acknowledged_and_ignored() -> None:
    core = started()
    core.handle(Tick(), 1.0, 0.0)
    for topic in (core.topics.aggregator_state, core.topics.aggregator_claim):
        for payload in (b"", b"\xff", b"[]", b"{}", b'{"store":7}', b"[" * 50_000):
            received = Received(topic=topic, payload=payload, mid=1)
            assert core.handle(received, 2.0, 0.0)[-1] == Acknowledge(received)
    assert core.active


def test_updates_that_come_before_it_is_alone_wait_unacknowledged() -> None:
    core = core_of("5")
    bench = Bench()
    core.handle(UP, 0.0, 0.0)
    waiting = [bench.message(bench.raw()) for _ in range(3)]
    for received in waiting:
        assert not core.handle(received, 0.1, 0.0)

    commands = core.handle(Tick(), QUIET_WAIT_S, 0.0)

    assert [c.received for c in only(commands, Acknowledge)] == waiting
    assert core.fleet.counters.accepted == 3


def test_after_a_cut_the_broker_delivers_held_updates_again_and_they_count_once() -> None:
    core = core_of("5")
    bench = Bench()
    core.handle(UP, 0.0, 0.0)
    received = bench.message(bench.raw())
    core.handle(received, 0.1, 0.0)
    core.handle(LinkDown(reason="cut"), 0.2, 0.0)
    core.handle(UP, 1.0, 0.0)
    core.handle(received, 1.1, 0.0)

    core.handle(Tick(), 2.0, 0.0)

    assert (core.fleet.counters.accepted, core.fleet.counters.duplicate) == (1, 0)


def test_the_tick_is_due_at_the_deadline_exactly() -> None:
    claim = Claim("5", "5")
    claim.asked(29.999999999999996, session_present=False)
    assert claim.deadline is not None

    assert claim.tick(claim.deadline)
    assert claim.active
    assert not claim.tick(99.0)


class Starts:
    """Cores that start at some time on one broker that takes ``delay_s`` each way; retained messages included."""

    def __init__(self, offsets: dict[str, float], delays: dict[str, float]) -> None:
        self.delays, self.cores = delays, {store: core_of(store) for store in offsets}
        self.queue: list[tuple[float, int, str, Event]] = []
        self.order = count()
        self.subscribed: set[str] = set()
        self.retained: dict[str, bytes] = {}
        self.ended: set[str] = set()
        for store, offset in offsets.items():
            self.push(offset, store, UP)

    def push(self, at: float, store: str, event: Event) -> None:
        heappush(self.queue, (at, next(self.order), store, event))

    def run(self) -> None:
        while self.queue:
            now, _, store, event = heappop(self.queue)
            if store in self.ended:
                continue
            core = self.cores[store]
            for command in core.handle(event, now, now):
                self.carry_out(store, command, now)
            deadline = core.deadline()
            if deadline is not None:
                self.push(max(deadline, now + 1e-3), store, Tick())
            assert now < 1000.0, "they talk to each other for ever"

    def carry_out(self, store: str, command: Command, now: float) -> None:
        # What arrives at the broker together is one step: subscribing comes before asking.
        match command:
            case Exit():
                self.ended.add(store)
            case Subscribe() if store not in self.subscribed:
                self.subscribed.add(store)
                for topic, payload in self.retained.items():
                    self.push(now + 2 * self.delays[store], store, Received(topic=topic, payload=payload, retain=True))
            case Publish(topic=topic, payload=payload) if "/aggregator/state" in topic or "/claim" in topic:
                if command.retain:
                    self.retained[topic] = payload
                for other in sorted(self.subscribed):
                    at = now + self.delays[store] + self.delays[other]
                    self.push(at, other, Received(topic=topic, payload=payload))


@given(
    offsets=st.lists(st.floats(0.0, 3.0), min_size=2, max_size=4),
    delays=st.lists(st.floats(0.0, 2.0), min_size=4, max_size=4),
)
def test_however_they_start_and_however_slow_the_network_exactly_one_stays(
    offsets: list[float], delays: list[float]
) -> None:
    starts = Starts(dict(zip("1357", offsets, strict=False)), dict(zip("1357", delays, strict=True)))

    starts.run()

    staying = [store for store in starts.cores if store in starts.subscribed - starts.ended]
    assert len(staying) == 1
    assert starts.cores[staying[0]].active


class OneSession:
    """A broker that keeps one connection a name, and aggregators with the same name: each throws the other off."""

    def __init__(self, *names: str, copies: bool = False) -> None:
        self.cores = {name: core_of("0", instance=name) if copies else core_of(name) for name in names}
        self.connected = ""
        self.retained: bytes | None = None
        self.ended: list[str] = []
        self.now = 0.0

    def connect(self, store: str, *, will: bool = False) -> None:
        if self.connected:
            core = self.cores[self.connected]
            self.handle(self.connected, LinkDown(reason="thrown off"))
            self.retained = core.will.payload if will else self.retained
        self.connected = store
        kept = self.retained  # what the subscription brings, before anything that is said now
        self.handle(store, UP)
        if kept is not None and store not in self.ended:
            self.handle(store, Received(topic=self.cores[store].topics.aggregator_state, payload=kept, retain=True))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        deadline = self.cores[self.connected].deadline() if self.connected else None
        if deadline is not None and self.now >= deadline:
            self.handle(self.connected, Tick())

    def handle(self, store: str, event: Event) -> None:
        core = self.cores[store]
        for command in core.handle(event, self.now, self.now):
            if isinstance(command, Publish) and command.topic == core.topics.aggregator_state:
                self.retained = command.payload
            elif isinstance(command, Exit):
                self.ended.append(store)
                self.connected = ""


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("will", [False, True])
@pytest.mark.parametrize(("first", "second"), ["15", "51"])
def test_of_two_with_one_certificate_or_copied_store_the_newcomer_ends(
    first: str, second: str, will: bool, copies: bool
) -> None:
    broker = OneSession(first, second, copies=copies)
    broker.connect(first)
    broker.wait(1.0)
    assert broker.cores[first].active
    for _ in range(MAX_LOST + 1):
        broker.connect(second, will=will)
        broker.wait(0.9)  # longer than an empty broker would be waited for
        assert not broker.cores[second].active
        if broker.ended:
            break
        broker.connect(first, will=will)
        broker.wait(0.9)
    assert broker.ended == [second]
    broker.connect(first)
    assert broker.cores[first].active


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize(("first", "second"), ["15", "51"])
def test_of_two_that_became_active_one_after_the_other_one_ends(first: str, second: str, copies: bool) -> None:
    broker = OneSession(first, second, copies=copies)
    broker.connect(first)
    broker.wait(1.0)
    broker.connect(second)
    broker.wait(6.0)  # the first was away for longer than the second waited
    assert broker.cores[second].active
    for _ in range(3):
        for store in (first, second):
            if store not in broker.ended:
                broker.connect(store)
                broker.wait(0.9)
    assert broker.ended == ["5"]


def test_a_left_over_state_ends_nobody_however_often_the_line_breaks() -> None:
    broker = OneSession("1", "5")
    broker.connect("5")
    broker.wait(1.0)
    left_over = broker.retained
    for _ in range(MAX_LOST - 1):
        broker.connect("1")
        broker.wait(0.9)
        broker.handle("1", LinkDown(reason="the line broke"))
        broker.connected = ""
        assert broker.retained == left_over
    broker.connect("1")
    broker.wait(6.0)
    assert broker.ended == []
    assert broker.cores["1"].active


TAKEN = LinkDown(reason="another client came", kind="taken-over")


def test_thrown_off_while_asking_it_ends_for_whoever_was_there_came_back() -> None:
    core = started()
    (end,) = only(core.handle(TAKEN, 0.1, 0.0), Exit)
    assert end.code == EXIT_NOT_ALONE
    assert "another program uses our identity" in end.reason


def test_thrown_off_while_active_it_comes_back_but_not_for_ever() -> None:
    bench = Bench()
    for _ in range(MAX_TAKEOVERS - 1):
        assert bench.handle(TAKEN) == []
        bench.handle(UP)
    (end,) = only(bench.handle(TAKEN), Exit)
    assert end.code == EXIT_NOT_ALONE
