"""Kill the tools at random moments, look at what they leave, and let them go on. Too long for the test command.

python -m tests.kill_trials --runs 20

Every run is a process of its own: a fork of this one, which has imported what they need, so that the moments fall into
the work and not into the imports. They are spread over the time that an undisturbed run takes, one at random in each
of equal parts of it, and the signal is SIGKILL. Then every file under a final name must be as an undisturbed run leaves
it, what is hidden must be recognisable as left over, and the command given again must end with the undisturbed run's
files, bit for bit, and with nothing left over.
"""

import argparse
import contextlib
import csv
import functools
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.kill_trial_subjects import Subject
from utils.files import LEFTOVER

# in order of their length; and where they are, as some import TensorFlow
SUBJECTS = {"downloads": "tests.kill_trial_subjects", "records": "tests.kill_trial_subjects",
            "faces": "tests.kill_trial_networks", "adaptation": "tests.kill_trial_networks",
            "training": "tests.kill_trial_networks"}
# a process with threads cannot be forked: these keep libraries from starting some on import
SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1", "MPLBACKEND": "Agg"}
PATIENCE = 900.0  # seconds for one run
POLL = 0.002  # seconds
ATTEMPTS = 4  # at killing a run before it ends
say = functools.partial(print, flush=True)
LOCK_OR_FOLDER = re.compile(r"\.(.*\.lock|wheel-.*|model-\d+\..*|average-\d+\..*)")


class Ended(NamedTuple):
    """How a process ended. `status` is None when it was killed."""

    status: int | None
    seconds: float


def in_child(work: Callable[[], int | None], log: Path, *, kill_after: float = PATIENCE) -> Ended:
    """Run something in a fork of this process, output into a file, and kill it after so many seconds."""
    begin = time.monotonic()
    process = os.fork()
    if not process:
        _work_and_leave(work, log)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > begin + kill_after:
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            break
        time.sleep(POLL)
    return Ended(None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status), time.monotonic() - begin)


def _work_and_leave(work: Callable[[], int | None], log: Path) -> None:
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        status = work() or 0
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def files_below(folder: Path, ignored: tuple[str, ...]) -> Iterator[Path]:
    """Give the relative paths of files and of hidden folders."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = [part.startswith(".") for part in relative.parts]
        if not (relative.parts[0] in ignored or any(hidden[:-1])) and (hidden[-1] or path.is_file()):
            yield relative


def rows_without_times(path: Path) -> list[dict[str, str]]:
    """Read a CSV, which must be whole, without the columns that depend on the clock."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n"), f"{path} is cut off"
    header, *lines = csv.reader(text.splitlines(keepends=True))
    assert all(len(line) == len(header) for line in lines), f"{path} has a row that is cut off"
    timed = [name.startswith("seconds") or name == "data_share" for name in header]
    return [{name: cell for name, cell, left_out in zip(header, line, timed, strict=True) if not left_out}
            for line in lines]


def check_killed(subject: Subject, folder: Path) -> Counter:
    """Look at what a killed process left; gives how many files are done and how many left over.

    Raises:
        AssertionError: a file under a final name is not what it should be.
    """
    found: Counter = Counter()
    for relative in files_below(folder, subject.ignored):
        path, name = folder / relative, relative.name
        if name.startswith("."):
            assert LEFTOVER.fullmatch(name) or LOCK_OR_FOLDER.fullmatch(name), f"{path} has no business here"
            found["lock files" if name.endswith(".lock") else "left over"] += 1
        elif subject.is_unfinished(name):
            found["left over"] += 1
        elif name.endswith(".csv"):
            whole = rows_without_times(subject.reference / relative)
            assert all(row in whole for row in rows_without_times(path)), f"{path} has rows of its own"
            found["rows"] += len(rows_without_times(path))
        else:
            assert any(same(path, other / relative) for other in (subject.reference, subject.before)) or \
                subject.is_sound(path), f"{path} is not what an undisturbed run writes"
            found["finished files"] += 1
    return found


def same(path: Path, other: Path) -> bool:
    """Whether both have the same bytes."""
    return other.is_file() and path.read_bytes() == other.read_bytes()


