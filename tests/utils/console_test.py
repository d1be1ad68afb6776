"""What every tool does at its edges, in real processes with real pipes, signals and terminals."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from utils import console
from utils.console import ArgumentParser, StopRequest, interruptible
from utils.errors import UserError, printable

REPOSITORY = Path(console.__file__).resolve().parents[1]
START = "import sys, time\nfrom utils.console import *\nfrom utils.errors import UserError\n"


def command(body):
    """A tool whose `main` has this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return [sys.executable, "-c", f"{START}def main():\n{lines}\nrun_cli(main)"]


def environment(**variables):
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "COLUMNS")}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), **variables}


def run(body, **variables):
    return subprocess.run(command(body), capture_output=True, text=True, timeout=60, env=environment(**variables))


def test_users_mistake_is_one_line_with_the_name_as_it_is_and_status_2():
    name = "two  \u5199\tspaces.png"
    done = run(f"print('begun')\nraise UserError('cannot read ' + {name!r} + '\\nReplace it.')",
               PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (2, "begun\n", f"error: cannot read {name} Replace it.\n")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_file_name_can_be_printed(encoding):
    done = run(r"print('\u5199\u771f \udce9.png'); raise UserError('no \u5199 \udce9')", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout[-5:], done.stderr[:10]) == (2, ".png\n", "error: no ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "guess"), [
    (["--count", "x"], ""), (["--unknown"], ""), (["--coun", "1"], "--count?"), (["--cuont=3"], "--count?"),
    (["--count"], "")])
def test_wrong_command_line_raises_one_line_that_names_the_flag_and_one_that_resembles_it(arguments, guess):
    parser = ArgumentParser("A tool.")
    parser.add_argument("--count", type=int, default=3, help="how many")
    with pytest.raises(UserError, match=arguments[0]) as caught:
        parser.parse_args(arguments)
    assert "\n" not in str(caught.value)
    assert guess in str(caught.value)
    assert ("?" in str(caught.value)) == bool(guess)


def test_help_states_the_defaults(capsys):
    parser = ArgumentParser("A tool.")
    parser.add_argument("--count", default=3, help="how many")
    parser.add_argument("--fast", action="store_true", help="quickly")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "how many (default: 3)" in shown
    assert shown.count("default") == 1


@pytest.mark.parametrize("lines", [1, 100_000])
def test_reader_that_has_enough_ends_the_tool_silently(lines):
    process = subprocess.Popen(command(f"for index in range({lines}): print(index)"), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment())
    process.stdout.close()  # before anything is written
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), error) == (141, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("body", ["time.sleep(50)", "print('kept')\ninterruptible(time.sleep, 50)",
                                  "with Progress(3, description='photos'):\n    interruptible(time.sleep, 50)"])
def test_interruption_is_one_line_status_130_and_at_once(body, number):
    process = subprocess.Popen(command("print('ready', flush=True)\n" + body), stdout=subprocess.PIPE, bufsize=0,
                               stderr=subprocess.PIPE, env=environment())
    assert process.stdout.read(6) == b"ready\n"
    time.sleep(0.3)
    process.send_signal(number)
    started = time.monotonic()
    output, error = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert (process.returncode, output) == (130, b"kept\n" if "kept" in body else b"")
    assert error.splitlines()[-1].startswith(b"interrupted")
    assert b"Traceback" not in error


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
@pytest.mark.parametrize("at_once", [False, True])
def test_first_signal_asks_to_stop_unless_at_once_and_the_second_interrupts(capfd, first, second, at_once):
    before = [signal.getsignal(number) for number in (first, second)]
    with StopRequest() as stop:
        stop.at_once = at_once
        assert not stop.requested
        with pytest.raises(KeyboardInterrupt) if at_once else contextlib.nullcontext():
            signal.raise_signal(first)
        assert stop.requested
        assert len(capfd.readouterr().err.strip().splitlines()) == (0 if at_once else 1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert [signal.getsignal(number) for number in (first, second)] == before


def test_results_and_errors_of_the_thread_come_back():
    assert interruptible(lambda *args, **kwargs: (args, kwargs), 1, a=2) == ((1,), {"a": 2})
    assert interruptible(threading.get_ident) != threading.get_ident()
    with pytest.raises(SystemExit):
        interruptible(sys.exit, 3)


def test_a_note_is_one_line_and_printed_once():
    done = run("for text in ('left out of a\\nb', 'x', 'left out of a\\nb'):\n    note_once(text)")
    assert (done.stdout, done.stderr) == ("", "note: left out of a b\nnote: x\n")


def test_a_name_is_printable_and_short_in_a_message():
    assert printable("two\nlines \u5199.png") == "two\\nlines \u5199.png"
    assert len(printable("x" * 200 + ".png")) == 60


def test_without_a_terminal_progress_is_a_line_every_ten_seconds_with_rate_and_remaining_time(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with console.Progress(10, description="photos", unit="photo") as progress:
        for index in range(10):
            now[0] += 4
            progress.update(1, f"{index}.png")
            if index == 4:
                progress.write("a line")
        assert progress.n == 10
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert shown.endswith("\n")
    lines = shown.splitlines()
    counts = [re.search("[0-9]+/10|a line", line)[0] for line in lines]
    assert counts == ["0/10", "3/10", "a line", "6/10", "9/10", "10/10"]
    assert all(part in lines[1] for part in ("photos:  30%", "00:12<00:28", "4.00s/photo", "2.png"))


def test_on_a_terminal_a_bar_shows_notes_before_a_photo_is_finished(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with console.Progress(3, description="photos", unit="photo") as progress:
        time.sleep(0.12)
        progress.update(0, "a.png")
        progress.write("error: b.png: no")
    states = capsys.readouterr().err.split("\r")
    assert any("0/3" in state and "a.png" in state for state in states)
    assert "error: b.png: no\n" in states  # a line of its own
