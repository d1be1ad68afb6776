"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A user's mistake or a fault of the user's files: the command-line tools print it as one line and exit with 2.

    The message is one line. It states what was wrong, which file, and what to do about it.
    """


class FatalError(UserError):
    """It makes no sense to go on to the next file."""


class NotFiniteError(UserError):
    """Training came to a value that is infinite or NaN."""


class DiskFullError(FatalError):
    """There is no room left."""


def require(holds: bool, rule: str, received: object) -> None:
    """Raise a UserError that states a rule, and what was received instead, unless the rule holds."""
    if not holds:
        raise UserError(f"{rule}. Received: {received}.")


def printable(text: str) -> str:
    """Text from a file as one short line without control characters, fit for a message."""
    return text[:80].encode("unicode_escape").decode("ascii")
