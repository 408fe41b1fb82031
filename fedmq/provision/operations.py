"""What ``fedmq provision`` does to a keystore: each function is one step of the index, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedmq.provision import files
from fedmq.provision.index import Index
from fedmq.provision.issuing import bundle, new_ca, new_certificate, new_crl
from fedmq.provision.keys import new_sealing_key, new_signing_key
from fedmq.provision.keystore import CA_KEY, INDEX, LOCK, Keystore, KeystoreError, locked
from fedmq.provision.names import AGGREGATOR, BROKER, Subject
from fedmq.provision.records import Certificate, Federation, KeyKind, Suite, key_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from fedmq.provision.authority import Credential

BATCH = 500
"""Bundles a step: so many are lost at most when a run over thousands is killed, and the next run goes on there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What ``init`` is asked for."""

    federation: str
    hosts: tuple[str, ...]
    port: int
    suite: Suite
    ca_days: int
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """What became of the names that were asked for."""

    made: tuple[Subject, ...] = ()
    there: tuple[Certificate, ...] = ()
    """Had a certificate already."""
    revoked: tuple[Certificate, ...] = ()
    """Had one that is revoked, and get a new one only when told so."""


# -- the beginning


def initialise(folder: Path, plan: Plan, now: int) -> bool:
    """Make a keystore; return False when this very one is there already. Raise ``KeystoreError`` for any other."""
    if not (folder / INDEX).exists():
        _check_empty(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise KeystoreError(f"{folder}: {exc.strerror or exc}") from exc
    with locked(folder):
        index = Index(folder / INDEX)
        try:
            if index.made:
                _check_same(folder, index.federation(), plan)
                return False
            _make(folder, index, plan, now)
        finally:
            index.close()
    return True


def _make(folder: Path, index: Index, plan: Plan, now: int) -> None:
    ca = new_ca(plan.federation, now, plan.ca_days)
    broker = _with_key(*new_certificate(ca, BROKER, now, plan.days, plan.hosts))
    aggregator = _with_key(*new_certificate(ca, AGGREGATOR, now, plan.days))
    federation = Federation(
        name=plan.federation,
        hosts=plan.hosts,
        port=plan.port,
        suite=plan.suite,
        made=now,
        ca=ca.certificate_pem,
    )
    files.write_secret(folder / CA_KEY, ca.key_pem)  # before the index speaks of it; nothing was signed with it yet
    with index.transaction():
        index.make(federation)
        index.add([broker, aggregator])
        index.put_key(new_signing_key("current", now))
        index.put_key(new_signing_key("next", now))
        index.put_key(new_sealing_key(plan.suite, now))
        index.put_crl(new_crl(ca, [], 1))


def _check_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise KeystoreError(f"{folder} is there, and is no folder: name another one with --keystore")
    ours = (CA_KEY, LOCK)
    others = [path.name for path in folder.glob("*") if path.name not in ours] if folder.exists() else []
    if others:
        raise KeystoreError(
            f"{folder} is no keystore, and not empty (there is {min(others)}): name another one with --keystore"
        )


def _check_same(folder: Path, there: Federation, plan: Plan) -> None:
    if there.name != plan.federation:
        raise KeystoreError(
            f"{folder} is the keystore of federation {there.name!r}: name another one for {plan.federation!r} with "
            "--keystore"
        )
    if there.hosts != plan.hosts or there.port != plan.port:
        raise KeystoreError(
            f"{folder} was made for a broker at {', '.join(there.hosts)}, port {there.port}; to change its names: "
            f"fedmq provision rotate broker {' '.join(f'--broker {host}' for host in plan.hosts)} --port {plan.port}"
        )
    if there.suite != plan.suite:
        wanted = "--post-quantum" if plan.suite == "mlkem768-x25519" else "--classic"
        raise KeystoreError(
            f"{folder} seals with {there.suite}; to change that: fedmq provision rotate sealing {wanted}"
        )


# -- devices, monitors, sites


def provision(
    keystore: Keystore,
    subjects: Sequence[Subject],
    now: int,
    *,
    days: int,
    data: str = "",
    host: str = "",
    again: bool = False,
) -> Provisioned:
    """Make bundles for those who have none; for revoked ones only ``again``."""
    known = {one.subject: one for role in {subject.role for subject in subjects} for one in _currents(keystore, role)}
    revoked = tuple(one for subject in subjects if (one := known.get(subject)) and one.revoked is not None)
    there = tuple(one for subject in subjects if (one := known.get(subject)) and one.revoked is None)
    wanted = [s for s in subjects if s not in known or (again and known[s].revoked is not None)]
    issue(keystore, wanted, now, days=days, data=data, host=host)
    return Provisioned(made=tuple(wanted), there=there, revoked=() if again else revoked)


def issue(
    keystore: Keystore, subjects: Sequence[Subject], now: int, *, days: int, data: str = "", host: str = ""
) -> None:
    """Make certificates and their bundles, whatever there was before; older certificates stay valid."""
    if not subjects:
        return
    ca = keystore.authority()
    federation, signing = keystore.index.federation(), keystore.index.keys("signing")
    for begin in range(0, len(subjects), BATCH):
        staged = {}
        for subject in subjects[begin : begin + BATCH]:
            record, credential = new_certificate(ca, subject, now, days)
            at = host or federation.hosts[0]
            staged[record] = bundle(federation, signing, subject, credential, host=at, data=data)
        keystore.stage(staged)
        with keystore.index.transaction():
            keystore.index.add(staged)
        keystore.unveil(staged)


def provision_site(keystore: Keystore, name: str, hosts: Sequence[str], now: int, *, days: int, again: bool) -> bool:
    """Make the certificates of a bridge and of its site's broker; return whether there were none."""
    bridge, broker = Subject("bridge", name), Subject("broker", name)
    found = keystore.index.current(bridge)
    if found is not None and found.revoked is None and not again:
        return False
    if found is not None and not again:
        raise KeystoreError(f"{bridge} is revoked; if it is to be trusted again: the same command with --again")
    _issue_kept(keystore, {bridge: (), broker: tuple(hosts)}, now, days)
    return True


