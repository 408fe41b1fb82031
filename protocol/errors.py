"""The one exception that bytes from outside can raise."""

from protocol.printable import printable


class ProtocolError(ValueError):
    """A payload, topic or identifier that breaks the protocol; the message names the fault.

    The message may quote what came from outside, and goes into logs and onto terminals: nothing in it can steer those.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))
