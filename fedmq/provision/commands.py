"""What the commands of ``fedmq provision`` do and say. Imported when one of them runs: cryptography takes its time."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from broker_config import NameRefusedError
from fedmq.provision import checking, listing, operations
from fedmq.provision.findings import Finding
from fedmq.provision.index import IndexDamagedError
from fedmq.provision.installing import What, check_allowed, install_aggregator, install_broker
from fedmq.provision.inventory import InventoryError, checked_ids, ids_from_csv
from fedmq.provision.keystore import BUNDLE_FOLDERS, Keystore, KeystoreError, reading, writing
from fedmq.provision.live import broker_findings
from fedmq.provision.names import AGGREGATOR, BROKER, Subject, common_name, subject_of
from fedmq.provision.texts import AGGREGATOR_STATE
from protocol.clock import utc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmq.provision.operations import Plan, Provisioned
    from fedmq.provision.records import Certificate, KeyKind, Suite

FAILURES = (KeystoreError, IndexDamagedError, NameRefusedError, InventoryError, OSError)
"""Told in a line; whatever else comes is a mistake of ours."""

EXIT_FOUND = 1
INSTALLED = Path("/usr/local/bin/fedmq")
MAX_TOLD = 5
WIDE = 250
"""Columns where there is no terminal: a line of a table is to stay one line for who searches in it."""


def init(folder: Path, plan: Plan, *, install: Path | None) -> None:
    """Make a keystore, or finish one that was begun."""
    if install is not None:
        check_allowed(install, {"broker", "aggregator"})
    fresh = operations.initialise(folder, plan, now())
    with writing(folder):
        pass  # makes the files, or those that an interrupted run did not get to
    say(f"federation {plan.federation}: keystore {'made' if fresh else 'is there already,'} in {folder.resolve()}")
    say(f"  broker/       for Mosquitto at {', '.join(plan.hosts)}, port {plan.port}")
    say("  aggregator/   certificate, signing and sealing keys, aggregator.toml")
    say("  ca.key        whoever has it can make devices: keep the folder, and a backup of it, to yourself")
    if install is not None:
        put_in_place(folder, {"broker", "aggregator"}, install)
        return
    say("next:")
    say(f"  {own_command(folder, 'install', root=True)}   # or copy broker/ and aggregator/ to their machines")
    say(f"  {own_command(folder, 'device')} ID...")


def devices(
    folder: Path, ids: Sequence[str], csv: Path | None, *, days: int, data: str, host: str, again: bool, as_json: bool
) -> int:
    """Make bundles for devices."""
    wanted = checked_ids([*ids, *(ids_from_csv(csv) if csv else ())])
    if not wanted:
        raise KeystoreError("which devices? Name their ids, or a file with --csv")
    with writing(folder) as keystore:
        subjects = [Subject("device", id_) for id_ in wanted]
        begun = time.monotonic()
        done = operations.provision(keystore, subjects, now(), days=days, data=data, host=host, again=again)
        if as_json:
            _print_json(_provisioned_values(keystore, done))
        else:
            _tell_provisioned(keystore, done, time.monotonic() - begun)
    return EXIT_FOUND if done.revoked else 0


def monitor(folder: Path, name: str, *, days: int, again: bool) -> int:
    """Make a monitor's bundle."""
    subject = Subject("monitor", name)
    common_name(subject)
    with writing(folder) as keystore:
        done = operations.provision(keystore, [subject], now(), days=days, again=again)
        _tell_provisioned(keystore, done, 0.0)
        path = keystore.bundle_path(subject)
    if done.made:
        say("the broker learns of it when it has read broker/acl again:")
        say(f"  {_reload_command(folder)}")
        say("then, wherever the bundle is carried to:")
        say(f"  fedmq monitor --bundle {_shown(path)}")
    return EXIT_FOUND if done.revoked else 0


def bridge(folder: Path, name: str, hosts: Sequence[str], *, days: int, again: bool) -> None:
    """Make the files of a site's broker, which is joined to the federation's by a bridge."""
    common_name(Subject("bridge", name))
    with writing(folder) as keystore:
        fresh = operations.provision_site(keystore, name, hosts, now(), days=days, again=again)
    say(f"bridge {name}: {'files made' if fresh else 'is there already'}; the site's broker: {folder}/sites/{name}/")
    if fresh:
        say(
            f"copy them to the site's broker (fedmq.conf and bridge-{name}.conf into conf.d, "
            "the rest into /etc/mosquitto/fedmq),"
        )
        say("and put broker/acl in place on the federation's broker; devices of the site:")
        say(f"  {own_command(folder, 'device')} ID... --broker {hosts[0] if hosts else 'HOST'}")


def revoke(folder: Path, names: Sequence[str], *, install: Path | None) -> None:
    """Revoke certificates."""
    subjects = [subject_of(name) for name in names]
    if install is not None:
        check_allowed(install, {"broker"})
    with writing(folder) as keystore:
        fresh = operations.revoke(keystore, subjects, now())
    for subject in subjects:
        count = sum(one.subject.name == subject.name for one in fresh)
        say(f"{subject}: {'revoked' if count else 'was revoked already'}")
    if install is not None:
        put_in_place(folder, {"broker"}, install)
    else:
        say("the broker learns of it when it has read broker/crl.pem and broker/acl again:")
        say(f"  {_reload_command(folder)}")


