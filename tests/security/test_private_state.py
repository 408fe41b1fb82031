"""What both programs keep is nobody else's, also in a folder that others can look into."""

from __future__ import annotations

import stat
from pathlib import Path

from fedmq.embedded_broker import EmbeddedBroker
from tests.support.federation import Federation

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def test_no_file_of_a_running_federation_can_be_read_by_others(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """The aggregator's store holds updates that came sealed, a device's what its data led to."""
    with Federation(tmp_path, broker.port, goal=1) as federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.wait_for_version(2)
        databases = list(tmp_path.rglob("*.sqlite"))
        assert {path.name for path in databases} == {"aggregator.sqlite", "agent.sqlite"}
        kept = [path for database in databases for path in database.parent.rglob("*") if not path.is_dir()]
        assert len(kept) > len(databases)
        assert [path for path in kept if path.lstat().st_mode & OTHERS] == []
        federation.stop_all()
