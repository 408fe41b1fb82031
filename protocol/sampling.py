"""Who takes part in a version, or answers a survey, decided by each device alone: no message, no list of members."""

import hashlib


def participates(device_id: str, epoch: str, version: int, fraction: float) -> bool:
    """Return whether the device takes part in this version when a share ``fraction`` (0 to 1) of the fleet should.

    The draw is uniform and independent between versions: the first 8 bytes of SHA-256 over
    ``epoch/version/device_id``, as a fraction of 2**64.
    """
    return _drawn(f"{epoch}/{version}/{device_id}", fraction)


def is_asked(device_id: str, survey: str, fraction: float) -> bool:
    """Return whether the device is to answer this survey when a share ``fraction`` of the fleet should.

    The draw is as above, over ``survey/<survey id>/device_id``.
    """
    return _drawn(f"survey/{survey}/{device_id}", fraction)


def _drawn(name: str, fraction: float) -> bool:
    draw = hashlib.sha256(name.encode()).digest()[:8]
    return int.from_bytes(draw, "big") < fraction * 2.0**64
