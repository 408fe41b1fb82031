"""From nothing to bundles, and the same again."""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedmq.provision import files
from fedmq.provision.keystore import locked
from protocol.adapters.key_files import read_opener, read_signer
from protocol.adapters.pins import read_pins
from tests.provision.desk import Desk


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_init_makes_everything_and_a_second_one_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "keystore")

    said = desk.init()
    before = everything(desk.folder)
    again = desk.init()

    assert "keystore made" in said
    assert "is there already" in again
    assert everything(desk.folder) == before
    names = {"acl", "broker.crt", "broker.key", "ca.crt", "crl.pem", "fedmq.conf", "mosquitto.service.conf"}
    assert {path.name for path in (desk.folder / "broker").iterdir()} == names
    assert {"aggregator.toml", "aggregator.crt", "aggregator.key", "federation.json"} <= {
        path.name for path in (desk.folder / "aggregator").iterdir()
    }
    assert "all is well" in desk("check")


def test_what_is_secret_is_the_owners_alone(desk: Desk) -> None:
    desk("device", "press-01")
    desk("monitor", "office")
    open_to_others = {
        str(path.relative_to(desk.folder))
        for path in desk.folder.rglob("*")
        if path.is_file() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    }

    assert stat.S_IMODE(desk.folder.stat().st_mode) == 0o700
    assert not {name for name in open_to_others if b"PRIVATE" in (desk.folder / name).read_bytes()}
    assert not {name for name in open_to_others if name.endswith((".key", ".fedmq", ".sqlite"))}


def test_the_aggregators_keys_are_what_the_aggregator_reads(desk: Desk) -> None:
    folder = desk.folder / "aggregator"
    signing, standby = next(folder.glob("signing-*.key")), next(folder.glob("signing-*.pub"))

    signer = read_signer([str(signing)], str(standby))
    assert signer is not None
    assert read_pins(str(folder / "federation.json"), "plant") == signer.public_keys
    opener = read_opener([str(next(folder.glob("sealing-*.key")))])
    assert opener is not None
    assert opener.sealing.suite == "x25519"


def test_post_quantum_sealing(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "keystore")
    desk.init("--post-quantum")

    opener = read_opener([str(next((desk.folder / "aggregator").glob("sealing-*.key")))])

    assert opener is not None
    assert opener.sealing.suite == "mlkem768-x25519"


def test_a_bundle_holds_one_devices_identity(desk: Desk) -> None:
    desk("device", "press-01", "--data", "/srv/press.csv")
    bundle = desk.bundle("press-01")
    certificate = x509.load_pem_x509_certificate(bundle.files["certificate"].encode())

    assert (bundle.role, bundle.name, bundle.federation, bundle.host, bundle.port) == (
        "device",
        "press-01",
        "plant",
        "localhost",
        8883,
    )
    assert certificate.subject.rfc4514_string() == "CN=press-01,O=plant"
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(bundle.files["ca"].encode()))
    assert load_pem_private_key(bundle.files["key"].encode(), None).public_key() == certificate.public_key()
    assert json.loads(bundle.files["federation"])["federation"] == "plant"
    assert 'path = "/srv/press.csv"' in bundle.files["configuration"]
    assert b"PRIVATE" not in (desk.folder / "aggregator" / "federation.json").read_bytes()


def test_devices_again_changes_nothing(desk: Desk) -> None:
    desk("device", "press-01", "press-02")
    before = everything(desk.folder)

    said = desk("device", "press-01", "press-02", "press-02")

    assert "is provisioned already" in said
    assert everything(desk.folder) == before
    (desk.folder / "bundles" / "press-01.fedmq").unlink()
    assert "rotate device press-01" in desk("device", "press-01")


@pytest.mark.parametrize("name", ["a/b", "", "all", "..", "role:aggregator", "x" * 65, "prëss", "a b", "a\n"])
def test_unsuitable_ids_are_refused_with_the_reason(desk: Desk, name: str) -> None:
    said = desk("device", "press-01", name, exits=1)

    assert "device id" in said
    assert not list((desk.folder / "bundles").iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["init", "a/b", "--broker", "localhost"], "1 to 64 letters"),
        (["init", "plant", "--broker", "localhost:8883"], "neither a host name nor an IP address"),
        (["init", "plant", "--broker", "10.0.0.256"], "neither a host name nor an IP address"),
        (["init", "plant"], "--broker"),
        (["device", "x", "--days", "0"], "--days"),
        (["check", "--connect", "a b"], "HOST, HOST:PORT"),
        (["install", "device"], "broker"),
    ],
)
def test_a_mistake_says_what_is_allowed(tmp_path: Path, words: list[str], says: str) -> None:
    assert says in " ".join(Desk(tmp_path / "keystore")(*words, exits=2).split())
    assert not (tmp_path / "keystore").exists()


def test_init_touches_nothing_else(tmp_path: Path, desk: Desk) -> None:
    other = Desk(tmp_path / "thesis")
    other.folder.mkdir()
    (other.folder / "thesis.txt").write_text("years of work", encoding="utf-8")

    assert "not empty" in other("init", "plant", "--broker", "localhost", exits=1)
    assert "federation 'plant'" in desk("init", "other", "--broker", "localhost", exits=1)
    assert "rotate broker --broker elsewhere" in desk("init", "plant", "--broker", "elsewhere", exits=1)
    assert "rotate sealing --post-quantum" in desk(
        "init", "plant", "--broker", "localhost", "--broker", "127.0.0.1", "--post-quantum", exits=1
    )
    assert "provision init" in Desk(tmp_path / "nothing")("device", "a", exits=1)
    assert [path.name for path in other.folder.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "nothing").exists()


