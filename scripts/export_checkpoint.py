r"""Write the weights that test.py takes in another format: small, as .npz, or as the original code reads them.

python scripts/export_checkpoint.py --model_dir experiments/trial_0/checkpoints --output my-model.npz
python scripts/export_checkpoint.py --model_dir metaf2n-small --output pretrained_models/model-small
python scripts/export_checkpoint.py --model_dir experiments/trial_0/checkpoints --output my-model.npz \
    --difference_from realesrgan
"""

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import ArgumentParser, run_cli
from utils.errors import UserError
from utils.tensorflow_setup import start_tensorflow
from utils.weights.manifest import sha256_of
from utils.weights.npz import MANTISSA

SMALLEST_MANTISSA = 4  # bits
TAKEN_ENDINGS = (".index", ".meta", ".data-00000-of-00001", ".pth", ".bin", ".param")  # test.py reads these otherwise


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        UserError: --output cannot be a file or prefix of ours, or another option does not fit it.
    """
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--model_dir", required=True, help="weights, as for test.py")
    parser.add_argument("--output", type=Path, required=True, help="a file that ends in .npz: rounded to float16; "
                        "anything else: prefix of a TF1 name-based checkpoint, float32")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--mantissa_bits", type=int, default=MANTISSA, help="of a .npz: with fewer, down to 4, values "
                        "are rounded to so many and the file is compressed")
    parser.add_argument("--difference_from", metavar="NAME", help="realesrgan or realesrgan-anime, with which training "
                        "began: the .npz holds the generator's difference from it, rounded to three values a channel, "
                        "in a tenth of the size; to load it, those weights are needed too")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args(argv)
    if args.output.is_dir() or args.output.name.endswith(TAKEN_ENDINGS):
        raise UserError("--output is a file that ends in .npz, or the prefix of a checkpoint, which has no ending. "
                        f"Received: {args.output}.")
    if not SMALLEST_MANTISSA <= args.mantissa_bits <= MANTISSA:
        raise UserError(f"--mantissa_bits must be from {SMALLEST_MANTISSA} to {MANTISSA}. Received: "
                        f"{args.mantissa_bits}.")
    for option in ("mantissa_bits", "difference_from"):
        if getattr(args, option) != parser.get_default(option) and args.output.suffix != ".npz":
            raise UserError(f"--{option} is for a .npz; a checkpoint is float32. Received: --output {args.output}.")
    return args


def output_files(output: Path) -> list[Path]:
    """Give the files that an export consists of."""
    if output.suffix == ".npz":
        return [output]
    return [output.with_name(f"{output.name}{ending}") for ending in (".index", ".data-00000-of-00001")]


def distance(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """Give the root of the sum of squared differences of two sets of parameters of the same names."""
    return math.sqrt(sum(float(np.square(one[name] - other[name], dtype=np.float64).sum()) for name in one))


def main(argv: list[str] | None = None) -> int:
    """Run the tool; gives the exit status."""
    args = parse_args(argv)
    files = output_files(args.output)
    there = [file for file in files if file.exists()]
    if there and not args.overwrite:
        raise UserError(f"{there[0]} is there already. Give --overwrite or another --output.")
    start_tensorflow("-1")
    from model.rrdbnet import rrdbnet_architecture
    from utils.weights.checkpoints import (
        checkpoint_tensors,
        load_base,
        load_super_resolver,
        save_super_resolver,
        write_tf1_checkpoint,
    )

    weights = load_super_resolver(args.model_dir, weights_dir=args.weights_dir)
    if weights.mask is None:
        print(f"note: {weights.source} has no MaskNet, so the export has none", file=sys.stderr)
    if not weights.meta_trained:
        print("note: these weights are not meta-trained; test.py will not say so of the export", file=sys.stderr)
    if args.output.suffix == ".npz":
        save_super_resolver(args.output, weights.generator, weights.mask, mantissa_bits=args.mantissa_bits,
                            base=args.difference_from, weights_dir=args.weights_dir)
    else:
        write_tf1_checkpoint(args.output, checkpoint_tensors(weights.generator, weights.mask))

    if args.difference_from:
        base = load_base(args.difference_from, args.weights_dir)
        loaded = load_super_resolver(str(args.output), weights_dir=args.weights_dir).generator
        share = distance(loaded, weights.generator) / (distance(weights.generator, base) or 1)
        print(f"a difference from {args.difference_from}: rounding moved the generator by {share:.0%} of what training "
              "did (root mean square)")
    blocks, *_ = rrdbnet_architecture({name: value.shape for name, value in weights.generator.items()})
    generator = sum(value.size for value in weights.generator.values())
    mask = sum(value.size for value in (weights.mask or {}).values())
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"wrote {args.output}: {blocks} block{'s' * (blocks != 1)}, {generator + mask:,} parameters "
          f"({generator:,} of the generator, {mask:,} of MaskNet), {size:.2f} MiB")
    if args.output.suffix == ".npz":
        print(f"sha256: {sha256_of(args.output)}")
    return 0


if __name__ == "__main__":
    run_cli(main)
