"""What ``check`` finds, and that what it says to do helps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmq.provision import commands
from fedmq.provision.records import DAY_S
from tests.provision.desk import Desk


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock of the commands, in days from now."""

    def set_to(days: float) -> None:
        moment = int(time.time() + days * DAY_S)
        monkeypatch.setattr(commands, "now", lambda: moment)

    return set_to


def test_a_fresh_keystore_is_well(desk: Desk) -> None:
    desk("device", "press-01")

    assert "1 device," in desk("check")
    assert json.loads(desk("check", "--json")) == {"findings": []}


def test_certificates_that_expire(desk: Desk, clock: Callable[[float], None]) -> None:
    desk("device", *(f"press-{number}" for number in range(7)), "--days", "100")

    clock(80)
    soon = desk.findings()
    assert "certificates of devices expire soon" in soon
    assert "press-0, press-1, press-2, press-3, press-4 and 2 more" in soon
    clock(101)
    assert "have expired" in desk.findings()
    assert desk.certificates("press-0")[0]["state"] == "expired"
    desk("rotate", "device", *(f"press-{number}" for number in range(7)))
    assert "all is well" in desk("check")
    clock(2 * 365 - 10)
    said = desk.findings()
    assert "certificate of broker expires on" in said
    assert "in 10 days" in said or "in 9 days" in said
    desk("rotate", "broker")
    desk("rotate", "aggregator")
    assert "all is well" in desk("check")
    clock(20 * 365 - 5)
    said = desk.findings()
    assert "the authority expires on" in said
    clock(20 * 365 + 5)
    assert "the list of revoked certificates expired" in desk.findings()


def test_nothing_outlives_the_authority(tmp_path: Path, clock: Callable[[float], None]) -> None:
    desk = Desk(tmp_path / "keystore")
    desk.init("--ca-days", "50", "--days", "730")

    clock(51)

    assert desk.certificates("", "broker")[0]["state"] == "expired"


def test_a_clock_that_is_off(desk: Desk, clock: Callable[[float], None]) -> None:
    clock(-1)
    said = desk.findings()
    assert "the newest certificate was made at" in said
    assert "timedatectl" in said
    clock(-400)
    assert "is valid from" in desk.findings()


def test_loose_modes(desk: Desk) -> None:
    desk("device", "press-01")
    for name in ("ca.key", "keystore.sqlite", "bundles/press-01.fedmq", "aggregator/aggregator.key"):
        (desk.folder / name).chmod(0o644)
    desk.folder.chmod(0o777)

    said = desk.findings()

    for name in ("ca.key", "keystore.sqlite", "press-01.fedmq", "aggregator.key"):
        assert f"chmod 600 {desk.folder}" in said
        assert name in said
    assert "chmod go-w" in said
    assert "chmod 600" in desk("device", "press-02", exits=1)  # not with a key that others can read
    desk.folder.chmod(0o700)
    for name in ("ca.key", "keystore.sqlite", "bundles/press-01.fedmq"):
        (desk.folder / name).chmod(0o600)
    assert "all is well" in desk("check", "--repair")


def test_files_that_are_missing_changed_or_half_made(desk: Desk) -> None:
    desk("device", "press-01", "press-02", "press-03")
    (desk.folder / "broker" / "crl.pem").unlink()
    (desk.folder / "broker" / "acl").write_text("topic readwrite #\n", encoding="utf-8")
    (desk.folder / "bundles" / ".fedmq-tmp-12").write_bytes(b"half")
    bundle = desk.folder / "bundles" / "press-01.fedmq"
    bundle.write_bytes(bundle.read_bytes()[:1000])
    (desk.folder / "bundles" / "press-09.fedmq").write_bytes((desk.folder / "bundles" / "press-02.fedmq").read_bytes())

    said = " ".join(desk.findings().split())

    assert "crl.pem is missing" in said
    assert "acl is not what the keystore says" in said
    assert "unfinished files in" in said
    assert "press-01.fedmq is damaged" in said
    assert "press-09.fedmq holds a certificate that is not its bearer's current one" in said
    bundle.unlink()
    (desk.folder / "bundles" / "press-09.fedmq").unlink()
    assert "all is well" in desk("check", "--repair")


def test_keys_that_do_not_fit(desk: Desk, tmp_path: Path) -> None:
    other = Desk(tmp_path / "other")
    other.init()
    (desk.folder / "ca.key").write_bytes((other.folder / "ca.key").read_bytes())

    assert "not the key of this federation's authority" in desk.findings()
    assert "not the key of this federation's authority" in desk("device", "press-01", exits=1)


def test_a_configuration_that_looks_elsewhere(desk: Desk) -> None:
    path = desk.folder / "aggregator" / "aggregator.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('host = "localhost"', 'host = "broker.plant"'), encoding="utf-8")
    assert "rotate broker --broker broker.plant" in desk.findings()
    path.write_text(text.replace("[model]", "[modle]"), encoding="utf-8")
    assert "did you mean 'model'" in desk.findings()


def test_a_damaged_index_is_told(desk: Desk) -> None:
    (desk.folder / "keystore.sqlite").write_bytes(b"not a database at all" * 100)

    assert "restore it from a backup" in desk("list", exits=1)
    assert "restore it from a backup" in desk("device", "press-01", exits=1)
    assert "restore it from a backup" in desk("init", "plant", "--broker", "localhost", exits=1)
