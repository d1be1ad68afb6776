"""What every tool does at its edges, in real processes with real pipes, signals and terminals."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from utils import console
from utils.console import ArgumentParser, StopRequest, interruptible
from utils.errors import UserError

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


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("return 0", 0), ("return 2", 2), ("return None", 0)])
def test_status_is_what_main_returns(body, status):
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_users_mistake_is_one_line_and_status_2():
    done = run("print('begun')\nraise UserError('cannot read a.png: no.\\nReplace it.')")
    assert (done.returncode, done.stdout) == (2, "begun\n")
    assert done.stderr == "error: cannot read a.png: no. Replace it.\n"


@pytest.mark.parametrize("name", ["two  spaces.png", "写真\u3000一.png", "no\u00a0break.png", "tab\tbed.png"])
def test_error_names_the_file_as_it_is_called(name):
    done = run(f"raise UserError('cannot read ' + {name!r})", PYTHONIOENCODING="utf-8")
    assert done.stderr == f"error: cannot read {name}\n"


def test_bug_keeps_its_traceback():
    done = run("raise ValueError('a bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug" in done.stderr


@pytest.mark.parametrize(("call", "message"), [
    ("parse_args(['--count', 'x'])", "argument --count: invalid int value: 'x'. See tool --help."),
    ("parse_args(['--unknown'])", "unrecognized arguments: --unknown. See tool --help."),
    ("parse_args(['--coun', '1'])", "unrecognized arguments: --coun 1. See tool --help."),
    ("parse_args(['--count'])", "argument --count: expected one argument. See tool --help.")])
def test_wrong_command_line_is_one_line_and_status_2(call, message):
    done = run("parser = ArgumentParser('A tool.')\nparser.prog = 'tool'\n"
               f"parser.add_argument('--count', type=int, default=3, help='how many')\nparser.{call}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {message}\n"


def test_help_states_the_defaults():
    done = run("parser = ArgumentParser('A tool.')\nparser.add_argument('--count', default=3, help='how many')\n"
               "parser.parse_args(['--help'])")
    assert (done.returncode, done.stderr) == (0, "")
    assert "A tool." in done.stdout
    assert "how many (default: 3)" in done.stdout


def test_parser_raises_what_the_tools_catch():
    with pytest.raises(UserError, match="unrecognized arguments"):
        ArgumentParser("A tool.").parse_args(["--unknown"])


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 100_000])
def test_reader_that_has_enough_ends_the_tool_silently(lines, unbuffered):
    process = subprocess.Popen(command(f"for index in range({lines}): print(index)\nreturn 0"), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment(PYTHONUNBUFFERED=unbuffered))
    process.stdout.close()  # before anything is written
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert error == b""


def test_closed_output_is_no_error():
    done = subprocess.run(["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command("print('unheard')")], capture_output=True,
                          timeout=60, env=environment())
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_with_closed_streams_a_tool_works_and_no_file_of_its_takes_their_place(tmp_path, closed):
    body = f"""
import pathlib, sys, tempfile
from utils.console import Progress
from utils.tensorflow_setup import start_tensorflow
start_tensorflow("-1")
with pathlib.Path({str(tmp_path / 'file')!r}).open("w") as file, Progress(2, description="d") as progress:
    progress.update(2, "note")
    progress.write("a line")
    print("out")
    print("error", file=sys.stderr, flush=True)
    print("kept", file=file)
"""
    done = subprocess.run(["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *command(body)], capture_output=True,
                          timeout=120, env=environment())
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "kept\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_file_name_can_be_printed(encoding):
    done = run(r"print('\u5199\u771f \udce9.png'); raise UserError('no \u5199 \udce9')", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert done.stdout.endswith(".png\n")
    assert done.stderr.startswith("error: no ")
    assert "Traceback" not in done.stderr


def interrupt(body):
    """Run a tool until it says so, send SIGINT; give (status, stdout, stderr, seconds it took to end)."""
    process = subprocess.Popen(command("print('ready', flush=True)\n" + body), stdout=subprocess.PIPE, bufsize=0,
                               stderr=subprocess.PIPE, env=environment())
    assert process.stdout.read(6) == b"ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    output, error = process.communicate(timeout=60)
    return process.returncode, output.decode(), error.decode(), time.monotonic() - started


@pytest.mark.parametrize("body", ["time.sleep(50)", "interruptible(time.sleep, 50)",
                                  "print('kept')\ninterruptible(lambda: [time.sleep(50), time.sleep(50)])"])
def test_interruption_is_one_line_status_130_and_at_once(body):
    status, output, error, seconds = interrupt(body)
    assert (status, error.count("\n")) == (130, 1)
    assert error.startswith("interrupted")
    assert output == ("kept\n" if "kept" in body else "")
    assert seconds < 10


def test_interruption_during_a_computation_outside_of_python_is_answered():
    body = ("import numpy as np\n"
            "def compute():\n    big = np.zeros((3000, 3000))\n    for _ in range(200): big = big @ big\n"
            "interruptible(compute)")
    status, _, error, seconds = interrupt(body)
    assert (status, error.count("\n")) == (130, 1)
    assert seconds < 10


def test_interruption_closes_the_progress_bar_first():
    _, _, error, _ = interrupt("with Progress(3, description='photos') as progress:\n    progress.update()\n"
                               "    interruptible(time.sleep, 50)")
    assert error.splitlines()[-1].startswith("interrupted")


@pytest.fixture
def handlers():
    """Handlers of our own, whatever the test leaves behind."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    own = [lambda *_: None for _ in signals]
    for number, handler in zip(signals, own, strict=True):
        signal.signal(number, handler)
    yield own
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_to_stop_and_the_second_interrupts(handlers, capfd, first, second):
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(first)
        assert stop.requested
        assert capfd.readouterr().err == "\nstopping after this iteration; once more interrupts it\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert capfd.readouterr().err == ""


