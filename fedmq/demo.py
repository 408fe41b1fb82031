"""``fedmq demo``: a fleet of real processes learns over a real broker, on this machine, in a minute."""

from __future__ import annotations

import secrets
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmq import embedded_broker, ground
from fedmq.aftermath import look_back
from fedmq.audit import audit
from fedmq.baseline import measure
from fedmq.books import BooksError, aggregator_books, all_device_books
from fedmq.chaos import AGGREGATOR, BROKER, Strike, strikes
from fedmq.demo_data import PEOPLE, UNSEEN_PEOPLE
from fedmq.demo_plan import FEDERATION, SLOWNESS, plan_fleet
from fedmq.demo_sensors import WINDOW_S, as_samples, worn
from fedmq.demo_signals import DemoDataError, load_signals
from fedmq.demo_task import WATCH, Dealt, Task
from fedmq.foretold import Audience
from fedmq.lookout import Backdrop, Lookout
from fedmq.outcome import Guarded, Outcome
from fedmq.processes import ChildDiedError
from fedmq.stage import Stage
from fedmq.timeline import Timeline, timeline
from fedmq.watcher import Watcher
from fedmq.workshop import FolderError, prepare_folder
from protocol.link import BrokerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmq.baseline import Baseline
    from fedmq.demo_plan import DevicePlan
    from fedmq.demo_sensors import Worn
    from fedmq.display import Display
    from fedmq.embedded_broker import EmbeddedBroker, Kind
    from fedmq.ground import Ground
    from fedmq.processes import Child
    from fedmq.workshop import Workshop

FAILURES = (DemoDataError, FolderError, embedded_broker.BrokerError, ChildDiedError, BooksError)
"""What can go wrong and is no fault of ours; the messages are for the user."""
SLOW_S = 120.0
"""So much longer a fleet may take for its first version."""
QUIET_S = 20.0
"""After chaos: for connections to come back and outboxes to drain. Ends as soon as they have."""
CHAOS_FROM_S = 4.0
"""First everybody should be there."""
STRANGERS_AT = 0.4
"""Of the run: by then everybody is at work, and chaos has struck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line said."""

    devices: int
    seconds: float
    broker: Kind | BrokerSettings
    """One that we start, or where one runs."""
    keep: Path | None
    chaos: bool
    seed: int
    secure: bool = False
    sensors: bool = False
    """Devices collect their examples from topics, rather than have a file of them."""
    task: Task = WATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cast:
    """Who takes part."""

    plans: list[DevicePlan]
    dealt: Dealt
    baseline: Baseline
    worn: Worn | None = None


