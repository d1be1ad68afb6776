"""Run every command of README.md as a new user would, and check what it promises.

    python -m tests.readme_commands             # all of it; .ci/run does this
    python -m tests.readme_commands main.py     # only the sections with these titles

Each section gets a copy of the project with the folders that it names, and the environment that runs this program; two
sections run at a time. Commands run as they are written, but for those in CHANGES. Links and flags are checked, too.
"""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from utils.tensorflow_setup import start_tensorflow

ENVIRONMENT = dict(os.environ)  # the user's, without this program's own settings
start_tensorflow("-1")  # quietly, before the material imports it

from tests import readme_material as material  # noqa: E402
from tests.readme_checks import CHECKS, check_downloads  # noqa: E402
from tests.readme_references import find_faults  # noqa: E402

README = material.ROOT / "README.md"
CI = material.ROOT / ".ci" / "run"
LIMIT = 600  # seconds per command, on a busy machine
AT_A_TIME = 2  # sections
OUTPUTS = ("FACES", "RESULTS", "RESTORED")  # a block begins without what another one of its section wrote there
SHOWN_LINES = 40  # of the output of a command that failed
DOWNLOAD = "python scripts/download_weights.py"
SLOWEST_FIRST = ("main.py", "A face restorer of your own")
say = functools.partial(print, flush=True)


class Command(NamedTuple):
    """A command, or all lines of a block that only work together; `line` is of README.md."""

    line: int
    text: str


class Section(NamedTuple):
    """A section of README.md with its blocks of commands."""

    title: str
    blocks: list[list[Command]]


class Change(NamedTuple):
    """How a command is run otherwise than it is written, and why: words replaced, then words appended."""

    reason: str
    append: str = ""
    replace: tuple[str, str] = ("", "")


FEW_ROWS = "--presets iid --rows bicubic unadapted adapted --photos 1"
FREE_PORTS = ", ".join(f'"127.0.0.1:{port}"' for port in material.free_ports(2))
FEW_TASKS = "--set data.num_validation=2 --set run.validation_tasks=2"
CHANGES = {  # by the beginning of the command
    "python main.py --trial 0": Change("weeks", "--preset smoke --restorer gpen-256 --lpips_weight 0.5"),
    "python main.py --trial 1": Change(
        "a quarter of an hour", f"--iterations 2 --set inner.num_steps=0 {FEW_TASKS} --set data.face_patch_size=32 "
        "--set data.scene_patch_size=64 --set run.validation_scene_size=64"),
    "python main.py --trial 2 --preset metaf2n-small": Change(
        "hours", f"--iterations 2 {FEW_TASKS} --set data.face_patch_size=32 --set data.scene_patch_size=32"),
    "python scripts/export_checkpoint.py --model_dir experiments": Change("training ended earlier",
                                                                          replace=("-6000", "-2")),
    "export CLUSTER=": Change("others may use these ports", replace=('"127.0.0.1:9001", "127.0.0.1:9002"',
                                                                     FREE_PORTS)),
    "python scripts/train_face_restorer.py --validation_record": Change("hours", "--preset smoke"),
    "python scripts/evaluate_face_restorer.py": Change("a minute for each degradation", "--presets iid"),
    "python calculate_metrics.py": Change("one's own ~/.cache is left alone", "--cache_dir cache"),
    "make results": Change("an hour", f'EVALUATION_ARGS="{FEW_ROWS}"'),
    "make results EVALUATION_ARGS=": Change("hours", replace=("--scenes PHOTOS", f"--scenes PHOTOS {FEW_ROWS}")),
}
# what the user does otherwise before a command
BEFORE: dict[str, Callable[[Path], None]] = {
    "python generate_test_faces.py --input_dir PHOTOS --output_dir FACES --detector mtcnn --restored_dir":
        lambda place: material.restore_elsewhere(place / "FACES" / "Aligned", place / "RESTORED"),
}
BY_CI = {"make demo": "demo", "make test": "test"}  # -> the target of .ci/run's loop


def read_sections(text: str) -> list[Section]:
    """Find the blocks of commands in README.md, by their headings of the second level."""
    sections, block, started = [Section("", [])], None, 0
    pending = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("```"):
            if block:
                sections[-1].blocks.append(_joined(block))
            block = [] if line == "```sh" else None
        elif block is None:
            sections += [Section(line[3:].strip(), [])] if line.startswith("## ") else []
        else:
            started = started if pending else number
            pending += without_comment(line)
            if pending.endswith("\\"):
                pending = pending[:-1]
                continue
            block += [Command(started, " ".join(pending.split()))] if pending.strip() else []
            pending = ""
    return [section for section in sections if section.blocks]


