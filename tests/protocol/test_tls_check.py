from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from protocol.adapters.tls_check import check_tls
from protocol.link import TlsSettings
from protocol.settings import ConfigurationError
from tests.support.certificates import DAY, Authority
from tests.support.patience import PATIENCE_S

BOTH = pytest.mark.parametrize("program", ["device_agent", "aggregator"])


def of(table: dict[str, str]) -> TlsSettings:
    return msgspec.convert(table, TlsSettings)


def test_good_files_are_worth_no_words(ours: Authority) -> None:
    assert check_tls(of(ours.client("press-07")), time.time(), "press-07") == []
    assert check_tls(of({"ca": str(ours.ca)}), time.time(), "press-07") == []
    assert check_tls(None, time.time()) == []


def test_what_will_soon_matter_is_noted(ours: Authority) -> None:
    (note,) = check_tls(of(ours.client("press-07", until=3 * DAY)), time.time())
    assert "press-07.crt: expires in 2 days" in note
    (note,) = check_tls(of(ours.client("press-07")), time.time(), "press-08")
    assert "is of 'press-07', not of 'press-08'" in note


@pytest.mark.parametrize(
    ("clock", "words"),
    [(0.0, "and the clock here says 1970-01-01 00:00 UTC: set the clock"), (4e9, "has expired on ")],
    ids=["1970", "2096"],
)
def test_out_of_their_time_they_are_useless_and_all_are_named(ours: Authority, clock: float, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_tls(of(ours.client("press-07")), clock)
    authority, own = caught.value.faults
    assert authority.startswith(f"broker.tls.ca {ours.ca}: ")
    assert own.startswith(f"broker.tls.certificate {ours.folder}/press-07.crt: ")
    assert words in authority
    assert words in own


def configuration(folder: Path, program: str, table: dict[str, str]) -> Path:
    file = folder / f"{program}.toml"
    tls = "\n".join(f'{key} = "{value}"' for key, value in table.items())
    if program == "device_agent":
        head = '[device]\nid = "press-07"\nfederation = "demo"\nstate_dir = "state"\n[data]\npath = "samples.npz"\n'
    else:
        model = '[model]\nkind = "softmax"\ninputs = 2\noutputs = 2\n[training]\n'
        head = f'[aggregator]\nfederation = "demo"\nstate_dir = "{folder}/state"\n{model}'
    file.write_text(f"{head}[broker.tls]\n{tls}\n")
    return file


def run(program: str, file: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", program, "run", "--config", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stdout + done.stderr


@BOTH
def test_check_finds_what_is_wrong_with_the_files(tmp_path: Path, ours: Authority, program: str) -> None:
    good = ours.client("press-07" if program == "device_agent" else "role:aggregator")
    code, text = run(program, configuration(tmp_path, program, good), "--check")
    assert code == 0
    assert "broker.tls" not in text
    code, text = run(program, configuration(tmp_path, program, ours.client("stranger")), "--check")
    assert code == 0
    assert "is of 'stranger', not of '" in text
    old = ours.client("old", since=-9 * DAY, until=-DAY)
    code, text = run(program, configuration(tmp_path, program, old), "--check")
    assert code == 2
    assert "has expired on " in text


@BOTH
@pytest.mark.parametrize("options", [(), ("--check",)], ids=["start", "check"])
def test_neither_starts_with_a_key_that_others_can_read(
    tmp_path: Path, ours: Authority, program: str, options: tuple[str, ...]
) -> None:
    table = ours.client("press-07")
    Path(table["key"]).chmod(0o640)
    code, text = run(program, configuration(tmp_path, program, table), *options)
    assert code == 2
    assert f"chmod 600 {table['key']}" in text
    assert "PRIVATE" not in text
