"""Measure speed as ratios within one process, precision and memory, and print them as a Markdown table.

Seconds differ between machines and minutes; the rate of a large matrix product, measured directly before and after
each part, is what networks are compared with. Networks without weights at hand have random ones.
"""

import argparse
import contextlib
import os
import platform
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.benchmarks import faces, inference, training
from utils.console import ArgumentParser, run_cli
from utils.files import atomic_path, check_writable
from utils.tensorflow_setup import start_tensorflow

PARTS = {part.__name__: part for part in (
    inference.forward, inference.bfloat16, inference.adaptation, inference.overhead, inference.tiling,
    faces.restorers, training.gradients, training.degradation, inference.memory)}
SLOW_PARTS = ("memory",)  # minutes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--model_dir", default="realesrgan", help="weights to measure with, as for test.py")
    parser.add_argument("--weights_dir", type=Path, help="folder of downloaded weights (default: weights/)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[part for part in PARTS if part not in SLOW_PARTS],
                        help=f"what to measure; {', '.join(SLOW_PARTS)} takes minutes")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the table to this Markdown file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(argv)
    if args.output:
        check_writable(args.output.parent)
    start_tensorflow()
    lines = [describe_machine(), f"weights: {args.model_dir}\n", "| measurement | value |", "|---|---|"]
    print("\n".join(lines), flush=True)
    for part in args.parts:
        for what, value in PARTS[part](inference.Setting(args.model_dir, args.weights_dir)):
            lines.append(f"| {what} | {value} |")
            print(lines[-1], flush=True)
    if args.output:
        with atomic_path(args.output) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe_machine() -> str:
    """Return one line with processor, cores, GPUs and versions."""
    import tensorflow as tf

    name = platform.machine()
    with contextlib.suppress(OSError):  # only Linux has this file
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"model name\s*: (.*)", words)
        name = f"{found[1] if found else name}{' with AVX512-BF16' * ('avx512_bf16' in words)}"
    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")]
    return (f"{os.cpu_count()} cores of {name}; {', '.join(gpus) or 'no GPU'}; Python {platform.python_version()}, "
            f"TensorFlow {tf.__version__}; {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    run_cli(main)
