"""The documents say what the code does: names, defaults, bounds, worked examples and links are compared with it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgpack
import msgspec
import numpy as np
import pytest
from msgspec import Struct

from aggregator.__main__ import app as aggregator_app
from aggregator.configuration import AggregatorSettings
from device_agent.__main__ import _parser as agent_parser
from device_agent.sensing.sources import SourceTable
from device_agent.settings import AgentSettings
from fedmq.__main__ import app as fedmq_app
from fedmq.provision.cli import provision_app
from fedmq.provision.cli_rotate import rotate_app
from models import Pipeline, TrainingPlan, build
from models.features import FEATURE_NAMES
from models.spec import NetworkSpec
from protocol import envelope, fields, messages, packing, status, surveys, tensors, thresholds
from protocol.sampling import participates
from protocol.sealing import Opener, info_of
from protocol.settings import expectation
from protocol.signing import Distrust, Signer, key_id
from protocol.topics import Topics, shard
from tests.support.foreign_device import train

ROOT = Path(__file__).parent.parent
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "systemd").glob("*.md")])
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()

FILES: dict[str, type[Struct]] = {"agent.toml": AgentSettings, "aggregator.toml": AggregatorSettings}
PLAINER = {"`f32`, `f16` or `int8`": set(tensors.CODECS), "a text, or a list of texts": set()}
"""Types that are told in plainer words than those of the error messages, with the words that must be in them."""


# -- configuration.md ----------------------------------------------------------------------------------------------


def tables(settings: type[Struct]) -> dict[str, type[Struct]]:
    """Return the tables of a file, those within tables by their dotted names."""
    found: dict[str, type[Struct]] = {}
    for field in msgspec.structs.fields(settings):
        if table := table_of(field.type):
            found[field.name] = table
            # A broker within another table has the keys of the first one, which are documented once.
            inner = {name: kind for name, kind in tables(table).items() if not name.startswith("broker")}
            found |= {f"{field.name}.{name}": kind for name, kind in inner.items()}
        found |= kinds_of(field)
    return found


def table_of(kind: Any) -> type[Struct] | None:
    """Return the struct behind ``X`` or ``X | None``; None for everything else."""
    return next((part for part in (kind, *get_args(kind)) if is_struct(part)), None)


def kinds_of(field: Any) -> dict[str, type[Struct]]:
    """Return the structs behind ``dict[str, A | B]`` by what their tables are called in the documents."""
    arguments = get_args(field.type)
    parts = get_args(arguments[1]) if len(arguments) == 2 else ()
    return {f"{field.name}.NAME {part.__struct_config__.tag}": part for part in parts if is_struct(part)}


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def section(text: str, heading: str) -> str:
    """Return what stands between a heading and the next of its level or above."""
    level = heading.partition(" ")[0]
    assert f"\n{heading}\n" in text, f"no heading {heading!r}"
    after = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"\n#{{1,{len(level)}}} ", after, maxsplit=1)[0]


def documented_rows(text: str) -> dict[str, list[str]]:
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            rows[cells[0].strip("` ")] = cells
    return rows


def tables_of_kinds() -> set[str]:
    return {name for field in msgspec.structs.fields(AgentSettings) for name in kinds_of(field)}


def heading_of(table: str) -> str:
    name, _, kind = table.partition(" ")
    return f"### `[{name}]`" + (f' with `kind = "{kind}"`' if kind else "")


def test_what_all_sources_share_is_documented_once() -> None:
    rows = documented_rows(section(section(CONFIGURATION, "## agent.toml"), "### `[sources.NAME]`"))
    fields = msgspec.structs.fields(SourceTable)
    assert list(rows) == ["kind", *(field.name for field in fields)]
    for field in fields:
        _, kind, default, _ = rows[field.name]
        assert kind == expectation(field.type)
        fallback = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        assert tomllib.loads(f"x = {default.strip('`')}")["x"] == fallback


@pytest.mark.parametrize(
    ("file", "table"), [(file, table) for file, settings in FILES.items() for table in tables(settings)]
)
def test_every_key_is_documented_with_its_type_and_default(file: str, table: str) -> None:
    where = "agent.toml" if table.startswith("broker") else file
    rows = documented_rows(section(section(CONFIGURATION, f"## {where}"), heading_of(table)))
    fields = [field for field in msgspec.structs.fields(tables(FILES[file])[table]) if not table_of(field.type)]
    if table in tables_of_kinds():
        # What they have in common is documented once.
        shared = {field.name for field in msgspec.structs.fields(SourceTable)}
        fields = [field for field in fields if field.name not in shared]
    assert list(rows) == [field.name for field in fields]
    for field in fields:
        _, kind, default, _ = rows[field.name]
        if kind in PLAINER:
            assert all(word in kind for word in PLAINER[kind])
        else:
            assert kind == expectation(field.type), f"{file}: {table}.{field.name}"
        documented = None if default == "required" else tomllib.loads(f"x = {default.strip('`')}")["x"]
        fallback = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        assert documented == (None if field.required else fallback), f"{file}: {table}.{field.name}"


def test_every_table_is_documented() -> None:
    for file, settings in FILES.items():
        names = {*tables(settings), *(field.name for field in msgspec.structs.fields(settings))}
        names -= {name for name in names if name.startswith("broker") and file != "agent.toml"}
        names = {"sources.NAME" if name == "sources" else name for name in names} - tables_of_kinds()
        assert set(re.findall(r"^### `\[([\w.]+)\]`$", section(CONFIGURATION, f"## {file}"), re.MULTILINE)) == names


# -- protocol.md: messages -----------------------------------------------------------------------------------------

SECTIONS: dict[type[Struct], str] = {
    messages.Manifest: "### manifest",
    messages.BlobRef: "### blob reference",
    messages.DeltaRef: "### delta reference",
    messages.BackboneRef: "### backbone reference",
    messages.Participation: "### participation",
    messages.ModelUpdate: "### update",
    messages.Sealing: "### sealing",
    messages.Candidate: "### candidate",
    messages.SealedUpdate: "### sealed update",
    messages.UpdateContent: "### update content",
    thresholds.Threshold: "### threshold",
    surveys.Survey: "### survey",
    surveys.Report: "### report",
    surveys.SealedReport: "### sealed report",
    messages.UpdateChunk: "### chunk",
    messages.UpdateProbe: "### probe",
    messages.Receipt: "### receipt",
    messages.DeviceCommand: "### command",
    envelope.Signed: "### envelope",
    envelope.Signature: "### signature",
    status.DeviceState: "### device state",
    status.DeviceMetrics: "### device metrics",
    status.AggregatorState: "### aggregator state",
    status.AggregatorClaim: "### aggregator claim",
    status.AggregatorMetrics: "### aggregator metrics",
}


def public_structs() -> set[type[Struct]]:
    found = {value for module in (messages, envelope, status) for value in vars(module).values() if is_struct(value)}
    return {kind for kind in found if kind is not Struct and not kind.__name__.startswith("_")}


def test_every_message_has_a_section() -> None:
    assert public_structs() == set(SECTIONS)


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_message_is_named_and_no_other(kind: type[Struct]) -> None:
    text = section(PROTOCOL, SECTIONS[kind])
    named = {name for line in text.splitlines() if line.startswith("| `") for name in names_in(line)}
    assert named - {"type"} == {field.encode_name for field in msgspec.structs.fields(kind)}
    tag = kind.__struct_config__.tag
    if tag is not None:
        assert f'| `type` | `"{tag}"` |' in text


def names_in(line: str) -> list[str]:
    return re.findall(r"`(\w+)`", line.strip("|").split(" | ")[0])


def test_required_status_fields_have_their_mark() -> None:
    for kind in (status.DeviceState, status.AggregatorState, status.AggregatorClaim):
        lines = section(PROTOCOL, SECTIONS[kind]).splitlines()
        marked = {names_in(line)[0] for line in lines if line.startswith("| `") and "` * |" in line}
        assert marked == {field.name for field in msgspec.structs.fields(kind) if field.required}


def test_every_choice_and_code_is_named() -> None:
    choices = [surveys.SurveyKind, messages.ReceiptStatus, messages.CommandAction, status.WorkName]
    for choice in choices:
        for value in get_args(choice):
            assert f"`{value}`" in PROTOCOL
    source = "".join(path.read_text() for path in (ROOT / "aggregator").glob("*.py"))
    codes = set(re.findall(r'Refused\(\s*"(\w+)",\s*"([\w-]+)"', source))
    assert codes
    assert {(cells[0].strip("` "), cells[1]) for cells in code_rows()} == {(code, verdict) for verdict, code in codes}


def code_rows() -> Iterator[list[str]]:
    for line in section(PROTOCOL, "## Receipts").splitlines():
        if re.match(r"\| `[a-z-]+` \| (rejected|retry|stale) \|", line):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_topic_is_named() -> None:
    topics = Topics("F")
    digest = "0" * 64
    made = [value for name, value in vars(topics).items() if name not in {"federation", "root"} and "+" not in value]
    made += [topics.blob(digest, 3).replace(digest, "<digest>").replace("/3", "/<i>")]
    made += [topics.update("D").replace(f"up/{shard('D')}/", "up/<shard>/")]
    made += [topics.receipt("D"), topics.device_state("D"), topics.device_metrics("D"), topics.command("D")]
    written = {re.sub(r"/D\b", "/<device>", topic.removeprefix("fedmq/v1/F/")) for topic in made}
    methods = {name for name in vars(Topics) if not name.startswith(("_", "parse_"))}
    assert methods == {"blob", "update", "receipt", "device_state", "device_metrics", "command"}
    assert set(documented_rows(section(PROTOCOL, "## Topics"))) == written


def test_limits_are_those_of_the_code() -> None:
    text = section(PROTOCOL, "## Limits")
    for bound in (
        messages.MAX_MESSAGE_BYTES,
        messages.MAX_CHUNK_BYTES,
        messages.MAX_MANIFEST_BYTES,
        messages.MAX_UPDATE_BYTES,
        fields.MAX_CHUNKS,
        fields.MAX_METRICS,
        status.MAX_STATUS_BYTES,
        surveys.MAX_CONTENT_BYTES,
    ):
        assert re.search(rf"(?<![\d,]){bound:,}(?!,?\d)", text), bound


# -- protocol.md: models and examples ------------------------------------------------------------------------------


def test_every_key_of_specs_and_plans_is_documented() -> None:
    spec = documented_rows(section(PROTOCOL, "### Model specs"))
    assert set(spec) == set(NetworkSpec.__dataclass_fields__)
    plan = documented_rows(section(PROTOCOL, "### Training plans"))
    assert list(plan) == list(TrainingPlan(class_weights=(1.0,)).to_data())
    for key, value in TrainingPlan().to_data().items():
        assert plan[key][2].strip("`") == str(value)


def test_every_key_and_feature_of_a_pipeline_is_documented() -> None:
    text = (ROOT / "docs" / "features.md").read_text()
    documented = documented_rows(section(text, "## Keys"))
    smallest = {"channels": ["a", "b"], "max_gap_s": 60, "window": 10, "compute": ["mean"]}
    further: list[dict[str, Any]] = [
        {"magnitudes": {"m": ["a"]}, "every_s": 1, "max_hold_s": 1, "fill": "value", "fill_value": 1},
        {"rate_hz": 5, "target": "next"},
        {"label": "majority"},
    ]
    assert set(documented) == {key for more in further for key in Pipeline.from_data(smallest | more).to_data()}
    for key, value in Pipeline.from_data(smallest).to_data().items():
        if key not in smallest and key != "stride":
            assert documented[key][1].strip("`") == json.dumps(value), key
    cells = re.findall(r"^\| (`[^|]*) \|", section(text, "## Features"), re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r"`([\w:-]+)`", cell)}
    assert names == {name for name in FEATURE_NAMES if not name.endswith("Hz")}


def test_the_pipelines_of_the_documents_feed_their_models() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "features.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        tables = tomllib.loads(block)
        assert Pipeline.for_model(tables["features"], build(tables["model"])) is not None


def test_worked_codec_examples() -> None:
    vector = np.array([0.5, -1.0, 0.25, 0.0], np.float32)
    text = re.sub(r"(?<=[0-9a-f]) (?=[0-9a-f])", "", section(PROTOCOL, "## Tensors"))
    for codec in ("f32", "f16"):
        assert tensors.encode(codec, vector, np.random.default_rng(0)).hex() in text
    assert "0402013c | 40812000" in text
    decoded = tensors.decode("int8", bytes.fromhex("0402013c40812000"), 4)
    assert decoded.tolist() == pytest.approx([0.503937, -1.0, 0.2519685, 0.0], abs=1e-6)


def test_layout_and_shard_examples() -> None:
    text = section(PROTOCOL, "### Model specs")
    layout = re.search(r"```\n(fedmq layout 1\n.*?)```", text, re.DOTALL)
    assert layout
    digest = build({"kind": "softmax", "inputs": 2, "outputs": 2}).layout.digest
    assert hashlib.sha256(layout[1].encode()).hexdigest() == digest
    assert digest in text
    assert (
        f"`press-07` is in shard {shard('press-07')}:" in PROTOCOL
        or f"`press-07` is in shard {shard('press-07')}." in PROTOCOL
    )


def test_sampling_example() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w{16})` \| ([\d.]+) \| (yes|no) \|$", section(PROTOCOL, "### sampling"), re.MULTILINE
    )
    assert rows
    for version, draw, share, verdict in rows:
        text = f"00000000000000e1/{version}/press-07"
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == draw
        assert math.isclose(int(draw, 16) / 2**64, float(share), abs_tol=1e-4)
        assert participates("press-07", "00000000000000e1", int(version), 0.5) == (verdict == "yes")


def test_the_signature_example() -> None:
    text = section(PROTOCOL, "## Signatures")
    signer = Signer([bytes(range(32))])
    lines = text.split("envelope     ")[1].split("```")[0].splitlines()
    digits = "".join(re.split(r" {2,}(?=\S)", line.lstrip())[0] for line in lines)
    assert signer.sign("command", b"abc").hex() == digits.replace(" ", "")
    assert signer.public_keys[0].hex() in text
    assert key_id(signer.public_keys[0]) in text
    for code in (*get_args(Distrust),):
        assert f"| `{code}` |" in text


def test_the_sealing_example() -> None:
    text = section(PROTOCOL, "## Sealing")
    opener = Opener([("x25519", bytes(range(32)))])
    sealed = re.search(r"\nsealed +([0-9a-f\s]+)```", text)
    assert sealed
    update = packing.decode_up(session_update(section(PROTOCOL, "## A whole session"), SESSION_LAYOUT))
    assert isinstance(update, messages.ModelUpdate)
    clear = {name: getattr(update, name) for name in ("federation", "epoch", "device_id", "incarnation")}
    found = messages.SealedUpdate(
        **clear,
        sequence=1,
        base_version=0,
        key=key_id(opener.sealing.key),
        sealed=bytes.fromhex(sealed[1]),
    )
    assert opener.open(found) == update
    assert opener.sealing.key.hex() in text
    assert found.key in text
    assert info_of(update).decode().replace("\0", "\\0") in text


def test_the_session_is_a_real_one() -> None:
    text = section(PROTOCOL, "## A whole session")
    announced = re.search(r"model/current\n(.*?)```", text, re.DOTALL)
    assert announced
    manifest = packing.decode_manifest(msgpack.packb(msgspec.json.decode(announced[1])))
    assert build(manifest.model).layout.digest == manifest.layout
    assert hashlib.sha256(bytes(24)).hexdigest() == manifest.blob.digest == manifest.parameters
    plan = {"model": manifest.model, "training": manifest.training}
    trained = train(plan, [0.0] * 6, [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]], [0, 1, 0, 1])
    assert str(trained.delta) in text
    update = packing.decode_up(session_update(text, manifest.layout))
    assert isinstance(update, messages.ModelUpdate)
    assert (update.epoch, update.sequence, update.layout) == (manifest.epoch, 1, manifest.layout)
    moved = tensors.decode("int8", update.delta, 6)
    assert moved.tobytes().hex() in text.replace(" ", "")
    assert hashlib.sha256(moved.tobytes()).hexdigest() in text
    receipt = re.search(r'(\{"type": "receipt".*?\})\n', text, re.DOTALL)
    assert receipt
    packing.decode_receipt(msgpack.packb(msgspec.json.decode(receipt[1])))


SESSION_LAYOUT = "3196a5961a760137d107460147e906c198c96d12c61022b5e6df59faff8a7329"


def session_update(text: str, layout: str) -> bytes:
    dump = re.search(r"```\n(8d a474.*?)```", text, re.DOTALL)
    assert dump
    digits = "".join(re.split(r" {2,}(?=\S)", line.lstrip())[0] for line in dump[1].splitlines())
    payload = bytes.fromhex(re.sub(r"33313936\.\.\.37333239", layout.encode().hex(), digits).replace(" ", ""))
    assert f"these {len(payload)} bytes" in text
    return payload


# -- architecture.md -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["models", "protocol", "device_agent", "aggregator", "fedmq"])
def test_every_module_is_named_where_its_package_is_described(package: str) -> None:
    text = section((ROOT / "docs" / "architecture.md").read_text(), "## Modules")
    paragraph = next(part for part in text.split("\n\n") if part.strip().startswith(f"`{package}/`"))
    stems = {path.stem for path in (ROOT / package).rglob("*.py") if not path.stem.startswith("__")}
    assert stems - {"service"} == set(re.findall(r"`(\w+)`", paragraph)) - {"adapters", "init"}


# -- commands and links --------------------------------------------------------------------------------------------


def test_documented_commands_exist() -> None:
    def known(app: Any) -> set[str]:
        groups = {group.name for group in app.registered_groups}
        return groups | {command.name or command.callback.__name__ for command in app.registered_commands}

    agent = {name for action in agent_parser()._actions for name in (action.choices or ())}
    allowed = {"fedmq": known(fedmq_app), "fedmq-aggregator": known(aggregator_app), "fedmq-agent": agent}
    used = [
        found
        for path in DOCS
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
        for found in re.findall(r"(?:^|/bin/|\s)(fedmq(?:-agent|-aggregator)?) ([a-z]+)", re.sub(r" #.*", "", block))
    ]
    assert used
    words = re.compile(r"fedmq\)? provision ([a-z]+)(?: ([a-z]+))?")
    provisioning = [found for path in DOCS for found in words.findall(path.read_text())]
    assert {first for first, _second in provisioning} == known(provision_app)
    assert {second for first, second in provisioning if first == "rotate"} == known(rotate_app)
    assert not {(program, command) for program, command in used if command not in allowed[program]}
    for command in allowed["fedmq-aggregator"]:
        assert f"fedmq-aggregator {command}" in OPERATIONS


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"there is no heading for {target}"


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings as GitHub makes them: repeated ones are numbered."""
    found: set[str] = set()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(anchor)
    return found


# -- SECURITY.md ---------------------------------------------------------------------------------------------------


def test_the_tests_that_the_threat_model_names_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 20
    for file, test in named:
        text = (ROOT / file).read_text()
        assert not test or f"def {test}(" in text, f"{file}::{test}"
