"""Find the faces of every photo, restore them, and write the pairs Face_LQ/ and Face_HQ/ that test.py adapts to."""

import argparse
import contextlib
from collections import Counter
from pathlib import Path

from utils.console import EXIT_USER_ERROR, ArgumentParser, Progress, run_cli
from utils.errors import UserError, printable, require
from utils.face.detection import MIN_CONFIDENCE, open_detector, read_boxes
from utils.face.pairs import NO_PHOTO, list_faces
from utils.face.preparation import FACE_COLUMNS, FINISHED, FacePreparer, PreparationSettings
from utils.face.restorers import FIDELITY, check_restorer, open_restorer, restorer_label
from utils.files import check_writable
from utils.image.io import add_pixel_limit
from utils.image.listing import FACE_FOLDERS, Source, add_recursive, list_photos, parse_shard, same_name
from utils.report import Report, claim_report, report_name
from utils.tensorflow_setup import start_tensorflow

OUTCOMES = {"ok": "faces", "no face": "photos without a face", "error": "errors"}  # of the summary, by status
DETECTORS = ("retinaface", "mtcnn", "face-alignment", "boxes")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--input_dir", type=Path, default="./datasets/RealFaces200/LQ", help="photo or folder of photos")
    files.add_argument("--output_dir", type=Path, default="./datasets/RealFaces200",
                       help="where Face_LQ/, Face_HQ/ and faces.csv are written")
    files.add_argument("--weights_dir", type=Path, help="where downloaded weights are (default: weights/)")
    files.add_argument("--overwrite", action="store_true", help="replace faces that are there")
    files.add_argument("--skip_existing", action="store_true", help="leave out photos that faces.csv says are done")
    add_recursive(files)
    add_pixel_limit(files)
    files.add_argument("--shard", default="0/1", help="i/n: only part i of n of the folder, i from 0")
    files.add_argument("--save_aligned", action="store_true", help="also write Aligned/: faces upright, 512x512")
    files.add_argument("--save_overlay", action="store_true",
                       help="also write Overlay/: photos with boxes, landmarks, numbers and scores")
    finding = parser.add_argument_group("finding faces")
    finding.add_argument("--detector", choices=DETECTORS, default=DETECTORS[0],
                         help="mtcnn needs no download; face-alignment needs requirements-face-alignment.txt")
    finding.add_argument("--boxes", type=Path,
                         help="for --detector boxes: CSV with the columns of faces.csv, or JSON, of any other tool")
    finding.add_argument("--min_confidence", type=float, default=MIN_CONFIDENCE, help="only faces with a higher score")
    finding.add_argument("--min_face_size", type=int, default=0, help="smaller side of the box, in pixels")
    finding.add_argument("--max_faces", type=int, help="per photo: the best ones (default: all)")
    finding.add_argument("--box_margin", type=float, default=0.0, help="share of the box's side added all around")
    restoring = parser.add_argument_group("restoring them")
    restoring.add_argument("--restorer", default="gpen-512",
                           help="gpen-512, gpen-256; rrdb-face, which needs no download; a file: "
                                ".onnx of any face restorer, .pth of GPEN, .npz of train_face_restorer.py; none: write "
                                "Face_LQ/ and Aligned/, to be restored by any other tool")
    restoring.add_argument("--codeformer_fidelity", type=float, default=FIDELITY,
                           help="of a .onnx with such an input: 0 for quality, 1 for likeness")
    restoring.add_argument("--restored_dir", type=Path,
                           help="folder with the faces of Aligned/ restored elsewhere: finish Face_HQ/ with them")
    restoring.add_argument("--legacy_alignment", action="store_true",
                           help="paste faces 1.5 pixels up and left, black where they do not reach, as the original "
                                "code does")
    restoring.add_argument("--gpu", help="the GPU to use, as 0; -1 for the CPU (default: CUDA_VISIBLE_DEVICES)")
    args = parser.parse_args(argv)
    _check_and_convert(args)
    return args


