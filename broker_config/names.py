"""Common names of those who are no device. No device id has a colon, so none can be taken for one."""

from protocol.errors import ProtocolError
from protocol.identifiers import check_identifier

AGGREGATOR = "role:aggregator"
MAX_COMMON_NAME = 64
"""Characters, by RFC 5280."""


class NameRefusedError(ValueError):
    """A federation, monitor or bridge is called something that cannot be written into the configuration."""


def monitor(name: str) -> str:
    """Return the common name of a monitor's certificate; raise ``NameRefusedError`` for a name that is none."""
    return _role("monitor", name)


def bridge(name: str) -> str:
    """Return the common name of a bridge's certificate; raise ``NameRefusedError`` for a name that is none."""
    return _role("bridge", name)


def _role(role: str, name: str) -> str:
    common_name = f"role:{role}:{checked(name, role)}"
    if len(common_name) > MAX_COMMON_NAME:
        longest = MAX_COMMON_NAME - len(f"role:{role}:")
        raise NameRefusedError(f"{role} {name!r} is too long: at most {longest} characters fit into a certificate")
    return common_name


def checked(name: str, what: str) -> str:
    """Return the name when it is an identifier of the protocol, else raise ``NameRefusedError``."""
    try:
        return check_identifier(name, what)
    except ProtocolError as exc:
        raise NameRefusedError(str(exc)) from exc
