"""What every command-line tool shares: exit statuses, one-line errors, interruption, progress."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from tqdm import tqdm

from utils.errors import UserError

Result = TypeVar("Result")
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
LOG_INTERVAL = 10.0  # seconds between progress lines when standard error is not a terminal
_printed_notes: set[str] = set()


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and exit the process.

    A UserError is printed as one line, status 2; Ctrl-C and SIGTERM have status 130, a closed pipe 141. Any other
    exception is a bug and keeps its traceback.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled batch job cleans up like Ctrl-C
    if sys.stdout:
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    try:
        status = main()
        print(end="", flush=True)
    except UserError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        status = EXIT_USER_ERROR
    except BrokenPipeError:  # the reader, as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        print("interrupted: finished results are kept", file=sys.stderr, flush=True)
        with contextlib.suppress(BrokenPipeError):
            print(end="", flush=True)
        os._exit(EXIT_INTERRUPTED)  # does not wait for a computation in its thread
    sys.exit(status or 0)


def interruptible(function: Callable[..., Result], *args, **kwargs) -> Result:
    """Call a pure function in a thread, so that Ctrl-C is answered at once; it then abandons the call.

    Python handles signals between bytecodes of the main thread only, and a convolution may take minutes.
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
    """A context manager in which the first Ctrl-C or SIGTERM sets `requested`, and a second one interrupts.

    While `at_once` is set, the first one interrupts too.
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
        os.write(2, b"\nstopping after this iteration; press again to interrupt it\n")  # print is not reentrant

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def note_once(text: str) -> None:
    """Print a note on standard error, unless this process has printed the same one."""
    if text not in _printed_notes:
        _printed_notes.add(text)
        print(f"note: {' '.join(text.splitlines())}", file=sys.stderr)


def shown_name(path: Path) -> str:
    """Return a file's name for a line of output: control characters escaped, at most 60 characters."""
    name = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path.name)
    return name if len(name) <= 60 else f"{name[:40]}...{name[-17:]}"


class _HelpFormatter(argparse.HelpFormatter):
    """States the default of every flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        unset = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        return action.help if unset else f"{action.help} (default: %(default)s)"


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and whose help states the defaults."""

    def __init__(self, description: str, **options):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError for a wrong command line."""
        raise UserError(f"{message}. See {self.prog} --help.")


class Progress:
    """A tqdm bar on standard error, as a context manager; where that is no terminal, it is printed every 10 seconds."""

    def __init__(self, total: int | None, *, description: str, unit: str = "it", unit_scale: bool = False,
                 initial: int = 0):
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=description, unit=unit, unit_scale=unit_scale, initial=initial,
                         unit_divisor=1024 if unit_scale else 1000, dynamic_ncols=True,
                         mininterval=0.1 if terminal else LOG_INTERVAL,
                         miniters=0,  # shows a note before the next step is finished
                         smoothing=0)  # such notes would distort a moving average

    @property
    def count(self) -> int:
        """Finished steps."""
        return self._bar.n

    def update(self, count: int = 1, note: str = "") -> None:
        """Advance by `count` and show `note` behind the figures."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)

    def write(self, line: str) -> None:
        """Print a whole line above the bar."""
        tqdm.write(line, file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