def without_comment(line: str) -> str:
    """Drop what the shell takes for a comment."""
    return re.match(r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|(?<=\S)\#|[^'"#])*""", line)[0].rstrip()


def _joined(block: list[Command]) -> list[Command]:
    """Make one command of a block whose lines need each other: variables, and work in the background."""
    if not any(text.startswith("export ") or text.endswith("&") for _, text in block):
        return block
    return [Command(block[0].line, "\n".join(text for _, text in block))]


def choose(table: Mapping[str, object], text: str) -> str | None:
    """Give the longest key of a table that a command begins with; None if there is none."""
    return max((key for key in table if text.startswith(key)), key=len, default=None)


def stale_entries(commands: Iterable[Command], titles: Iterable[str]) -> Iterator[str]:
    """Name what the tables here say of commands and sections that README.md no longer has."""
    texts = [command.text for command in commands]
    for table in (CHANGES, BEFORE, CHECKS):
        used = {choose(table, text) for text in texts}
        yield from (f"no command of README.md begins with: {key}" for key in table if key not in used)
    yield from (f"README.md does not say: {text}" for text in BY_CI if text not in texts)
    yield from (f"README.md has no section: {title}" for title in material.MATERIAL if title not in titles)


def script_of(command: Command) -> tuple[str, str]:
    """Give what to run, and why it is not what is written; empty if it is."""
    text, key = command.text, choose(CHANGES, command.text)
    if key is None:
        return text, ""
    change = CHANGES[key]
    changed = text.replace(*change.replace) if change.replace[0] else text
    changed = f"{changed} {change.append}" if change.append else changed
    if changed == text:
        raise AssertionError(f"there is no {change.replace[0]} to replace")
    return changed, change.reason


def run(script: str, place: Path) -> tuple[int, str]:
    """Run lines in the shell, in a project folder with its environment; gives the status and what was printed."""
    if "&\n" in script:
        script += "\nstatus=$?\nif [ $status = 0 ]; then wait $!; else kill $!; exit $status; fi"
    environment = {**ENVIRONMENT, "PATH": f"{place / '.venv' / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}"}
    for name in ("PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    process = subprocess.Popen(["bash", "-c", script], cwd=place, env=environment, stdin=subprocess.DEVNULL, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                               start_new_session=True)
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nit was ended after {LIMIT} seconds"
    return process.returncode, output


class Runner:
    """Runs sections, each in a folder of its own, and prints a line per command."""

    def __init__(self, folder: Path, stand_ins: Path, server: str):
        self.folder, self.stand_ins, self.server = folder, stand_ins, server
        self.printing = threading.Lock()

    def run_section(self, section: Section) -> list[str]:
        """Run the blocks of a section in order; gives the commands that failed."""
        place = self.folder / re.sub(r"\W+", "-", section.title)
        material.copy_project(place, self.stand_ins, self.server)
        material.MATERIAL.get(section.title, lambda _: None)(place)
        written = [place / name for name in OUTPUTS if not (place / name).exists()]
        failed = []
        for block in section.blocks:
            for path in written:
                shutil.rmtree(path, ignore_errors=True)
            failed += [command.text for command in block if not self.run_command(command, place)]
        return failed

    def run_command(self, command: Command, place: Path) -> bool:
        """Run a command and check what it did; gives whether all is well."""
        if command.text in BY_CI:
            targets = re.search(r"^for target in (.*); do\n.*\n *make \"\$target\"$", CI.read_text(), re.MULTILINE)
            runs = targets is not None and BY_CI[command.text] in targets[1].split()
            self.report(command, 0.0, "", "" if runs else f".ci/run does not run {command.text}", "run by .ci/run")
            return runs
        began, output, problem, script, reason = time.monotonic(), "", "", command.text, ""
        try:
            script, reason = script_of(command)
            BEFORE.get(choose(BEFORE, command.text), lambda _: None)(place)
            status, output = run(script, place)
            problem = f"it ended with status {status}" if status else self.check(command, place, output)
        except Exception as error:  # whatever the preparation or the check stumbles on is a fault of this command
            problem = f"{type(error).__name__}: {error}"
        note = f"run as: {script}   ({reason})" if reason else ""
        self.report(command, time.monotonic() - began, output, problem, note)
        return not problem

    @staticmethod
    def check(command: Command, place: Path, output: str) -> str:
        """Compare what is there now with what README.md promises; gives what is wrong."""
        try:
            if command.text.startswith(DOWNLOAD):
                check_downloads(place, command.text)
            elif key := choose(CHECKS, command.text):
                CHECKS[key](place, output)
        except AssertionError as error:
            return str(error)
        return ""

    def report(self, command: Command, seconds: float, output: str, problem: str, note: str) -> None:
        """Print the line of a command; with what it printed, if something is wrong."""
        indent = " " * 10
        with self.printing:
            say(f"{seconds:6.1f} s  {'FAILED  ' * bool(problem)}README.md:{command.line}  "
                + command.text.replace("\n", f"\n{indent}"))
            if note:
                say(indent + note.replace("\n", f"\n{indent}"))
            if problem:
                say(f"{indent}{problem}\n" + "\n".join(f"{indent}| {line}" for line in
                                                        output.splitlines()[-SHOWN_LINES:]))


def main(titles: list[str]) -> int:
    """Run all commands, or those of these sections; gives the exit status."""
    began = time.monotonic()
    sections = read_sections(README.read_text(encoding="utf-8"))
    commands = [command for section in sections for block in section.blocks for command in block]
    faults = [*stale_entries(commands, [section.title for section in sections]), *find_faults()]
    chosen = [section for section in sections if not titles or section.title in titles]
    chosen.sort(key=lambda section: section.title not in SLOWEST_FIRST)
    with tempfile.TemporaryDirectory(prefix="readme-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        material.write_stand_ins(folder / "stand-ins")
        say(f"{time.monotonic() - began:6.1f} s  material, links and flags")
        with material.serving(folder / "stand-ins") as server, ThreadPoolExecutor(AT_A_TIME) as pool:
            runner = Runner(folder, folder / "stand-ins", server)
            failed = [text for texts in pool.map(runner.run_section, chosen) for text in texts]
    for fault in faults:
        say(f"FAILED  {fault}")
    count = sum(len(block) for section in chosen for block in section.blocks)
    say(f"\n{count} commands of README.md, {len(failed)} failed; {len(faults)} faults of tables, links and flags. "
        f"{time.monotonic() - began:.0f} s")
    return 1 if failed or faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
