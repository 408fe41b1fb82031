"""The secure demo's folder: a keystore as ``fedmq provision`` makes it, and devices enrolled from their bundles."""

from __future__ import annotations

import shlex
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from msgspec import structs

import broker_config
from device_agent.adapters import enrolment
from fedmq.bundled import opened
from fedmq.provision import operations
from fedmq.provision.authority import client_certificate, make_ca
from fedmq.provision.exports import AGGREGATOR_FOLDER, BROKER_FOLDER
from fedmq.provision.files import write_pem
from fedmq.provision.keystore import Keystore, writing
from fedmq.provision.names import Subject
from fedmq.provision.options import CA_DAYS, DEVICE_DAYS, SERVER_DAYS
from fedmq.secured import Secured
from fedmq.strangers import Visitor
from fedmq.workshop import Workshop
from protocol import bundles
from protocol.clock import utc
from protocol.link import BrokerSettings, TlsSettings
from protocol.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fedmq.demo_plan import DevicePlan
    from fedmq.demo_sensors import Worn
    from fedmq.demo_task import Dealt, Task

MONITOR = "demo"
STOLEN, CURIOUS = "watch-stolen", "watch-curious"
"""Two devices more than take part: one is revoked, and one tries what is another's."""


README = """\
This is a federation as the demo left it: broker, aggregator and devices have stopped, and the devices are paused.
How it goes on, each in a terminal of its own (fedmq's commands are in the folder .venv/bin of its checkout):

    mosquitto -c {folder}/broker/mosquitto.conf
    fedmq-aggregator run --config {folder}/keystore/aggregator/aggregator.toml
    fedmq-agent run --config {folder}/devices/{device}/agent.toml         # and the others
    fedmq monitor --bundle {folder}/keystore/monitors/demo.fedmq
    fedmq-aggregator command all resume --config {folder}/keystore/aggregator/aggregator.toml

    export FEDMQ_KEYSTORE={folder}/keystore
    fedmq provision list
    fedmq provision check
    fedmq provision revoke {device}           # and then kill -HUP mosquitto's process, which reads the list again

Here Mosquitto reads keystore/broker itself. Where it is a service, fedmq provision install puts these files in place.
"""


class FromKeystore(Secured):
    """A broker that runs right in a keystore's folder ``broker``: what lies there is as ``fedmq provision`` made it."""

    def write(self, address: str, port: int) -> str:
        """Return the text of the configuration for a listener there; all files that it names are there already."""
        return self._texts(address, port)[broker_config.CONFIGURATION]


@dataclass(frozen=True, slots=True)
class Strongroom(Workshop):
    """A workshop in which everybody is who he says he is."""

    secure: ClassVar[bool] = True

    @property
    def keystore(self) -> Path:
        """The keystore's folder."""
        return self.folder / "keystore"

    @property
    def secured(self) -> Secured:
        """How to start the broker."""
        return FromKeystore(federation=self.federation, folder=self.keystore / BROKER_FOLDER, monitors=(MONITOR,))

    @property
    def aggregator_configuration(self) -> Path:
        """Where the aggregator's configuration is: with its keys."""
        return self.keystore / AGGREGATOR_FOLDER / "aggregator.toml"

    def agent_configuration(self, name: str) -> Path:
        """Where a device's configuration is: in a folder that stands for the device's /etc/fedmq."""
        return self.folder / "devices" / name / enrolment.CONFIGURATION

    def write(
        self,
        task: Task,
        plans: Sequence[DevicePlan],
        dealt: Dealt,
        host: str,
        port: int,
        *,
        worn: Worn | None = None,
    ) -> None:
        """Make the keystore, write all that a workshop has, and enrol all devices."""
        now = int(time.time())
        plan = operations.Plan(
            federation=self.federation, hosts=(host,), port=port, suite="x25519", ca_days=CA_DAYS, days=SERVER_DAYS
        )
        operations.initialise(self.keystore, plan, now)
        with writing(self.keystore) as keystore:
            names = [plan.name for plan in plans]
            devices = [Subject("device", name) for name in (*names, STOLEN, CURIOUS)]
            operations.provision(keystore, devices, now, days=DEVICE_DAYS)
            operations.provision(keystore, [Subject("monitor", MONITOR)], now, days=SERVER_DAYS)
            self._prepare_strangers(keystore, now)
            # The part of the keystore is put into these when it is closed, and that of the bundles by enrolling.
            self.aggregator_configuration.parent.mkdir(exist_ok=True)
            for name in names:
                self.agent_configuration(name).parent.mkdir(parents=True)
            Workshop.write(self, task, plans, dealt, host, port, worn=worn)
            for name in names:
                self._enroll(keystore.bundle_path(Subject("device", name)), self.agent_configuration(name).parent)
        readme = README.format(folder=shlex.quote(str(self.folder)), device=names[0])
        (self.folder / "README").write_text(readme, encoding="utf-8")

    @contextmanager
    def watching(self) -> Iterator[BrokerSettings]:
        """Yield how the monitor reaches the broker, with the identity from its bundle."""
        with opened(self.keystore / "monitors" / f"{MONITOR}.fedmq", None) as (settings, _federation):
            yield structs.replace(settings, reconnect_min_s=0.2, reconnect_max_s=1.0)

    def visitors(self, settings: BrokerSettings, victim: str) -> list[Visitor]:
        """Return strangers who know the broker's address and its authority, as ``settings`` has them."""
        state = Topics(self.federation).device_state(victim)
        return [
            Visitor("a stranger without a certificate", self._as("", settings)),
            Visitor("a stranger with a certificate of its own making", self._as("self-made", settings)),
            Visitor("a stolen device, whose certificate is revoked", self._as(STOLEN, settings)),
            Visitor(f"a device that writes to the topic of {victim}", self._as(CURIOUS, settings), intrudes=state),
        ]

    def _as(self, name: str, settings: BrokerSettings) -> BrokerSettings:
        folder, ca = self.folder / "strangers", str(self.keystore / "ca.crt")
        certificate, key = (str(folder / f"{name}.crt"), str(folder / f"{name}.key")) if name else ("", "")
        return structs.replace(settings, tls=TlsSettings(ca=ca, certificate=certificate, key=key))

    def _prepare_strangers(self, keystore: Keystore, now: int) -> None:
        folder = self.folder / "strangers"
        for name in (STOLEN, CURIOUS):
            files = bundles.decode(keystore.bundle_path(Subject("device", name)).read_bytes()).files
            write_pem(folder, name, files["certificate"].encode(), files["key"].encode())
        operations.revoke(keystore, [Subject("device", STOLEN)], now)
        begin = utc(now) - timedelta(days=1)
        end = begin + timedelta(days=30)
        forger = make_ca(self.federation, not_before=begin, not_after=end)
        made = client_certificate(forger, broker_config.AGGREGATOR, not_before=begin, not_after=end)
        write_pem(folder, "self-made", made.certificate_pem, made.key_pem)

    @staticmethod
    def _enroll(bundle: Path, folder: Path) -> None:
        identity = enrolment.read_bundle(bundle, enrolment.today())
        enrolment.enroll(identity, enrolment.Wish(folder=folder))
