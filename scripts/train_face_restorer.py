"""Train the face restorer `rrdb-face` on portraits, or write the weights of a run for use.

python generate_test_faces.py --input_dir PORTRAITS --output_dir FACES --detector mtcnn --restorer none
python scripts/train_face_restorer.py --photo_dir PORTRAITS --faces FACES/faces.csv
python scripts/train_face_restorer.py --export my-restorer.npz
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.console import ArgumentParser, run_cli
from utils.errors import UserError
from utils.tensorflow_setup import start_tensorflow
from utils.training.configuration import RESTORER_TRAINING
from utils.training.session import add_run_arguments, choose_start, prepare, run_folder, run_session

# flags that are short for --set
SHORTHANDS = {
    "photo_dir": ("data.photo_dir", "folder of portraits"),
    "faces": ("data.faces", "faces.csv that generate_test_faces.py wrote for them"),
    "iterations": ("optimization.num_iterations", "where training ends"),
    "init": ("optimization.init", "weights to start from: what test.py takes as --model_dir, a .npz of a face "
                                  "restorer, `rrdb-face`, or `random`"),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__.split("\n\n")[0])
    add_run_arguments(parser, RESTORER_TRAINING, SHORTHANDS, run_dir="./experiments/face_restorer")
    parser.add_argument("--export", type=Path, metavar="FILE.npz", help="instead of training, write the weights of the "
                        "checkpoint --step (default: the latest) as float16, fit for --restorer FILE.npz")
    args = parser.parse_args(argv)
    if args.export is not None and args.export.suffix != ".npz":
        raise UserError(f"--export takes a file that ends in .npz. Received: {args.export}.")
    return args


def export(args: argparse.Namespace) -> None:
    """Write the weights of a checkpoint."""
    start_tensorflow("-1")
    from utils.face.restorers import save_face_restorer
    from utils.training.face_restorer import RESTORER_LAYOUT, checkpoint_params
    from utils.training.state import Checkpoints

    checkpoints = Checkpoints(run_folder(args) / "checkpoints", RESTORER_LAYOUT, keep=1, keep_every=0)
    iteration = choose_start(args.step, checkpoints)
    if not iteration:
        raise UserError(f"there is no checkpoint in {checkpoints.folder}. Train first, or give --run_dir and --trial.")
    save_face_restorer(args.export, checkpoint_params(checkpoints.prefix(iteration)))
    print(f"wrote the weights of iteration {iteration}: {args.export}, {args.export.stat().st_size / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    if args.export is not None:
        export(args)
        return 0
    folder, config = prepare(RESTORER_TRAINING, args)
    from utils.training.face_restorer import RESTORER_LAYOUT, assemble_restorer

    run_session(args, config, RESTORER_LAYOUT, lambda start, checkpoints: assemble_restorer(
        folder, config, start=start, checkpoints=checkpoints, weights_dir=args.weights_dir),
        "Write its weights for use with: python scripts/train_face_restorer.py "
        f"--run_dir {args.run_dir} --trial {args.trial} --export FILE.npz")
    return 0


if __name__ == "__main__":
    run_cli(main)
