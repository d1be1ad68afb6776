"""A short run of the kill trials, of the tools that need no TensorFlow."""

import subprocess
import sys
from pathlib import Path


def test_killed_downloads_and_record_writing_leave_nothing_half_written_and_go_on():
    run = subprocess.run([sys.executable, "-m", "tests.kill_trials", "--runs", "3", "--only", "downloads", "records"],
                         cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("downloads", "records"):
        [line] = [line for line in run.stdout.splitlines() if line.startswith(f"{name}: ") and "faults" in line]
        assert line.endswith("; 0 faults")
        assert " killed" in line