def _issue_kept(keystore: Keystore, wanted: dict[Subject, tuple[str, ...]], now: int, days: int) -> None:
    """Issue certificates whose keys stay in the index; those with hosts are brokers'."""
    ca = keystore.authority()
    made = [_with_key(*new_certificate(ca, subject, now, days, hosts)) for subject, hosts in wanted.items()]
    with keystore.index.transaction():
        keystore.index.add(made)


# -- revocation


def revoke(keystore: Keystore, subjects: Iterable[Subject], now: int) -> list[Certificate]:
    """Revoke all certificates of the bearers, and remove their bundles; return what was revoked just now."""
    fresh = _revoke(keystore, [one for subject in subjects for one in _all_of(keystore, subject)], now)
    keystore.recover()
    return fresh


def _all_of(keystore: Keystore, subject: Subject) -> list[Certificate]:
    found = keystore.index.certificates(*subject)
    if not found:
        raise KeystoreError(f"{subject} was never provisioned here: fedmq provision list shows who was")
    if subject.role == "bridge":
        found += keystore.index.certificates("broker", subject.name)
    return found


def _revoke(keystore: Keystore, certificates: Sequence[Certificate], now: int) -> list[Certificate]:
    fresh = [one for one in certificates if one.revoked is None]
    if fresh:
        ca = keystore.authority()
        with keystore.index.transaction():
            keystore.index.revoke((one.serial for one in fresh), now)
            crl = new_crl(ca, keystore.index.certificates(), keystore.index.crl().number + 1)
            keystore.index.put_crl(crl)
    return fresh


# -- rotation


def rotate_broker(keystore: Keystore, hosts: Sequence[str], port: int | None, now: int, days: int) -> None:
    """Give the broker a new certificate, and other names or another port if any are given."""
    before = keystore.index.federation()
    after = replace(before, hosts=tuple(hosts) or before.hosts, port=port or before.port)
    ca = keystore.authority()
    made = _with_key(*new_certificate(ca, BROKER, now, days, after.hosts))
    with keystore.index.transaction():
        keystore.index.put_federation(after)
        keystore.index.add([made])


def rotate_aggregator(keystore: Keystore, now: int, days: int) -> None:
    """Give the aggregator a new certificate."""
    _issue_kept(keystore, {AGGREGATOR: ()}, now, days)


def rotate_bundle(keystore: Keystore, subject: Subject, now: int, *, days: int, data: str, host: str) -> None:
    """Make a new bundle for a device or a monitor that has one; the certificate before stays valid."""
    current = keystore.index.current(subject)
    if current is None:
        raise KeystoreError(f"{subject} was never provisioned here: fedmq provision {subject.role} {subject.name}")
    if current.revoked is not None:
        raise KeystoreError(
            f"{subject} is revoked; if it is to be trusted again: fedmq provision {subject.role} {subject.name} --again"
        )
    issue(keystore, [subject], now, days=days, data=data, host=host)


def rotate_signing(keystore: Keystore, now: int) -> None:
    """Sign with the standby key; the one before goes on signing beside it, and there is a new standby key."""
    _refuse_overlap(keystore, "signing")
    with keystore.index.transaction():
        keystore.index.move_key("signing", "current", "previous")
        keystore.index.move_key("signing", "next", "current")
        keystore.index.put_key(new_signing_key("next", now))


def rotate_sealing(keystore: Keystore, suite: Suite, now: int) -> None:
    """Have devices seal to a new key; what is sealed to the one before still opens."""
    _refuse_overlap(keystore, "sealing")
    with keystore.index.transaction():
        keystore.index.move_key("sealing", "current", "previous")
        keystore.index.put_key(new_sealing_key(suite, now))
        keystore.index.put_federation(replace(keystore.index.federation(), suite=suite))


def end_key_overlap(keystore: Keystore, kind: KeyKind) -> bool:
    """Delete the key before; return whether there was one."""
    if key_at(keystore.index.keys(kind), "previous") is None:
        return False
    with keystore.index.transaction():
        keystore.index.drop_key(kind, "previous")
    return True


def end_certificate_overlap(keystore: Keystore, subject: Subject, now: int) -> list[Certificate]:
    """Revoke a bearer's older certificates, and return them."""
    return _revoke(keystore, [one for one in _all_of(keystore, subject) if not one.current], now)


def _refuse_overlap(keystore: Keystore, kind: KeyKind) -> None:
    if key_at(keystore.index.keys(kind), "previous") is not None:
        raise KeystoreError(
            f"the {kind} key was rotated already, and the key before is still in use: end that first, when all devices "
            f"have been online since, with fedmq provision rotate {kind} --end-overlap"
        )


def _currents(keystore: Keystore, role: str) -> list[Certificate]:
    return [one for one in keystore.index.certificates(role) if one.current]  # type: ignore[arg-type]


def _with_key(record: Certificate, credential: Credential) -> Certificate:
    return replace(record, key=credential.key_pem)