def test_a_signal_interrupts_at_once_when_there_is_nothing_to_finish(handlers, capfd):
    with StopRequest() as stop:
        stop.at_once = True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, UserError])
def test_handlers_are_put_back_however_the_work_ends(handlers, error):
    with pytest.raises(error) if error else contextlib.nullcontext(), StopRequest():
        assert signal.getsignal(signal.SIGINT) not in handlers
        if error:
            raise error
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


def test_what_the_thread_gives_comes_back():
    assert interruptible(divmod, 17, 5) == (3, 2)
    assert interruptible(lambda *args, **kwargs: (args, kwargs), 1, a=2) == ((1,), {"a": 2})
    assert interruptible(lambda: None) is None
    assert interruptible(threading.get_ident) != threading.get_ident()


def test_what_the_thread_raises_comes_back():
    error = UserError("no")

    def fail():
        raise error

    with pytest.raises(UserError) as caught:
        interruptible(fail)
    assert caught.value is error
    assert any(entry.name == "fail" for entry in caught.traceback)  # where it was raised stays known
    with pytest.raises(SystemExit):
        interruptible(sys.exit, 3)


def test_a_note_is_one_line_and_comes_once():
    done = run("for text in ('left out of a\\nb', 'x', 'left out of a\\nb'):\n    note_once(text)")
    assert (done.stdout, done.stderr) == ("", "note: left out of a b\nnote: x\n")


def test_without_a_terminal_progress_is_plain_lines():
    done = run("with Progress(3, description='photos', unit='photo') as progress:\n"
               "    for index in range(3):\n"
               "        progress.update(0, f'{index}.png')\n"
               "        progress.update()\n"
               "    progress.write('a line')")
    line, written = done.stderr.splitlines()
    assert "\r" not in done.stderr
    assert line.startswith("photos: 100%")
    assert "3/3" in line
    assert "2.png" in line
    assert written == "a line"


def test_without_a_terminal_lines_come_at_intervals(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Progress(100, description="photos") as progress:
        for _ in range(35):
            now[0] += 1
            progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("/100")[0].split()[-1] for line in lines] == ["10", "20", "30"]


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_rate_and_remaining_time_do_not_follow_the_wall_clock(monkeypatch, capsys, jump):
    now, wall = [0.0], [1.7e9]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    for module in ("time", "tqdm.std"):
        monkeypatch.setattr(f"{module}.time", lambda: wall[0])
    with console.Progress(60, description="photos") as progress:
        for _ in range(30):
            now[0] += 2
            wall[0] += 2 + jump
            progress.update()
    assert [line.split("| ")[1] for line in capsys.readouterr().err.splitlines()] == [
        f"{count}/60 [{spent}<{left},  2.00s/it]" for count, spent, left in (
            (5, "00:10", "01:50"), (10, "00:20", "01:40"), (15, "00:30", "01:30"), (20, "00:40", "01:20"),
            (25, "00:50", "01:10"), (30, "01:00", "01:00"))]


def test_without_a_terminal_an_unknown_total_is_counted(monkeypatch, capsys):
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    with console.Progress(None, description="bytes", unit="B", unit_scale=True, initial=1024) as progress:
        progress.update(2048)
    [line] = capsys.readouterr().err.splitlines()
    assert "3.00k" in line


def on_terminal(body):
    """Run a tool on a terminal of 100 columns; give what it shows."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(command(body), stdin=slave, stdout=slave, stderr=slave, env=environment())
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(master)
    assert process.wait(60) == 0
    return shown.decode()


def test_on_a_terminal_progress_is_a_bar_on_one_line():
    shown = on_terminal("with Progress(4, description='photos', unit='photo') as progress:\n"
                        "    for index in range(4):\n"
                        "        time.sleep(0.15)\n"
                        "        progress.update()")
    assert shown.count("\n") == 1  # at the end
    states = shown.split("\r")
    assert any("25%" in state and "1/4" in state for state in states)
    assert any("100%" in state and "4/4" in state for state in states)
    assert max(map(len, states)) <= 100


def test_on_a_terminal_the_bar_goes_on_when_the_wall_clock_jumps_back():
    shown = on_terminal("import tqdm.std\n"
                        "time.time = tqdm.std.time = lambda: 1.7e9 - 86400 * time.monotonic()\n"
                        "with Progress(4, description='photos', unit='photo') as progress:\n"
                        "    for index in range(4):\n"
                        "        time.sleep(0.15)\n"
                        "        progress.update()")
    states = shown.split("\r")
    for count in (1, 2, 3, 4):
        assert any(f"{count}/4 [00:00<00:00" in state for state in states), states


def test_on_a_terminal_notes_show_before_the_photo_is_finished():
    shown = on_terminal("with Progress(3, description='photos', unit='photo') as progress:\n"
                        "    for index in range(3):\n"
                        "        for tile in range(2):\n"
                        "            time.sleep(0.12)\n"
                        "            progress.update(0, f'photo {index} tile {tile}')\n"
                        "        time.sleep(0.12)\n"
                        "        progress.update()")
    states = shown.split("\r")
    for index in range(3):
        for tile in range(2):
            assert any(f"photo {index} tile {tile}" in state and f"{index}/3" in state for state in states), states


def test_on_a_terminal_lines_do_not_tear_the_bar():
    shown = on_terminal("with Progress(2, description='photos') as progress:\n"
                        "    progress.update()\n    progress.write('error: a.png: no')\n    progress.update()")
    assert any(line.split("\r")[-1].strip() == "error: a.png: no" for line in shown.split("\r\n"))
