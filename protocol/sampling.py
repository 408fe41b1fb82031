"""Who takes part in a version, decided by each device alone: no message, no list of members."""

import hashlib


def participates(device_id: str, epoch: str, version: int, fraction: float) -> bool:
    """Return whether the device takes part in this version when a share ``fraction`` (0 to 1) of the fleet should.

    The draw is uniform and independent between versions: the first 8 bytes of SHA-256 over
    ``epoch/version/device_id``, as a fraction of 2**64.
    """
    draw = hashlib.sha256(f"{epoch}/{version}/{device_id}".encode()).digest()[:8]
    return int.from_bytes(draw, "big") < fraction * 2.0**64
