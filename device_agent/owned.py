"""What a device keeps of a model for itself: whose it is, and which of two states holds. No NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from device_agent.settings import MAX_MODEL_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_OWNED_BYTES = 5 * MAX_MODEL_BYTES + 64 * 1024
"""Private parameters and a model of the device's own, each before and after a training; a fine-tuned model; and the
head."""

BEFORE, AFTER = "before.", "after."


class Owned(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The head of the file. Its vectors come in pairs, as they were before the last training and after it.

    They are written before the update of that training is in the outbox. Should it never get there, the training is
    done again, under the same name, and has to begin where it did.
    """

    federation: str
    layout: str
    """Digest of the model's layout."""
    private: str
    """Digest of the layout of what is private."""
    incarnation: str
    sequence: int
    """Of the update that came of the last training."""
    tuned: str = ""
    """Digest of the version's parameters of which ``after.tuned`` was made."""
    arrays: dict[str, int]
    """Number of float32 of each vector: ``before.private``, ``after.private``, two ``local``, ``after.tuned``."""

    def why_not(self, federation: str, layout: str, private: str) -> str:
        """Return why it is of no use for this federation and model; empty when it is."""
        if self.federation != federation:
            return f"it is of federation {self.federation}"
        if self.layout != layout:
            return "it is of a model of another shape"
        return "" if self.private == private else "the federation leaves other parameters to its devices now"

    def holds(self, name: tuple[str, int] | None) -> str:
        """Return which state holds for the training of this incarnation and sequence: ``before.`` or ``after.``.

        None: for a prediction.
        """
        undone = name is not None and name[0] == self.incarnation and name[1] <= self.sequence
        return BEFORE if undone else AFTER


def of_state(vectors: Mapping[str, bytes], state: str) -> dict[str, bytes]:
    """Return the vectors of one of the states, by the names that both have."""
    return {name.removeprefix(state): data for name, data in vectors.items() if name.startswith(state)}
