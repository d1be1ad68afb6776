"""What every command-line tool shares: one-line errors and notes, exit statuses, progress bars."""

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from tqdm import tqdm

from utils.errors import UserError

Result = TypeVar("Result")
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
PLAIN_INTERVAL = 10.0  # seconds between progress lines when the output is not a terminal
_noted: set[str] = set()


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and leave the process with its status.

    A UserError becomes one line on standard error and status 2, Ctrl-C or SIGTERM one line and status 130, a closed
    pipe status 141; any other exception is a bug of ours and keeps its traceback.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled batch job cleans up as Ctrl-C does
    _open_closed_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)  # spaces in file names stay
        status = EXIT_USER_ERROR
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        print("interrupted: what was finished stays", file=sys.stderr)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)  # a computation may still run in its thread; nobody waits for it
    sys.exit(status or 0)


def _open_closed_streams() -> None:
    """Let streams that were closed (`>&- 2>&-`) lead nowhere: the next file that is opened would take their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115


def interruptible(function: Callable[..., Result], *args, **kwargs) -> Result:
    """Call a function in a thread of its own, so that Ctrl-C is answered at once.

    Python sees a signal only between bytecodes of the main thread; a convolution over a large photo keeps it waiting
    for minutes. Only for pure computations: on Ctrl-C the call is abandoned, not undone.
    """
    outcome: dict = {}

    def run() -> None:
        try:
            outcome["result"] = function(*args, **kwargs)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request to stop at the next good moment; a second one interrupts.

    Use as a context manager around the work, which looks at `requested`. While `at_once` is set there is nothing to
    finish, and the first one interrupts too.
    """

    def __init__(self):
        self.requested, self.at_once = False, False
        self._handlers: dict = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._request)
        return self

    def _request(self, *_) -> None:
        if self.requested or self.at_once:
            self.requested = True
            raise KeyboardInterrupt
        self.requested = True
        # a signal may come while something else is printed; print itself would then fail
        os.write(2, b"\nstopping after this iteration; once more interrupts it\n")

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def note_once(text: str) -> None:
    """Print a note on standard error, unless this process has printed the same one."""
    if text not in _noted:
        _noted.add(text)
        print(f"note: {' '.join(text.splitlines())}", file=sys.stderr)


def shown_name(path: Path) -> str:
    """Give a file's name fit for a line of output: control characters escaped, at most 60 characters."""
    name = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path.name)
    return name if len(name) <= 60 else f"{name[:40]}...{name[-17:]}"


class _HelpFormatter(argparse.HelpFormatter):
    """States defaults, but not that a flag is unset by default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        unset = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        return action.help if unset else f"{action.help} (default: %(default)s)"


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and whose help states the defaults."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Report a wrong command line."""
        raise UserError(f"{message}. See {self.prog} --help.")


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
        # some terminals say that they have 0 columns and lines; tqdm would show nothing there
        sizeless = self._terminal and 0 in os.get_terminal_size(sys.stderr.fileno())
        size = {"ncols": 80, "nrows": 24} if sizeless else {"dynamic_ncols": True}
        self._bar = _Bar(total=total, desc=description, unit=unit, unit_scale=unit_scale, initial=initial,
                         unit_divisor=1024 if unit_scale else 1000, disable=None if self._terminal else False,
                         file=sys.stderr if self._terminal else _Nowhere(),
                         miniters=0,  # or a note without progress would wait for the next step
                         smoothing=0,  # such notes would upset a moving average
                         **size)

    @property
    def count(self) -> int:
        """How far it has come."""
        return self._bar.n

    def update(self, count: int = 1, note: str = "") -> None:
        """Advance by `count` and show `note` behind the figures."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        finished = count and self._bar.n == self._bar.total
        if not self._terminal and (now - self._last_line >= PLAIN_INTERVAL or finished):
            self._last_line = now
            self.write(str(self._bar))

    def write(self, line: str) -> None:
        """Print a whole line without tearing the bar."""
        tqdm.write(line, file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()


class _Bar(tqdm):
    """A bar whose rate and remaining time do not follow the system's clock, which may be set while it runs."""

    @property
    def _time(self) -> Callable[[], float]:
        return time.monotonic

    @_time.setter
    def _time(self, _: Callable[[], float]) -> None:
        """Keep the clock above: tqdm would set the system's."""


class _Nowhere:
    """A text stream that swallows what it gets."""

    def write(self, _: str) -> None:
        """Swallow a text."""

    def flush(self) -> None:
        """Nothing to flush."""
