"""Exceptions for what users can fix, and helpers for their messages."""


class UserError(ValueError):
    """A user's mistake or a fault in the user's files: tools print it as one line and exit with status 2."""


class FatalError(RuntimeError):
    """A user's error by which every file of a folder would fail: handlers of a single file's errors let it pass."""


class NotFiniteError(UserError):
    """A value in training became infinite or NaN."""


class DiskFullError(FatalError):
    """The disk or the quota is full."""


def require(holds: object, rule: str, received: object) -> None:
    """Raise a UserError with the rule and the received value unless the rule holds."""
    if not holds:
        raise UserError(f"{rule}. Received: {received}.")


def printable(text: str) -> str:
    """Return a file's name, or text from a file, for a message: at most 60 characters, control characters escaped."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-17:]}"
