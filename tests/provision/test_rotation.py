"""Revoking and rotating: the new works, the old works until its overlap is ended."""

from __future__ import annotations

import json
import re

from cryptography import x509

from protocol.adapters.key_files import read_opener, read_signer
from tests.provision.desk import Desk


def revoked_serials(desk: Desk) -> set[str]:
    crl = x509.load_pem_x509_crl((desk.folder / "broker" / "crl.pem").read_bytes())
    return {f"{entry.serial_number:x}" for entry in crl}


def serial(entry: dict[str, str]) -> str:
    return entry["serial"].lower().lstrip("0")


def security_table(desk: Desk) -> dict[str, list[str]]:
    text = (desk.folder / "aggregator" / "aggregator.toml").read_text(encoding="utf-8")
    return {
        key: re.findall(r'"(.*?)"', value) for key, value in re.findall(r"^(\w+_keys?) = (.*)$", text, re.MULTILINE)
    }


def test_a_revoked_device_is_on_the_list_and_stays_there(desk: Desk) -> None:
    desk("device", "press-01", "press-02")
    (first,) = desk.certificates("press-01")

    said = desk("revoke", "press-01")
    again = desk("revoke", "press-01")

    assert "revoked" in said
    assert "was revoked already" in again
    assert revoked_serials(desk) == {serial(first)}
    path = desk.folder / "bundles" / "press-01.fedmq"
    assert not path.exists()
    path.write_bytes(b"put back, or left by a killed command")
    desk("check", "--repair")
    assert not path.exists()
    assert desk.certificates("press-01")[0]["state"] == "revoked"
    assert desk.certificates("press-02")[0]["state"] == "valid"
    assert "--again" in desk("device", "press-01", exits=1)
    assert "--again" in desk("rotate", "device", "press-01", exits=1)
    desk("device", "press-01", "--again")
    assert {one["state"] for one in desk.certificates("press-01")} == {"valid", "revoked"}
    assert revoked_serials(desk) == {serial(first)}


def test_only_who_is_known_can_be_revoked(desk: Desk) -> None:
    desk("device", "press-01")

    assert "never provisioned" in desk("revoke", "press-01", "press-99", exits=1)
    assert "device id" in desk("revoke", "role:aggregator", exits=1)
    assert desk.certificates("press-01")[0]["state"] == "valid"


def test_a_revoked_monitor_and_bridge_lose_their_rights(desk: Desk) -> None:
    desk("monitor", "office")
    desk("bridge", "hall-2", "--broker", "10.1.1.1")

    desk("revoke", "monitor:office", "bridge:hall-2")

    acl = (desk.folder / "broker" / "acl").read_text(encoding="utf-8")
    for name in ("role:monitor:office", "role:bridge:hall-2"):
        assert acl.count(name) == 1
        assert f"user {name}\ntopic deny #\n" in acl
    assert len(revoked_serials(desk)) == 3
    assert "--again" in desk("bridge", "hall-2", "--broker", "10.1.1.1", exits=1)
    desk("bridge", "hall-2", "--broker", "10.1.1.1", "--again")
    assert "user role:bridge:hall-2\ntopic deny #" not in (desk.folder / "broker" / "acl").read_text(encoding="utf-8")


def test_a_device_has_two_certificates_until_the_overlap_ends(desk: Desk) -> None:
    desk("device", "press-01")
    before = desk.bundle("press-01").files["certificate"]

    desk("rotate", "device", "press-01")

    assert desk.bundle("press-01").files["certificate"] != before
    assert [one["state"] for one in desk.certificates("press-01")] == ["valid", "replaced"]
    assert revoked_serials(desk) == set()
    desk("rotate", "device", "press-01", "--end-overlap")
    assert [one["state"] for one in desk.certificates("press-01")] == ["valid", "revoked"]
    assert "no older certificate" in desk("rotate", "device", "press-01", "--end-overlap")
    assert "never provisioned" in desk("rotate", "device", "press-99", exits=1)


def test_the_broker_gets_other_names(desk: Desk) -> None:
    before = (desk.folder / "broker" / "broker.crt").read_bytes()

    desk("rotate", "broker", "--broker", "broker.plant", "--port", "8884")

    after = (desk.folder / "broker" / "broker.crt").read_bytes()
    names = x509.load_pem_x509_certificate(after).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert after != before
    assert names.value.get_values_for_type(x509.DNSName) == ["broker.plant"]
    assert "listener 8884" in (desk.folder / "broker" / "fedmq.conf").read_text(encoding="utf-8")
    assert "looks for the broker at localhost" in desk.findings()
    desk("device", "press-01")
    assert (desk.bundle("press-01").host, desk.bundle("press-01").port) == ("broker.plant", 8884)


def test_the_aggregators_certificate(desk: Desk) -> None:
    before = (desk.folder / "aggregator" / "aggregator.crt").read_bytes()

    desk("rotate", "aggregator")

    assert (desk.folder / "aggregator" / "aggregator.crt").read_bytes() != before
    assert "all is well" in desk("check")
    desk("rotate", "aggregator", "--end-overlap")
    assert len(revoked_serials(desk)) == 1


def test_the_signing_key_moves_up_and_both_sign_meanwhile(desk: Desk) -> None:
    folder = desk.folder / "aggregator"
    first = security_table(desk)

    desk("rotate", "signing")
    second = security_table(desk)

    assert second["signing_keys"][1:] == first["signing_keys"]
    assert second["signing_keys"][0] == first["standby_signing_key"][0].replace(".pub", ".key")
    assert second["standby_signing_key"] != first["standby_signing_key"]
    desk("device", "press-01")
    assert len(json.loads(desk.bundle("press-01").files["federation"])["signing_keys"]) == 3
    signer = read_signer([str(folder / name) for name in second["signing_keys"]])
    assert signer is not None
    assert len(signer.public_keys) == 2
    assert "--end-overlap" in desk("rotate", "signing", exits=1)
    assert security_table(desk) == second
    desk("rotate", "signing", "--end-overlap")
    assert security_table(desk)["signing_keys"] == second["signing_keys"][:1]
    assert not (folder / first["signing_keys"][0]).exists()
    assert first["signing_keys"][0].encode() not in (desk.folder / "keystore.sqlite").read_bytes()
    desk("rotate", "signing")
    assert "all is well" in desk("check")


def test_the_sealing_key_before_still_opens(desk: Desk) -> None:
    folder = desk.folder / "aggregator"
    first = security_table(desk)["sealing_keys"]

    desk("rotate", "sealing", "--post-quantum")

    second = security_table(desk)["sealing_keys"]
    assert second[1:] == first
    opener = read_opener([str(folder / name) for name in second])
    assert opener is not None
    assert opener.sealing.suite == "mlkem768-x25519"
    assert "--end-overlap" in desk("rotate", "sealing", exits=1)
    desk("rotate", "sealing", "--end-overlap")
    assert [path.name for path in folder.glob("sealing-*")] == second[:1]
    assert [one["kind"] for one in desk.values()["keys"]].count("sealing") == 1


def test_what_the_owner_wrote_into_the_configuration_survives(desk: Desk) -> None:
    path = desk.folder / "aggregator" / "aggregator.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("goal = 4", "goal = 40"), encoding="utf-8")
    (path.parent / "evaluation.npz").write_bytes(b"mine")

    desk("rotate", "signing")

    assert "goal = 40" in path.read_text(encoding="utf-8")
    assert (path.parent / "evaluation.npz").read_bytes() == b"mine"
