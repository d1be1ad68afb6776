"""What README.md promises of its commands: what lies where after them, and, where it is cheap, the values in it."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np

from config import SCALE
from utils.data.presets import PRESETS
from utils.data.tfrecords import ImageRecords
from utils.face.restorers import load_face_restorer
from utils.image.io import quantize, read_image, resize_bicubic
from utils.weights.checkpoints import load_super_resolver
from utils.weights.manifest import load_manifest, status

FACE = "astronaut"  # the photo of the material that shows one
FACES = "generate_test_faces.py --input_dir PHOTOS --output_dir FACES --detector mtcnn"


def require(holds: object, problem: str) -> None:
    """Say what is wrong, unless all is well."""
    if not holds:
        raise AssertionError(problem)


def require_files(place: Path, *names: str) -> None:
    """Make sure that files are there and not empty."""
    for name in names:
        require((place / name).is_file() and (place / name).stat().st_size, f"there is no {name}, or it is empty")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels_of(path: Path) -> np.ndarray:
    """Read an image as uint8."""
    return quantize(read_image(path).pixels)


def check_downloads(place: Path, command: str) -> None:
    """Every entry that is named is there, with its hash."""
    manifest = load_manifest(place / "weights" / "manifest.json")
    for name in shlex.split(command)[2:]:
        require(any(found.complete for found in status(manifest[name], place / "weights")), f"{name} is not there")


def check_faces(folder: Path) -> None:
    """The photo's face is there, alone or not, and four times as large in Face_HQ."""
    rows = rows_of(folder / "faces.csv")
    require("ok" in [row["status"] for row in rows if row["file"] == f"{FACE}.png"], f"no face of {FACE} is ok: {rows}")
    names = sorted(path.name for path in (folder / "Face_LQ").iterdir())
    require(f"{FACE}_0.png" in names, f"no face {FACE}_0.png")
    require(names == sorted(path.name for path in (folder / "Face_HQ").iterdir()), "Face_LQ and Face_HQ differ")
    for name in names:
        height, width = pixels_of(folder / "Face_LQ" / name).shape[:2]
        require(pixels_of(folder / "Face_HQ" / name).shape[:2] == (SCALE * height, SCALE * width), f"size of {name}")


def check_aligned(folder: Path) -> None:
    """Faces upright wait for another tool, and there is no Face_HQ yet."""
    require(pixels_of(folder / "Aligned" / f"{FACE}_0.png").shape == (512, 512, 3), "Aligned holds no 512x512 faces")
    require_files(folder, f"Face_LQ/{FACE}_0.png")
    require(not list(folder.glob("Face_HQ/*")), "Face_HQ has faces that nobody restored")


def check_results(photos: Path, results: Path, *, alike: bool) -> None:
    """Every photo is there at four times its size, and like it unless its network is none; the face was used."""
    rows = {row["file"]: row["status"] for row in rows_of(results / "report.csv")}
    for photo in photos.iterdir():
        require(rows[photo.name] == ("adapted" if photo.stem == FACE else "base"), f"report.csv says {rows}")
        source, result = read_image(photo).pixels, pixels_of(results / f"{photo.stem}.png")
        expected = quantize(resize_bicubic(source, *(SCALE * side for side in source.shape[:2])))
        require(result.shape == expected.shape, f"{photo.name} became {result.shape}")
        difference = np.abs(expected.astype(int) - result).mean()
        require(difference < 40 or not alike, f"the result of {photo.name} is {difference:.0f} of 255 from bicubic")


def check_record(path: Path, size: int, fewest: int) -> None:
    """A record holds so many images of this size."""
    require(len(ImageRecords(path, size)) >= fewest, f"{path.name} holds {len(ImageRecords(path, size))} images")


def check_run(folder: Path, *names: str) -> None:
    """A run's folder holds what README's picture of it names."""
    require_files(folder, "config.json", "metrics.csv", "train.csv", "curves.png", *names)
    require(list((folder / "tensorboard").iterdir()), "no TensorBoard files")


def check_workers(place: Path, output: str) -> None:
    """Both workers trained, and the first one wrote."""
    require(output.count("trained at iteration 4") == 1, "not exactly one of the two workers says that it trained")
    trials = [path.parent.parent for path in place.glob("experiments/*/checkpoints/model-4.index")]
    newest = max(trials, key=lambda folder: folder.joinpath("train.csv").stat().st_mtime)
    check_run(newest)


def check_restorer(place: Path) -> None:
    """The exported restorer can be loaded."""
    require(all(np.isfinite(value).all() for value in load_face_restorer(place / "my-restorer.npz").values()), "values")