def _check_and_convert(args: argparse.Namespace) -> None:
    require(0 <= args.min_confidence <= 1, "--min_confidence must lie between 0 and 1", args.min_confidence)
    require(args.min_face_size >= 0, "--min_face_size must be at least 0", args.min_face_size)
    require(args.max_faces is None or args.max_faces > 0, "--max_faces must be at least 1", args.max_faces)
    require(0 <= args.box_margin <= 10, "--box_margin must lie between 0 and 10", args.box_margin)
    require((args.detector == "boxes") == (args.boxes is not None), "--detector boxes and --boxes FILE go together",
            f"--detector {args.detector}, --boxes {args.boxes}")
    require(not (args.overwrite and args.skip_existing), "--overwrite and --skip_existing exclude each other", "both")
    if args.restorer != "none":
        check_restorer(args.restorer, fidelity=args.codeformer_fidelity, others=["none"])
    if args.restored_dir is not None:
        require(args.restored_dir.is_dir(), "--restored_dir must be a folder", args.restored_dir)
        args.restorer = "none"
    args.shard = parse_shard(args.shard)


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    index, count = args.shard
    every_photo = list_photos(args.input_dir, recursive=args.recursive,
                              apart=[args.output_dir, *[args.restored_dir] * (args.restored_dir is not None)])
    keys = [photo.key for photo in every_photo]
    if args.output_dir.resolve() in {photo.path.parent.resolve() for photo in every_photo}:
        raise UserError(f"--output_dir must be another folder than the photos'. Received: {args.output_dir}.")
    folders = [args.output_dir / name for name in ("Face_LQ", "Face_HQ")]
    faces = {folder: list_faces(folder, keys, recursive=args.recursive) for folder in folders if folder.is_dir()}
    for folder, listing in faces.items():
        foreign = [entry.name for entry in listing.unused if entry.reason == NO_PHOTO]
        if foreign:  # test.py could not distinguish their faces
            raise UserError(f"{folder} holds faces of other photos, as {foreign[0]} ({len(foreign)} in all). Choose "
                            "another --output_dir, or remove them.")
    if args.boxes is not None and not read_boxes(args.boxes).keys() & {same_name(photo.name) for photo in every_photo}:
        raise UserError(f"{args.boxes} names none of the photos in {args.input_dir}. Its file names are those of the "
                        "photos, below that folder.")
    photos = every_photo[index::count]
    check_writable(args.output_dir)
    report = args.output_dir / report_name("faces", args.shard)
    settings = PreparationSettings(
        args.detector, str(args.restored_dir or restorer_label(args.restorer, args.codeformer_fidelity)),
        min_face_size=args.min_face_size, max_faces=args.max_faces, box_margin=args.box_margin,
        legacy_alignment=args.legacy_alignment, save_aligned=args.save_aligned, save_overlay=args.save_overlay,
        restored_dir=args.restored_dir)
    written = {(args.output_dir / name / key).parent for name in FACE_FOLDERS for key in keys}
    with claim_report(report, {args.output_dir, *written}):
        folder = folders["Face_HQ" in settings.folders]
        if not args.overwrite and not args.skip_existing and folder in faces:
            there = faces[folder].faces.keys() & {same_name(photo.key) for photo in photos}
            if there:
                raise UserError(f"faces of {len(there)} of {len(photos)} photos are already in {folder}. "
                                "Give --overwrite or --skip_existing.")
        return _prepare_photos(args, settings, photos, report)


def _prepare_photos(args: argparse.Namespace, settings: PreparationSettings, photos: list[Source],
                    report_path: Path) -> int:
    """Work through the photos; one that fails gets a row and does not stop the others."""
    if not photos:
        print("no photo falls into shard {}/{}".format(*args.shard))
        return 0
    start_tensorflow(args.gpu)  # takes seconds: only now that the command line is known to be good
    with contextlib.ExitStack() as stack:
        detector = stack.enter_context(open_detector(args.detector, min_confidence=args.min_confidence,
                                                     weights_dir=args.weights_dir, boxes=args.boxes))
        restorer = None if args.restorer == "none" else open_restorer(args.restorer, args.weights_dir,
                                                                      fidelity=args.codeformer_fidelity)
        preparer = FacePreparer(detector, restorer, args.output_dir, settings)
        report = stack.enter_context(Report(
            report_path, FACE_COLUMNS, keep=FINISHED if args.skip_existing else (),
            order=[photo.name for photo in photos], digits=17))
        done = {photo for photo in photos if preparer.is_done(photo.key, report.earlier(photo.name))}
        report.add_present(photo.name for photo in photos if photo in done)
        outcomes = Counter({"photos there already": len(done)})
        todo = [photo for photo in photos if photo not in done]
        progress = stack.enter_context(Progress(len(todo), description="photos", unit="photo"))
        for photo in todo:
            name = printable(photo.name)
            try:
                rows = preparer.prepare(photo, lambda what, name=name: progress.update(0, f"{name}: {what}"))
            except UserError as error:
                rows = [{"file": photo.name, "status": "error", "reason": str(error)}]
            for row in rows:
                outcomes[OUTCOMES.get(row["status"], row["status"])] += 1
                if row["status"] == "error":
                    progress.write(f"error: {name}: {' '.join(row['reason'].splitlines())}")
            report.add(*rows)
            progress.update(1, name)
    summary = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.items() if count)
    print(f"photos {len(photos)}: {summary}. Report: {report.path}")
    if "Face_HQ" not in settings.folders and outcomes["faces"]:
        print(f"Restore the faces in {args.output_dir / 'Aligned'} (keep names and size), then run the same command "
              "with --restored_dir and their folder.")
    return EXIT_USER_ERROR if outcomes["errors"] else 0


if __name__ == "__main__":
    run_cli(main)
