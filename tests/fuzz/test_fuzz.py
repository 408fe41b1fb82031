"""Every decoder, fed with damaged examples: it parses them, or refuses in the way its contract says."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import mutant
from tests.fuzz.targets import TARGETS, corpus_of, try_out

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_read_or_refused(name: str) -> None:
    examples = corpus_of(name)
    assert examples, "a target without examples is hardly tested"
    for payload in examples:
        try_out(name, payload)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_examples_are_read_or_refused(name: str) -> None:
    seeds = corpus_of(name)

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(chance=st.randoms(use_true_random=False), noise=st.binary(max_size=64))
    def feed(chance: random.Random, noise: bytes) -> None:
        for _ in range(8):
            try_out(name, mutant(seeds, chance))
        try_out(name, noise)

    feed()


def test_small_bombs_cost_neither_memory_nor_time() -> None:
    """In a process that may have little of both: 150 MB beyond what it starts with, and a minute of computing."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.bombing"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert child.returncode == 0, child.stderr[-3000:]
    assert child.stdout.split() == list(TARGETS)
