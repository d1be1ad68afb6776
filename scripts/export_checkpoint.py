"""Write the weights that test.py takes in another format: small, as .npz, or as the original code reads them.

python scripts/export_checkpoint.py --model_dir experiments/trial_0/checkpoints --output my-model.npz
python scripts/export_checkpoint.py --model_dir metaf2n-small --output pretrained_models/model-small
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import ArgumentParser, run_cli
from utils.errors import UserError
from utils.tensorflow_setup import start_tensorflow
from utils.weights.manifest import sha256_of

INDEX, DATA = ".index", ".data-00000-of-00001"
# of files of other formats, which the prefix of a checkpoint must not look like
TAKEN_ENDINGS = (INDEX, DATA, ".meta", ".pth", ".safetensors", ".bin", ".param")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    parser.add_argument("--model_dir", required=True, help="weights, as for test.py")
    parser.add_argument("--output", type=Path, required=True, help="a file that ends in .npz: rounded to float16; "
                        "anything else: prefix of a TF1 name-based checkpoint, float32")
    parser.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    parser.add_argument("--weights_key", metavar="NAME", help="the entry of a PyTorch file that holds the weights")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args(argv)
    if args.output.is_dir() or args.output.name.endswith(TAKEN_ENDINGS):
        raise UserError("--output is a file that ends in .npz, or the prefix of a checkpoint, which has no ending. "
                        f"Received: {args.output}.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    args = parse_args(argv)
    as_npz = args.output.suffix == ".npz"
    files = [args.output.with_name(args.output.name + ending) for ending in (("",) if as_npz else (INDEX, DATA))]
    there = [file for file in files if file.exists()]
    if there and not args.overwrite:
        raise UserError(f"{there[0]} is there already. Give --overwrite or another --output.")
    start_tensorflow("-1")
    from model.rrdbnet import rrdbnet_architecture
    from utils.weights.checkpoints import checkpoint_tensors, load_super_resolver, write_tf1_checkpoint
    from utils.weights.npz import write_npz_weights

    weights = load_super_resolver(args.model_dir, weights_dir=args.weights_dir, key=args.weights_key)
    if weights.mask is None:
        print(f"note: {weights.source} has no MaskNet, so the export has none", file=sys.stderr)
    if not weights.meta_trained:
        print("note: these weights are not meta-trained; test.py will not say so of the export", file=sys.stderr)
    write = write_npz_weights if as_npz else write_tf1_checkpoint
    write(args.output, checkpoint_tensors(weights.generator, weights.mask))
    blocks, *_ = rrdbnet_architecture({name: value.shape for name, value in weights.generator.items()})
    generator, mask = (sum(value.size for value in (params or {}).values()) for params in weights[:2])
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"wrote {args.output}: {blocks} blocks, {generator + mask:,} parameters ({generator:,} of the generator, "
          f"{mask:,} of MaskNet), {size:.2f} MiB")
    if as_npz:
        print(f"sha256: {sha256_of(args.output)}")
    return 0


if __name__ == "__main__":
    run_cli(main)