def check_metrics(folder: Path, *names: str) -> None:
    """These metrics have values, and as many images as there are."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    found = {name: metrics[name]["mean"] for name in names}
    require(all(isinstance(value, float) and np.isfinite(value) for value in found.values()), f"no value: {found}")
    require(len(rows_of(folder / "metrics.csv")) == 2, "metrics.csv does not name every image")


def check_comparison(place: Path) -> None:
    """What is less blurred is nearer to the truth."""
    check_metrics(place / "NEW", "psnr_y", "ssim")
    require_files(place, "difference.png")
    entry = json.loads((place / "NEW" / "metrics.json").read_text(encoding="utf-8"))["metrics"]["psnr_y"]
    require(entry["mean"] > entry["other_mean"], f"the sharper results have a lower PSNR: {entry}")


def check_testset(folder: Path, clean: Path) -> None:
    """Every photo is there cut to a multiple of 4, and a quarter of the size; what was drawn is written down."""
    drawn = json.loads((folder / "degradations.json").read_text(encoding="utf-8"))["photos"]
    for photo in clean.iterdir():
        truth, small = (pixels_of(folder / name / photo.name).shape[:2] for name in ("GT", "LQ"))
        require(truth == tuple(SCALE * side for side in small), f"{photo.name}: {truth} and {small}")
        require(drawn[photo.stem], f"degradations.json does not say what was drawn for {photo.stem}")


def check_evaluation(place: Path, scenes: set[str]) -> None:
    """Table, scores and plots of the last evaluation are there, and every scene was scored."""
    folder = max(place.glob("results/*/table.md"), key=lambda path: path.stat().st_mtime).parent
    require_files(folder, "table.md", "summary.json", "gains.png", "own_and_other.png", "pictures.png")
    found = {row["photo"] for row in rows_of(folder / "scores.csv")}
    require(scenes <= found, f"scores.csv has only {found}")


# by the beginning of the command, the longest that fits: takes the project's folder and what the command printed
CHECKS: dict[str, Callable[[Path, str], None]] = {
    f"python {FACES} --restorer rrdb-face": lambda place, _: check_faces(place / "FACES"),
    f"python {FACES} --restorer none": lambda place, _: check_aligned(place / "FACES"),
    f"python {FACES} --restored_dir": lambda place, _: check_faces(place / "FACES"),
    "CUDA_VISIBLE_DEVICES=0 python generate_test_faces.py --input_dir datasets/RealFaces200":
        lambda place, _: check_faces(place / "datasets" / "RealFaces200"),
    "python test.py --input_dir PHOTOS":
        lambda place, _: check_results(place / "PHOTOS", place / "RESULTS", alike=True),
    "CUDA_VISIBLE_DEVICES=0 python test.py --input_dir datasets/RealFaces200": lambda place, _: check_results(
        place / "datasets/RealFaces200/LQ", place / "datasets/RealFaces200/Res", alike=False),
    "python scripts/generate_tfrecord.py faces --input_dir PORTRAITS":
        lambda place, _: check_record(place / "datasets" / "whole_face.tfrecord", 256, 4),
    "python scripts/generate_tfrecord.py scenes --input_dir PHOTOS --output":
        lambda place, _: check_record(place / "datasets" / "back400.tfrecord", 400, 3),
    "python main.py --trial 0":
        lambda place, _: check_run(place / "experiments" / "trial_0", "checkpoints/model-4.index"),
    "python main.py --trial 1":
        lambda place, _: check_run(place / "experiments" / "trial_1", "checkpoints/model-2.index"),
    "python scripts/replace_backgrounds.py":
        lambda place, _: require(len(list((place / "FACES").glob("*.png"))) == 12, "not three faces per portrait"),
    "python scripts/generate_tfrecord.py faces --input_dir FACES":
        lambda place, _: check_record(place / "datasets" / "faces_scenes256.tfrecord", 256, 12),
    "python scripts/generate_tfrecord.py scenes --input_dir PHOTOS --size":
        lambda place, _: check_record(place / "datasets" / "scenes320.tfrecord", 320, 6),
    "python main.py --trial 2 --preset metaf2n-small": lambda place, _: check_run(
        place / "experiments" / "trial_2", "checkpoints/model-2.index", "checkpoints/average-2.index"),
    "python scripts/export_checkpoint.py": lambda place, _: require(
        load_super_resolver(str(place / "my-metaf2n.npz")).mask, "my-metaf2n.npz has no MaskNet"),
    "export CLUSTER=": check_workers,
    "python generate_test_faces.py --input_dir PORTRAITS": lambda place, _: require(
        len(list((place / "ALIGNED" / "Aligned").glob("*.png"))) == 4, "not one aligned face per portrait"),
    "python scripts/generate_tfrecord.py faces --input_dir ALIGNED/Aligned --size 512 --output "
    "datasets/aligned_faces512.tfrecord":
        lambda place, _: check_record(place / "datasets" / "aligned_faces512.tfrecord", 512, 3),
    "python scripts/generate_tfrecord.py faces --input_dir ALIGNED/Aligned --size 512 --output "
    "datasets/aligned_faces512_validation.tfrecord":
        lambda place, _: check_record(place / "datasets" / "aligned_faces512_validation.tfrecord", 512, 1),
    "python scripts/train_face_restorer.py --validation_record":
        lambda place, _: check_run(place / "experiments" / "face_restorer" / "trial_0", "checkpoints/model-4.index"),
    "python scripts/train_face_restorer.py --export": lambda place, _: check_restorer(place),
    "python scripts/evaluate_face_restorer.py":
        lambda place, _: require_files(place / "results" / "face_restorer", "metrics.csv", "table.md", "faces.png"),
    "python calculate_metrics.py --result_dir datasets/RealFaces200":
        lambda place, _: check_metrics(place / "datasets" / "RealFaces200" / "Res", "niqe", "fid", "kid"),
    "python calculate_metrics.py --result_dir datasets/My_iid": lambda place, _: check_metrics(
        place / "datasets" / "My_iid" / "Res", "psnr_y", "psnr_rgb", "psnr_paper", "ssim", "lpips", "niqe", "fid",
        "kid"),
    "python calculate_metrics.py --result_dir NEW": lambda place, _: check_comparison(place),
    "python scripts/synthesize_testset.py --input_dir":
        lambda place, _: check_testset(place / "datasets" / "My_iid", place / "CLEAN"),
    "python scripts/synthesize_testset.py --list_presets":
        lambda _, output: require(all(name in output for name in PRESETS), "a preset is missing"),
    "make results": lambda place, _: check_evaluation(place, {FACE}),
    "make results EVALUATION_ARGS": lambda place, _: check_evaluation(place, {FACE, "coffee"}),
}
