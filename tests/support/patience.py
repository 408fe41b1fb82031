"""How long tests wait for what has to happen. Nothing is judged by it: where all is well, nobody waits for so long."""

PATIENCE_S = 100.0
"""A machine may be slow, and busy with something else: this is for what would never happen."""
