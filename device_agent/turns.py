"""How often this device trains one version: the one place that decides it.

The announcement says how many updates of a version a device may make; it grows for everybody with each version that was
withheld, and each candidate that was withdrawn. An update of ours that was rejected for what was in it gives *us* that
turn back: after a wait that grows, and ``MAX_TRIES`` times under one announcement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    import random

    from device_agent.records import Trained
    from protocol.messages import Manifest, Receipt

WORTH_ANOTHER = frozenset({"norm", "not-finite", "cannot-open", "unsealed"})
"""Reasons to reject an update that another training may not meet: other batches and other samples lead elsewhere, and a
key that changed on the way is known by now. All other reasons stay: who sends another model, too many examples, or
something that nobody can read, will send it again."""

MAX_TRIES = 5
"""Far fewer than bring a device into quarantine (20): that takes more than one version."""

FIRST_REST_S = 60.0
MAX_REST_S = 3600.0


def is_open(manifest: Manifest, trained: Trained) -> bool:
    """Return whether one more update of the announced version is to be made; ``trained`` is of that version."""
    if trained.count - trained.rejected >= manifest.participation.contributions_per_version:
        return False
    return not is_exhausted(manifest, trained)


def is_exhausted(manifest: Manifest, trained: Trained) -> bool:
    """Return whether what there is to try was tried under this announcement."""
    return trained.tries >= MAX_TRIES and not is_newer(manifest, trained)


def is_newer(manifest: Manifest, trained: Trained) -> bool:
    """Return whether this is another version, or announced later than what the tries were counted under.

    After a start, what is held is announced as it was when it was fetched; that is older.
    """
    same = (manifest.epoch, manifest.version) == (trained.epoch, trained.version)
    return not same or manifest.issued > trained.issued


def is_worth_another(reason: str) -> bool:
    """Return whether the reason of a receipt (``code: words``) may not hold for another training."""
    return reason.partition(":")[0] in WORTH_ANOTHER


def after(trained: Trained, manifest: Manifest, receipt: Receipt) -> Trained:
    """Return the marker after the final receipt for an update of the announced version; tries are those in a row."""
    if receipt.status != "rejected":
        return replace(trained, why="", tries=0)
    why = receipt.reason or "without a reason"
    return given_back(trained, manifest, why) if is_worth_another(receipt.reason) else replace(trained, why=why)


def given_back(trained: Trained, manifest: Manifest, why: str) -> Trained:
    """Return the marker after an update came to nothing.

    A new announcement of the version begins to count tries anew: whoever starts the aggregator with other settings
    announces anew, and devices need not be told besides.
    """
    tries = 1 if is_newer(manifest, trained) else trained.tries + 1
    issued = max(manifest.issued, trained.issued)
    return replace(trained, rejected=min(trained.rejected + 1, trained.count), tries=tries, issued=issued, why=why)


def trouble(manifest: Manifest, trained: Trained) -> str:
    """Return what is wrong with the updates of this version, and what comes next, for people; empty when nothing is."""
    if not trained.why:
        return ""
    if is_open(manifest, trained):
        return f"update rejected: {trained.why}; trains again in a while"
    if is_exhausted(manifest, trained):
        return f"{trained.tries} updates rejected: {trained.why}; waits for a new version or announcement"
    return f"update rejected: {trained.why}; waits for a new version"


def rest_s(tries: int, rng: random.Random) -> float:
    """Return how long to wait before another try: doubled each time, at least half of that, the rest by chance."""
    ceiling = min(FIRST_REST_S * 2.0 ** min(tries - 1, 16), MAX_REST_S)
    return ceiling * (0.5 + 0.5 * rng.random())
