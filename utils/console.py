"""What every command-line tool shares: exit statuses, one-line errors, interruption, progress."""

import argparse
import contextlib
import difflib
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NoReturn, TypeVar

from tqdm import tqdm

from utils.errors import FatalError, UserError

Result = TypeVar("Result")
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
LOG_INTERVAL = 10.0  # seconds between lines of progress when standard error is no terminal
LOG_FORMAT = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and exit the process.

    A UserError is printed as one line, status 2; Ctrl-C and SIGTERM have status 130, a closed pipe 141.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled batch job cleans up like Ctrl-C
    if sys.stdout:
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    try:
        status = main()
        print(end="", flush=True)
    except (UserError, FatalError) as error:
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
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # an executor would wait for it when the process ends
    return future.result()


class StopRequest:
    """A context in which the first Ctrl-C or SIGTERM sets `requested`; a second one, or `at_once`, interrupts."""

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


@functools.cache
def note_once(text: str) -> None:
    """Print a note on standard error, unless this process has printed the same one."""
    print(f"note: {' '.join(text.splitlines())}", file=sys.stderr)


def counted(count: int, noun: str) -> str:
    """Return `1 photo`, `2 photos`."""
    return f"{count} {noun}{'s' * (count != 1)}"


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
        """Raise a UserError for a wrong command line, with the flags that unknown ones resemble."""
        flags = [flag for flag in message.split() if flag.startswith("--") and "unrecognized" in message]
        close = [match for flag in flags
                 for match in difflib.get_close_matches(flag.split("=")[0], self._option_string_actions, n=1)]
        guess = f" Did you mean {' '.join(close)}?" if close else ""
        raise UserError(f"{message}.{guess} See {self.prog} --help.")


class _LineWriter(io.StringIO):
    """A file for tqdm that prints every state of a bar as a line on standard error."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)


class Progress(tqdm):
    """A bar on standard error, as a context manager; where that is no terminal, a line every 10 seconds."""

    def __init__(self, total: int, *, description: str, unit: str = "it", initial: int = 0, unit_scale: bool = False):
        output = {"dynamic_ncols": True} if sys.stderr.isatty() else {
            "file": _LineWriter(), "bar_format": LOG_FORMAT, "mininterval": LOG_INTERVAL}
        super().__init__(total=total, desc=description, unit=unit, initial=initial, unit_scale=unit_scale,
                         miniters=0,  # shows a note before the next step is finished
                         smoothing=0,  # such notes would distort a moving average
                         **output)

    def update(self, count: int = 1, note: str = "") -> None:
        """Advance by `count` and show `note` behind the figures."""
        if note:
            self.set_postfix_str(note, refresh=False)
        super().update(count)

    def write(self, line: str) -> None:
        """Print a whole line above the bar."""
        tqdm.write(line, file=sys.stderr)
