"""Cards of a federation of real processes: what they say is what the databases say, running and stopped."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from fedmq.embedded_broker import EmbeddedBroker
from tests.integration.test_surveys import DEVICES, MODEL, all_have_answered, operator
from tests.support.federation import Federation, wait_until


def text_of(federation: Federation, *words: str) -> str:
    config = str(federation.directory / "aggregator.toml")
    command = [sys.executable, "-m", "aggregator", "card", *words, "--config", config]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluated_version(federation: Federation, survey: str) -> int:
    rows = federation.query("SELECT survey, version FROM answers")
    return max(int(version) for found, version in rows if found == survey)


def lies_beside(folder: Path) -> bool:
    """Whether every card in the folder names the hash of the file beside it, and there is one."""
    cards = list(folder.glob("*.card.json"))
    for path in cards:
        file = path.with_name(path.name.replace(".card.json", ".tflite"))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest in {export["sha256"] for export in json.loads(path.read_text())["exports"]}
    return bool(cards)


def check_against_the_store(federation: Federation, card: dict[str, Any]) -> None:
    """The figures of a card are those of the tables, by other means."""
    number = card["version"]
    ((digest,),) = [row[1:] for row in federation.query("SELECT version, digest FROM versions") if row[0] == number]
    lineage = federation.query(
        "SELECT version, device, num_examples, weight FROM lineage JOIN aggregations ON aggregation = id"
    )
    rows = [row[1:] for row in lineage if row[0] == number]
    assert card["hashes"]["parameters"] == digest
    made = card["lineage"]["made_of"]
    assert made["updates"] == len(rows)
    assert made["devices"] == len({row[0] for row in rows})
    assert made["examples"] == sum(row[1] for row in rows)
    assert abs(made["weight"] - sum(row[2] for row in rows)) < 1e-6 * made["weight"]
    assert sum(made["staleness"].values()) == len(rows)
    assert abs(sum(share["weight_share"] for share in made["heaviest"]) - 1.0) < 1e-9


def check_what_devices_say(federation: Federation, card: dict[str, Any], statistics: str, evaluation: str) -> None:
    (asked,) = card["measured"]["surveys"]
    assert asked["survey"] == evaluation
    rows = federation.query("SELECT survey, version, figures FROM answers")
    told = [json.loads(row[2])["accuracy"] for row in rows if row[:2] == (evaluation, card["version"])]
    accuracy = next(figure for figure in asked["figures"] if figure["measure"] == "accuracy")
    assert (accuracy["devices"], accuracy["worst"], accuracy["best"]) == (len(told), min(told), max(told))
    assert card["data"]["survey"] == statistics
    assert card["data"]["with_examples"] == DEVICES
    assert sum(card["data"]["classes"]) == card["data"]["examples"]
    assert len(card["data"]["features"]) == MODEL["inputs"]


def test_the_card_of_a_version_says_what_is_known_of_it(broker: EmbeddedBroker, tmp_path: Path) -> None:
    # However many versions there are before a device answers.
    more = '[registry]\nexport_tflite = "models"\nkeep_exports = 100000\nkeep_parameters = 100000\n'
    with Federation(tmp_path, broker.port, model=MODEL, more=more) as federation:
        federation.start_aggregator()
        for number in range(DEVICES):
            federation.start_agent(number)
        federation.wait_for_version(1)
        first = operator(federation, "card", "1")
        assert "`fedmq-aggregator survey statistics`" in first["missing"]["data"]
        surveys = [operator(federation, "survey", kind)["survey"] for kind in ("statistics", "evaluation")]
        for survey in surveys:
            wait_until(partial(all_have_answered, federation, survey), f"answers to {survey}")
        version = evaluated_version(federation, surveys[1])
        federation.wait_for_version(version + 1)
        to = tmp_path / "found.tflite"
        done = operator(federation, "export", str(version), "--to", str(to))
        running = operator(federation, "card", str(version))
        check_what_devices_say(federation, running, *surveys)
        wait_until(partial(lies_beside, tmp_path / "models"), "a card beside a file")
        federation.stop_all()

        card = operator(federation, "card", str(version))
        check_against_the_store(federation, card)
        check_what_devices_say(federation, card, *surveys)
        assert done["sha256"] == hashlib.sha256(to.read_bytes()).hexdigest()
        assert done["sha256"] in {export["sha256"] for export in card["exports"]}
        moved = to.rename(tmp_path / "on-a-device.bin")
        traced = operator(federation, "card", "--of", str(moved))
        assert traced["version"] == version
        assert {name: part for name, part in traced.items() if name != "traced"} == card
        cached = operator(federation, "card", "--of", str(tmp_path / "device-0-state" / "cache" / "model"))
        assert cached["version"] <= federation.version()

        text = text_of(federation, str(version))
        for heading in ("Made of", "Measured", "Data", "Model and training", "Privacy", "Size", "SHA-256"):
            assert f"\n## {heading}\n" in text
        assert done["sha256"] in text
