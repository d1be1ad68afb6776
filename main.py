"""Meta-train the generator and MaskNet, so that one step on a photo's faces adapts the generator to the photo."""

import argparse

from utils.console import ArgumentParser, run_cli
from utils.errors import require
from utils.training.configuration import META_TRAINING
from utils.training.session import add_run_arguments, prepare, run_session

# flags that are short for --set
SHORTHANDS = {
    "init": ("meta.init", "weights to start from: what test.py takes as --model_dir, or `random`"),
    "face_record": ("data.face_record", "tfrecord of faces"),
    "scene_record": ("data.scene_record", "tfrecord of scenes"),
    "restorer": ("data.restorer", "of the training faces; `ground-truth` learns from the faces themselves"),
    "codeformer_fidelity": ("data.codeformer_fidelity", "of a .onnx with such an input: 0 for quality, 1 for likeness"),
    "iterations": ("meta.num_iterations", "where training ends"),
    "lpips_weight": ("loss.lpips", "of LPIPS; 0 needs no AlexNet"),
    "gan_weight": ("loss.gan", "of the adversarial term; 0 trains without a discriminator"),
    "discriminator_init": ("discriminator.init", "weights of the discriminator: `realesrgan-netd`, a .pth file, or "
                                                 "`random`"),
    "second_order_from": ("inner.second_order_from", "iteration; inner gradients are constants before it"),
    "freeze_discriminator_until": ("discriminator.freeze_until", "iteration"),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__)
    add_run_arguments(parser, META_TRAINING, SHORTHANDS)
    parser.add_argument("--cpu_devices", type=int, default=1,
                        help="divide the CPU into this many devices, to try several replicas without GPUs")
    parser.add_argument("--skip_corrupt", action="append_const", dest="settings", const="data.skip_corrupt=true",
                        help="leave out damaged images of a record, and say how many, instead of stopping")
    args = parser.parse_args(argv)
    require(args.cpu_devices > 0, "--cpu_devices must be at least 1", args.cpu_devices)
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    folder, config = prepare(META_TRAINING, args)
    from utils.training.setup import assemble, make_strategy
    from utils.training.state import META_LAYOUT

    strategy = make_strategy(args.cpu_devices)
    run_session(args, config, META_LAYOUT, lambda start, checkpoints: assemble(
        folder, config, start=start, checkpoints=checkpoints, weights_dir=args.weights_dir, strategy=strategy),
        "Adapt photos with: python test.py --model_dir {checkpoint}")
    return 0


if __name__ == "__main__":
    run_cli(main)
