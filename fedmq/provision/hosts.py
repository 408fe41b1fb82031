"""Names and addresses of hosts. Pure, and without cryptography: the command line looks at them before anything else."""

from __future__ import annotations

import ipaddress

MAX_LABEL = 63
MAX_HOST = 253
"""Characters, by RFC 1035."""


def is_address(host: str) -> bool:
    """Return whether this is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_host(host: str) -> bool:
    """Return whether this is an IP address or a host name: an underscore is taken, a wildcard is not."""
    if is_address(host):
        return True
    labels = host.split(".")
    # All digits in the last label: a mistyped address, as 10.0.0.256, and no name.
    return len(host) <= MAX_HOST and not labels[-1].isdigit() and all(_is_label(label) for label in labels)


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").replace("_", "")
    return 0 < len(label) <= MAX_LABEL and label.strip("-") == label and plain.isascii() and plain.isalnum()