def test_one_at_a_time(desk: Desk) -> None:
    with locked(desk.folder):
        assert "another fedmq provision is at work" in desk("device", "press-01", exits=1)
        assert "plant" in desk("list")  # looking is always allowed


def test_the_authoritys_key_may_be_kept_elsewhere(desk: Desk, tmp_path: Path) -> None:
    (desk.folder / "ca.key").rename(tmp_path / "ca.key")

    assert "ca.key is missing" in desk("device", "press-01", exits=1)
    assert "all is well" in desk("check")
    desk("rotate", "signing")
    (tmp_path / "ca.key").rename(desk.folder / "ca.key")
    assert "press-01.fedmq" in desk("device", "press-01")


def test_thousands_from_a_csv_file(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    rows = [f"hall {number % 7}, pump-{number:04} ,x" for number in range(2000)]
    path.write_text("\ufeff" + "\n".join(["place,id,note", *rows]), encoding="utf-8")

    found = json.loads(desk("device", "--csv", str(path), "press-01", "--json"))

    assert len(found["made"]) == 2001
    assert all(Path(one["bundle"]).is_file() for one in found["made"])
    serials = {one["serial"] for one in desk.values()["certificates"]}
    assert len(serials) == 2003
    again = json.loads(desk("device", "--csv", str(path), "--json"))
    assert (len(again["made"]), len(again["there"])) == (0, 2000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("name,place\na,b\n", "no column 'id'; there are name, place"),
        ("id\n", "no device in it"),
        ("id\na\nb\na\n", "line 4: 'a' stands in line 2 already"),
        ("id;x\na;1\n;2\nb/c;3\n", "line 3: no id"),
        ("id\nb/c\n", "line 2: device id 'b/c' is not"),
        ('id\n"a\n', "unexpected end of data"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_told_by_its_line(desk: Desk, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "fleet.csv"
    path.write_text(text, encoding="utf-8")

    assert says in desk("device", "--csv", str(path), exits=1)
    assert not list((desk.folder / "bundles").iterdir())


def test_a_csv_file_that_is_none(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"id\n\xff\xfe")

    assert "not UTF-8" in desk("device", "--csv", str(tmp_path / "x"), exits=1)
    assert "No such file" in desk("device", "--csv", str(tmp_path / "y"), exits=1)
    assert "which devices" in desk("device", exits=1)


def test_monitors_and_sites_get_their_names_and_files(desk: Desk) -> None:
    desk("monitor", "office")
    desk("bridge", "hall-2", "--broker", "10.1.1.1")
    certificate = x509.load_pem_x509_certificate(desk.bundle("office", "monitors").files["certificate"].encode())
    site = desk.folder / "sites" / "hall-2"

    assert certificate.subject.rfc4514_string() == "CN=role:monitor:office,O=plant"
    acl = (desk.folder / "broker" / "acl").read_text(encoding="utf-8")
    assert "role:monitor:office" in acl
    assert "role:bridge:hall-2" in acl
    assert {"bridge-hall-2.conf", "bridge-hall-2.key", "broker.key", "acl", "crl.pem", "fedmq.conf"} <= {
        path.name for path in site.iterdir()
    }
    assert "address localhost:8883" in (site / "bridge-hall-2.conf").read_text(encoding="utf-8")
    assert "is there already" in desk("bridge", "hall-2", "--broker", "10.1.1.1")
    assert "too long" in desk("monitor", "x" * 60, exits=1)
    desk("device", "press-01", "--broker", "10.1.1.1")
    assert desk.bundle("press-01").host == "10.1.1.1"


def test_install_puts_the_files_where_they_belong(desk: Desk, tmp_path: Path) -> None:
    root = tmp_path / "image"

    said = desk("install", "--root", str(root))
    configuration = root / "etc/fedmq/aggregator/aggregator.toml"
    configuration.write_text(configuration.read_text() + "# mine\n", encoding="utf-8")
    again = desk("install", "--root", str(root))
    desk("rotate", "signing")
    desk("install", "--root", str(root))

    assert "daemon-reload" in said
    assert "in place already" in again
    assert (root / "etc/mosquitto/conf.d/fedmq.conf").exists()
    assert (root / "etc/systemd/system/mosquitto.service.d/fedmq.conf").exists()
    assert stat.S_IMODE((root / "etc/mosquitto/fedmq/broker.key").stat().st_mode) == 0o600
    text = configuration.read_text(encoding="utf-8")
    assert "# mine\n" in text
    assert len(list(configuration.parent.glob("signing-*.key"))) == 2
    assert all(path.name in text for path in configuration.parent.glob("signing-*"))


def test_install_refuses_who_is_not_root_before_anything_is_done(desk: Desk, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setuid(pwd.getpwnam("nobody").pw_uid)
            said = Desk(desk.folder)("install", exits=1)
            new = Desk(tmp_path / "new")("init", "plant", "--broker", "localhost", "--install", exits=1)
            status = int(not ("sudo" in said and "sudo" in new))
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert not (tmp_path / "new").exists()


def test_names_that_look_like_smileys_are_printed_as_they_are(desk: Desk) -> None:
    assert "monitor:office: " in desk("monitor", "office")


def test_thousands_are_one_step_of_the_disk_each(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()

    files.write_many([(folder / str(number), b"x" * number) for number in range(600)])

    assert {path.stat().st_size for path in folder.iterdir()} == set(range(600))
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