def rotate_certificate(
    folder: Path, role: What, hosts: Sequence[str], port: int | None, *, days: int, end: bool
) -> None:
    """Renew the certificate of broker or aggregator, or end the overlap of the one before."""
    subject = BROKER if role == "broker" else AGGREGATOR
    with writing(folder) as keystore:
        if end:
            _tell_ended(folder, operations.end_certificate_overlap(keystore, subject, now()), str(subject))
            return
        if role == "broker":
            operations.rotate_broker(keystore, hosts, port, now(), days)
        else:
            operations.rotate_aggregator(keystore, now(), days)
        current = keystore.index.current(subject)
    say(f"{role}: new certificate in {folder}/{role}/, until {_day(current)}; the one before works until it expires")
    say("next:")
    say(f"  {own_command(folder, f'install {role}', root=True)}")
    if role == "broker":
        say("  sudo systemctl reload mosquitto      # nobody is thrown off")
        if hosts or port:
            say("  and tell the devices: host and port in their agent.toml, and in aggregator.toml")


def rotate_bundles(folder: Path, subjects: Sequence[Subject], *, days: int, data: str, host: str, end: bool) -> None:
    """Make new bundles for devices or monitors, or end the overlap of the certificates before."""
    for subject in subjects:
        common_name(subject)
    with writing(folder) as keystore:
        for subject in subjects:
            if end:
                _tell_ended(folder, operations.end_certificate_overlap(keystore, subject, now()), str(subject))
                continue
            operations.rotate_bundle(keystore, subject, now(), days=days, data=data, host=host)
            say(f"{subject}: new bundle {_shown(keystore.bundle_path(subject))}; the certificate before still works")
    if not end:
        say("when it is enrolled: the same command with --end-overlap revokes the certificate before")


def rotate_key(folder: Path, kind: KeyKind, suite: Suite | None, *, end: bool) -> None:
    """Change the signing or the sealing key, or end the overlap with the one before."""
    with writing(folder) as keystore:
        if end:
            ended = operations.end_key_overlap(keystore, kind)
            say(f"{kind}: the key before is {'deleted' if ended else 'gone already'}")
        elif kind == "signing":
            operations.rotate_signing(keystore, now())
            say("signing: the standby key signs now, beside the one before; there is a new standby key")
        else:
            operations.rotate_sealing(keystore, suite or keystore.index.federation().suite, now())
            say("sealing: devices are told to seal to a new key; what is sealed to the one before still opens")
    say("next: put aggregator/ in place, and restart the aggregator:")
    say(f"  {own_command(folder, 'install aggregator', root=True)}")
    if not end:
        say(f"when all devices have been online since: fedmq provision rotate {kind} --end-overlap")


def show_list(folder: Path, *, older: bool, as_json: bool) -> None:
    """List certificates and keys."""
    with reading(folder) as keystore:
        federation = keystore.index.federation()
        certificates = keystore.index.certificates()
        keys = [*keystore.index.keys("signing"), *keystore.index.keys("sealing")]
        bundles = {one: path for one in certificates if (path := _bundle_of(keystore, one))}
    if as_json:
        _print_json(listing.as_values(federation, certificates, keys, bundles, now()))
        return
    shown = [one for one in certificates if older or one.current]
    say(f"federation {federation.name}: broker {', '.join(federation.hosts)}, port {federation.port}")
    console().print(listing.certificate_table(shown, bundles, now()))
    hidden = [one for one in certificates if not one.current]
    if hidden and not older:
        say(f"and {len(hidden):,} older ones: --all")
    for line in listing.key_lines(federation, keys):
        say(line)


def check(folder: Path, connect: tuple[str, int] | None, *, repair: bool, as_json: bool) -> int:
    """Look for what is wrong; return the exit code."""
    if repair:
        with writing(folder):
            pass
    with reading(folder) as keystore:
        found = [*checking.loose_folder(keystore.folder), *checking.all_findings(keystore, now())]
        if connect:
            found += broker_findings(keystore.holdings(), *connect)
        devices = sum(one.current and one.revoked is None for one in keystore.index.certificates("device"))
    if as_json:
        _print_json({"findings": [{"what": one.what, "todo": one.todo} for one in found]})
    else:
        _tell_findings(found, devices)
    return EXIT_FOUND if found else 0