def check_final(subject: Subject, folder: Path) -> Counter:
    """Compare the files of a run that went on with those of an undisturbed one.

    Raises:
        AssertionError: they differ.
    """
    there, expected = (set(files_below(place, subject.ignored)) for place in (folder, subject.reference))
    assert there >= expected, f"{folder} lacks {sorted(map(str, expected - there))}"
    extra = [path for path in there - expected if not subject.may_stay(path.name)]
    assert not extra, f"{folder} has {sorted(map(str, extra))} too much"
    differences: Counter = Counter()
    for relative in expected - {Path(name) for name in subject.varying}:
        path, other = folder / relative, subject.reference / relative
        if relative.suffix == ".csv":
            rows, expected_rows = rows_without_times(path), rows_without_times(other)
            if subject.may_have_more_rows(path.name):
                rows = [row for row in rows if row in expected_rows]
            for row, right in zip(rows, expected_rows, strict=True):
                # killed between the result and its row: the result is whole, what the report said of it is lost
                known = row == right or row.get("reason") == "the result was there"
                assert known, f"{path} has {row} for {right}"
                differences["rows that only say that the result was there"] += row != right
        else:
            assert same(path, other), f"{path} differs from that of an undisturbed run"
    return +differences


def try_subject(subject: Subject, runs: int, rng: random.Random, root: Path) -> tuple[Counter, list[str]]:
    """Kill and go on so many times; gives counts, and what was wrong."""
    log, found, faults = root / "log.txt", Counter(), []

    def checked(check: Callable[[Subject, Path], Counter], folder: Path) -> None:
        # in a child too, as TensorFlow would start threads here
        def work() -> None:
            counts.write_text("\n".join(f"{count}\t{what}" for what, count in check(subject, folder).items()))

        counts = root / "counts.txt"
        counts.write_text("")
        if in_child(work, log).status:
            faults.append(f"{folder}: {log.read_text(errors='replace').strip().splitlines()[-1]}")
        for line in counts.read_text().splitlines():
            count, what = line.split("\t")
            found[what] += int(count)

    undisturbed = in_child(lambda: subject.run(subject.reference), log)
    assert undisturbed.status == 0, log.read_text(errors="replace")
    seconds = undisturbed.seconds
    say(f"{root.name}: an undisturbed run takes {seconds:.2f} s")
    for number in range(runs):
        for attempt in range(ATTEMPTS):
            folder = root / f"run_{number}_{attempt}"
            if number % 2 and subject.before.exists():
                shutil.copytree(subject.before, folder)
            moment = (number + rng.random()) / runs * seconds
            first = in_child(lambda folder=folder: subject.run(folder), log, kill_after=moment)
            if first.status is None:
                break
            found["ended before the signal"] += 1
            seconds = min(seconds, first.seconds)  # the machine is less busy than before
        found["killed"] += first.status is None
        checked(check_killed, folder)
        again = in_child(lambda folder=folder: subject.run(folder, again=True), log)
        if again.status != 0:  # None: it took longer than anybody waits
            faults.append(f"{folder}: going on ended with {again.status} after {again.seconds:.0f} s, see {log}")
        checked(check_final, folder)
    return found, faults


def main() -> int:
    """Run the trials; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="of each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--keep", type=Path, help="folder to work in, which stays (default: a temporary one)")
    args = parser.parse_args()
    if not SINGLE.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "tests.kill_trials", *sys.argv[1:]], {**os.environ, **SINGLE})
    failed = False
    with contextlib.ExitStack() as stack:
        root = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill_trials-")))
        for name in args.only:
            place = root / name
            place.mkdir(parents=True)
            subject = getattr(importlib.import_module(SUBJECTS[name]), name.capitalize())(place)
            with subject.ready(in_child):
                assert len(os.listdir("/proc/self/task")) == 1, "something has started a thread"
                found, faults = try_subject(subject, args.runs, random.Random(args.seed), place)
            say(f"{name}: {', '.join(f'{count} {what}' for what, count in found.items())}; {len(faults)} faults",
                *faults, sep="\n  ")
            failed = failed or bool(faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
