"""What every command-line tool shares: one-line errors, exit statuses, progress bars."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from utils.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
PLAIN_INTERVAL = 10.0  # seconds between progress lines when the output is not a terminal


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and leave the process with its status.

    A UserError becomes one line on standard error and status 2, Ctrl-C one line and status 130; any other exception is
    a bug of ours and keeps its traceback.
    """
    try:
        status = main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = EXIT_INTERRUPTED
    sys.exit(status or 0)


class Progress:
    """A progress bar with rate and remaining time on a terminal, plain lines at intervals otherwise.

    Use as a context manager; `update(n)` advances it. `total` may be None when it is unknown. With `unit_scale` counts
    are printed with binary prefixes, as for bytes.
    """

    def __init__(self, total: int | None, *, description: str, unit: str = "it", unit_scale: bool = False,
                 initial: int = 0):
        self._terminal = sys.stderr.isatty()
        self._last_line = time.monotonic()
        # mininterval keeps tqdm's arithmetic for the plain lines; the bar itself is shown on terminals alone
        self._bar = tqdm(total=total, desc=description, unit=unit, unit_scale=unit_scale, initial=initial,
                         unit_divisor=1024 if unit_scale else 1000, disable=None if self._terminal else False,
                         file=sys.stderr if self._terminal else _Nowhere(), dynamic_ncols=True)

    def update(self, count: int = 1, note: str = "") -> None:
        """Advance by `count` and show `note` behind the figures."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        if not self._terminal and (now - self._last_line >= PLAIN_INTERVAL or self._bar.n == self._bar.total):
            self._last_line = now
            self.write(str(self._bar))

    def write(self, line: str) -> None:
        """Print a whole line without tearing the bar."""
        tqdm.write(line, file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()


class _Nowhere:
    """A text stream that swallows what it gets."""

    def write(self, _: str) -> None:
        """Swallow a text."""

    def flush(self) -> None:
        """Nothing to flush."""