def put_in_place(folder: Path, what: set[What], root: Path, owner: str = "") -> None:
    """Install the files of broker and aggregator on this machine; the aggregator's belong to ``owner``."""
    check_allowed(root, what, owner)
    with writing(folder) as keystore:
        holdings = keystore.holdings()
    if "broker" in what:
        done = install_broker(holdings, root)
        _tell_written("broker", done.written)
        if done.written:
            say("next:")
            reload = "sudo systemctl daemon-reload && sudo systemctl restart mosquitto"
            say(f"  {reload}" if done.restart else "  sudo systemctl reload mosquitto")
    if "aggregator" in what:
        written = install_aggregator(holdings, root, owner).written
        _tell_written("aggregator", written)
        if written:
            say("next:")
            if owner:
                say(f"  sudo install -d -m 700 -o {owner} {AGGREGATOR_STATE}      # or another state_dir of {owner}'s")
            unit = (root / "etc/systemd/system/fedmq-aggregator.service").exists()
            by_hand = f"fedmq-aggregator run --config {root / 'etc/fedmq/aggregator/aggregator.toml'}"
            say(f"  {'sudo systemctl enable --now fedmq-aggregator' if unit else by_hand}")


# -- how it is said


def say(text: str) -> None:
    """Print a line as it is: nothing in it is markup, and paths are not broken."""
    console().print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


def console() -> Console:
    """Return where people read: made for each line, for tests put another standard output in place."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def own_command(folder: Path, rest: str, *, root: bool = False) -> str:
    """Return a command as it can be typed from here; sudo knows the installer's link alone, which outlives versions."""
    ours = Path(sys.executable).parent / "fedmq"
    linked = INSTALLED.exists() and INSTALLED.resolve() == ours.resolve()
    program = str(ours) if not linked and (root or not shutil.which("fedmq")) else "fedmq"
    place = "" if folder == Path("keystore") and not root else f" --keystore {shlex.quote(str(folder.resolve()))}"
    return f"{'sudo ' if root else ''}{shlex.quote(program)} provision {rest}{place}"


def now() -> int:
    """Return the moment, in whole seconds since 1970."""
    return int(time.time())


def _tell_provisioned(keystore: Keystore, done: Provisioned, seconds: float) -> None:
    for subject in done.made[:MAX_TOLD]:
        say(f"{subject}: {_shown(keystore.bundle_path(subject))}")
    if len(done.made) > MAX_TOLD:
        say(f"... {len(done.made):,} bundles in {_shown(keystore.bundle_path(done.made[0]).parent)}, {seconds:.1f} s")
    if done.there:
        _tell_there(keystore, done.there)
    for one in done.revoked:
        say(f"{one.subject}: revoked, and left so; if it is to be trusted again: the same command with --again")
    if done.made and done.made[0].role == "device":
        say("carry each to its device (whoever has it is that device), and there, as root:")
        say(f"  fedmq-agent enroll {done.made[0].name}.fedmq --data FILE")


def _tell_there(keystore: Keystore, there: Sequence[Certificate]) -> None:
    for one in there[:MAX_TOLD]:
        path = keystore.bundle_path(one.subject)
        lost = "" if path.exists() else f"; its bundle is gone, a new one: fedmq provision rotate {one.subject.role} "
        say(f"{one.subject}: is provisioned already, until {_day(one)}{lost}{one.subject.name if lost else ''}")
    if len(there) > MAX_TOLD:
        say(f"... {len(there):,} were provisioned already")


def _reload_command(folder: Path) -> str:
    return f"{own_command(folder, 'install broker', root=True)} && sudo systemctl reload mosquitto"


def _tell_ended(folder: Path, revoked: Sequence[Certificate], name: str) -> None:
    if revoked:
        many = "1 older certificate" if len(revoked) == 1 else f"{len(revoked)} older certificates"
        say(f"{name}: {many} revoked; the broker learns of it when it has read broker/crl.pem again:")
        say(f"  {_reload_command(folder)}")
    else:
        say(f"{name}: there is no older certificate that still works")


def _tell_findings(found: Sequence[Finding], devices: int) -> None:
    for one in found:
        say(f"- {one.what}")
        say(f"    {one.todo}")
    if found:
        say(f"{len(found)} {'thing needs' if len(found) == 1 else 'things need'} attention")
        return
    fleet = "1 device" if devices == 1 else f"{devices:,} devices"
    say(f"all is well: {fleet}, nothing expires soon, all files are whole and private")


def _tell_written(what: str, written: Sequence[Path]) -> None:
    if not written:
        say(f"{what}: everything is in place already")
    for path in written:
        say(f"{what}: {path}")


def _provisioned_values(keystore: Keystore, done: Provisioned) -> dict[str, Any]:
    return {
        "made": [{"id": one.name, "bundle": str(keystore.bundle_path(one))} for one in done.made],
        "there": [one.subject.name for one in done.there],
        "revoked": [one.subject.name for one in done.revoked],
    }


def _bundle_of(keystore: Keystore, certificate: Certificate) -> str:
    if not certificate.current or certificate.subject.role not in BUNDLE_FOLDERS:
        return ""
    path = keystore.bundle_path(certificate.subject)
    return str(path.relative_to(keystore.folder)) if path.exists() else ""


def _day(certificate: Certificate | None) -> str:
    return utc(certificate.not_after).strftime("%Y-%m-%d") if certificate else "-"


def _shown(path: Path) -> str:
    return shlex.quote(str(path))


def _print_json(values: object) -> None:
    print(json.dumps(values))  # noqa: T201 - a command line talks
