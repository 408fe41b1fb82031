"""The one exception that bytes from outside can raise."""


class ProtocolError(ValueError):
    """A payload, topic or identifier that breaks the protocol; the message names the fault."""
