"""Feed the readers of files with bytes that libFuzzer makes up: python -m tests.fuzz --seconds 60.

Needs requirements-fuzz.txt. Each target runs in a process of its own, begins with sound files and keeps whatever
reaches new code. A file that breaks a rule of tests/file_readers.py is kept in --output_dir and ends its target.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LIMITS = ("-timeout=20", "-rss_limit_mb=1500", "-max_len=20000", "-len_control=0")  # TensorFlow alone takes 700 MB


def main() -> int:
    """Run the targets one after the other; gives 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="of the names in tests/file_readers.py (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    parser.add_argument("--output_dir", type=Path, default="results/fuzz", help="for files that break a rule")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return _fuzz(args.targets[0], args.seconds, args.seed, args.output_dir)
    from tests.file_readers import READERS  # not before: code is instrumented when it is first imported

    unknown = set(args.targets) - set(READERS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}. There are: {', '.join(READERS)}")
    failed = [name for name in args.targets or READERS if not _start(name, args)]
    return 1 if failed else 0


def _start(name: str, args: argparse.Namespace) -> bool:
    """Run one target in its own process, and print what it did."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--inside", "--seconds", str(args.seconds),
               "--seed", str(args.seed), "--output_dir", str(args.output_dir)]
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    executions = re.search(r"Done (\d+) runs", process.stderr) or re.search(r"stat::number_of_executed_units: *(\d+)",
                                                                            process.stderr)
    coverage = re.findall(r"cov: (\d+)", process.stderr)
    sys.stdout.write(f"{name}: {executions[1] if executions else '?'} executions, "
                     f"{coverage[-1] if coverage else '?'} places reached: "
                     f"{'no fault' if process.returncode == 0 else 'FAULT'}\n")
    if process.returncode:
        sys.stdout.write(process.stderr[-3000:])
    sys.stdout.flush()
    return process.returncode == 0


def _fuzz(name: str, seconds: int, seed: int, output_dir: Path) -> int:
    """Run a target; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["utils", "zipfile", "pickletools", "PIL"]):
        import tests.file_readers as readers

    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus, work = Path(folder) / "corpus", Path(folder) / "work"
        corpus.mkdir()
        work.mkdir()
        reader = readers.READERS[name]
        for number, data in enumerate(reader.make_seeds(work)):
            (corpus / str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-seed={seed}", "-print_final_stats=1",
                       f"-artifact_prefix={output_dir}/{name.replace(' ', '_')}-", *LIMITS],
                      lambda data: readers.examine(reader, data, work) and None)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