class Demo:
    """One run. ``interrupted`` tells whether the user wants it to end."""

    def __init__(self, options: Options, display: Display, interrupted: Callable[[], bool]) -> None:
        self._options = options
        self._display = display
        self._interrupted = interrupted
        # On a broker that others use as well, nobody must be mistaken for one of us.
        shared = isinstance(options.broker, BrokerSettings)
        self._federation = f"{FEDERATION}-{secrets.token_hex(3)}" if shared else FEDERATION

    def run(self) -> Outcome:
        """Run to the end and return what it came to.

        Raise one of ``FAILURES`` when it cannot, and ``KeyboardInterrupt`` when the user ends it before it begins.
        """
        begun = time.monotonic()
        if self._options.secure:
            ground.check_secure(self._options.broker)
        with ExitStack() as stack:
            folder = self._folder(stack)
            cast = self._cast()
            if self._interrupted():
                raise KeyboardInterrupt
            place = self._ground(stack, folder, cast)
            workshop, broker = place.workshop, place.broker
            agents = {plan.name: workshop.agent(plan.name) for plan in cast.plans}
            stage = Stage(agents, workshop.aggregator(), broker, self._others(workshop, cast))
            stack.callback(stage.kill_all)  # whatever happens; after a good end there is nobody left
            lookout = self._lookout(stack, place, cast)
            audience = self._audience(stack, place, cast)
            stage.start_aggregator()
            fleet_s, stubborn = self._play(stage, self._timeline(cast, broker), lookout)
            books = aggregator_books(workshop.aggregator_state())
            return Outcome(
                task=self._options.task,
                baseline=cast.baseline,
                verdict=audit(all_device_books(workshop.device_state(plan.name) for plan in cast.plans), books),
                aggregator=books,
                devices=len(cast.plans),
                fleet_s=fleet_s,
                wall_s=time.monotonic() - begun,
                broker=broker.kind if broker else place.address,
                kills=dict(stage.kills),
                chaos=self._options.chaos,
                interrupted=self._interrupted(),
                stubborn=tuple(stubborn),
                guarded=_guarded(place),
                foretold=audience.result() if audience else None,
                aftermath=look_back(workshop, cast.dealt, lookout.survey),
            )

    def _ground(self, stack: ExitStack, folder: Path, cast: _Cast) -> Ground:
        def write(workshop: Workshop, host: str, port: int) -> None:
            workshop.write(self._options.task, cast.plans, cast.dealt, host, port, worn=cast.worn)

        wanted = self._options.broker
        if self._options.secure:
            return ground.secure(stack, folder, self._federation, cast.plans[0].name, write)
        if isinstance(wanted, BrokerSettings):
            return ground.elsewhere(stack, folder, self._federation, wanted, write)
        return ground.plain(stack, folder, self._federation, wanted, write)

    def _others(self, workshop: Workshop, cast: _Cast) -> list[Child]:
        """Return who plays no part in the federation."""
        if cast.worn:
            return [workshop.wrists()]
        return [workshop.examiner(sorted(plan.name for plan in cast.plans))] if self._options.task.labelled else []

    def _lookout(self, stack: ExitStack, place: Ground, cast: _Cast) -> Lookout:
        watcher = Watcher(place.settings, self._federation)
        watcher.start()
        stack.callback(watcher.stop)
        return Lookout(
            watcher,
            self._display,
            place.workshop.aggregator_state(),
            Backdrop(
                broker=f"{place.broker.kind} at {place.address}" if place.broker else place.address,
                reference=cast.baseline.alone_mean.right if self._options.task.labelled else None,
                security=f"mutual {place.tls}, signed models, sealed updates" if place.tls else "",
            ),
            place.strangers,
            examined=place.workshop.examined,
        )

    @staticmethod
    def _audience(stack: ExitStack, place: Ground, cast: _Cast) -> Audience | None:
        if cast.worn is None:
            return None
        audience = Audience(place.settings, cast.worn.root, WINDOW_S)
        audience.start()
        stack.callback(audience.stop)
        return audience

    def _folder(self, stack: ExitStack) -> Path:
        if self._options.keep is not None:
            return prepare_folder(self._options.keep)
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedmq-demo-", ignore_cleanup_errors=True)))

    def _cast(self) -> _Cast:
        task = self._options.task
        dealt, watches = self._sensed() if self._options.sensors else (task.deal(self._options.devices), None)
        self._display.say(_introduction(dealt, self._options))
        plans = plan_fleet([samples.name for samples in dealt.fleet], self._options.seconds)
        return _Cast(plans=plans, dealt=dealt, baseline=measure(task, dealt), worn=watches)

    def _sensed(self) -> tuple[Dealt, Worn]:
        people = PEOPLE[: self._options.devices]
        signals = load_signals()
        fleet = [as_samples(signals, [person], f"watch-{person}") for person in people]
        watches = worn(signals, people, self._options.seconds, f"sensors/{self._federation}")
        return Dealt(fleet=fleet, unseen=as_samples(signals, UNSEEN_PEOPLE, "unseen")), watches

    def _timeline(self, cast: _Cast, broker: EmbeddedBroker | None) -> Timeline:
        options = self._options
        blows: list[Strike] = []
        if options.chaos:
            names = [plan.name for plan in cast.plans]
            end_s = options.seconds
            blows = strikes(names, options.seed, start_s=CHAOS_FROM_S, end_s=end_s, with_broker=broker is not None)
        return Timeline(timeline(cast.plans, blows), present=[AGGREGATOR, BROKER])

    def _play(self, stage: Stage, line: Timeline, lookout: Lookout) -> tuple[float, list[str]]:
        begun = time.monotonic()
        with self._display:
            while (now_s := time.monotonic() - begun) < self._end_s(lookout) and not self._interrupted():
                if now_s >= STRANGERS_AT * self._options.seconds:
                    lookout.let_strangers_knock()
                late = "a busy machine: the first version is still to come" if now_s > self._options.seconds else ""
                self._look_on(stage, line, lookout, begun, late or stage.news(now_s))
            fleet_s = time.monotonic() - begun
            stage.perform(line.last_words(), fleet_s)
            if not self._interrupted():
                self._calm_down(stage, line, lookout, begun)
            lookout.look(time.monotonic() - begun, "ending ...")
            # Agents first: while the aggregator is there, what is under way still gets its receipt.
            stubborn = stage.end_agents() + stage.end_aggregator()
        return fleet_s, stubborn

    def _end_s(self, lookout: Lookout) -> float:
        """Return when the fleet stops: on a busy machine not before it has learned anything."""
        first = 1 if self._options.task.statistics else 0  # a version that nobody has trained
        return self._options.seconds + (0.0 if lookout.version > first else SLOW_S)

    def _calm_down(self, stage: Stage, line: Timeline, lookout: Lookout, begun: float) -> None:
        """Pause all devices and wait until no update is under way; whatever remains then is in the books anyway."""
        lookout.let_strangers_knock()
        asked = time.monotonic()
        if not self._options.task.labelled:  # before they pause: who does, answers nothing
            while not lookout.errors_told(enough=time.monotonic() > asked + QUIET_S) and not self._interrupted():
                if time.monotonic() > asked + SLOW_S:
                    break
                self._look_on(stage, line, lookout, begun, "devices say how large their errors are ...")
        deadline = time.monotonic() + QUIET_S
        while time.monotonic() < deadline and not lookout.settled() and not self._interrupted():
            lookout.pause()
            self._look_on(stage, line, lookout, begun, "no new trainings; outboxes drain ...")

    @staticmethod
    def _look_on(stage: Stage, line: Timeline, lookout: Lookout, begun: float, note: str) -> None:
        now_s = time.monotonic() - begun
        stage.tick(line, now_s)
        lookout.look(now_s, note)


def _introduction(dealt: Dealt, options: Options) -> str:
    # Short lines: the terminal may have only 80 columns.
    lines = [
        *options.task.question(dealt),
        f"Every device is a process; the slowest is {SLOWNESS:.0f} times slower than the fastest;",
        "they join late, sleep, leave, and come back.",
    ]
    if options.chaos:
        lines.append(f"All of them, aggregator and broker too, get killed at random (seed {options.seed}).")
    if options.sensors:
        lines += [
            "Nobody has a file of examples: the watches publish what they measure, and each",
            "device keeps it, learns from what has come so far, and says what it recognizes.",
        ]
    if options.secure:
        lines += [
            "Each has a certificate of its own and believes only signed models; what it",
            "learns travels sealed, so that the broker cannot read it. Strangers will knock.",
        ]
    return "\n".join(lines)


def _guarded(place: Ground) -> Guarded | None:
    strangers = place.strangers
    if strangers is None:
        return None
    return Guarded(tls=place.tls, strangers=strangers.number if strangers.called else 0, knocks=tuple(strangers.knocks))
