"""What generate_test_faces.py does with one photo: find its faces, restore them, write the pairs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from config import SCALE
from utils.console import interruptible
from utils.errors import UserError
from utils.face.alignment import align_face, coverage, estimate_alignment, intersect_box, paste_region
from utils.face.detection import BOX_COLUMNS, LANDMARK_COLUMNS, Detector, Face
from utils.face.pairs import FACE_NAME, faces_in, stem_of_face
from utils.face.restorers import Restorer, check_restored
from utils.image.io import Photo, quantize, read_image, resize_bicubic, write_png

BATCH = 4  # faces restored at a time: a batch of GPEN-512 takes about 2 GiB
CONTEXT = 2  # pixels around a region that its bicubic enlargement looks at
COLUMNS = ("file", "index", "status", *BOX_COLUMNS, *LANDMARK_COLUMNS, "score", "width", "height", "detector",
           "restorer", "reason")
FINISHED = ("ok", "no face", "too small", "outside", "too many")  # all but "error"
LARGEST_BOX = 32767 // SCALE  # pixels: OpenCV warps to no larger images
SAME_FACE = 4.0  # of 255: mean difference above which a crop in Aligned/ is of another face


@dataclass(frozen=True)
class Options:
    """Settings of a run. `box_margin` is a share of the box's side, `min_face_size` in pixels of the photo."""

    detector: str
    restorer: str
    min_face_size: int = 0
    max_faces: int | None = None
    box_margin: float = 0.0
    legacy_alignment: bool = False
    save_aligned: bool = False
    save_overlay: bool = False
    restored_dir: Path | None = None

    @property
    def writes_hq(self) -> bool:
        """Whether Face_HQ is written."""
        return self.restorer != "none" or self.restored_dir is not None

    @property
    def writes_aligned(self) -> bool:
        """Whether Aligned is written: when asked for, or when it is what another tool is to restore."""
        return self.save_aligned or not self.writes_hq

    def is_done(self, output_dir: Path, stem: str, rows: list[dict]) -> bool:
        """Whether an earlier run, whose rows of a photo are given, did all that this one would."""
        folders = ["Face_LQ", *["Face_HQ"] * self.writes_hq, *["Aligned"] * self.writes_aligned]
        names = [f"{stem}_{row['index']}.png" for row in rows if row["status"] == "ok"]
        return (bool(rows) and not any(row["status"] in ("too small", "too many") for row in rows)
                and all(row["detector"] == self.detector and row["restorer"] in ("", self.restorer) for row in rows)
                and all((output_dir / folder / name).exists() for folder in folders for name in names)
                and (not self.save_overlay or (output_dir / "Overlay" / f"{stem}.png").exists()))


class _Target(NamedTuple):
    """A face that is to be written: its number, the pixels of its box (top, left, height, width), its alignment."""

    index: int
    face: Face
    box: tuple[int, int, int, int]
    matrix: np.ndarray


class FacePreparer:
    """Prepares the faces of one photo after the other."""

    def __init__(self, detector: Detector, restorer: Restorer | None, output_dir: Path, options: Options):
        """Take a detector, a restorer (None: aligned faces are written, or read from `restored_dir`) and settings."""
        self._detect = detector
        self._restore = restorer
        self._output_dir = output_dir
        self.options = options

    def prepare(self, path: Path, on_progress: Callable[[str], None]) -> list[dict]:
        """Write `<stem>_<index>.png` for each face of a photo, and give its rows of the report.

        Faces are numbered by falling score, then by position. Faces an earlier run wrote for this photo are removed.

        Raises:
            UserError: the photo or a restored face cannot be read, or something cannot be written.
        """
        photo = read_image(path)
        samples = quantize(photo.pixels)
        on_progress("detecting")
        faces = interruptible(self._detect, photo.pixels, path.name)
        targets, rows = self._choose(path.name, faces, samples.shape[:2])
        if self.options.save_overlay:
            write_png(self._output_dir / "Overlay" / f"{path.stem}.png", draw_overlay(samples, targets))
        restored = self._restored(path, photo, samples, targets, on_progress)
        self._remove_earlier(path.stem, len(targets))
        for target, hq in restored:
            self._write(f"{path.stem}_{target.index}.png", photo, target, hq)
        return rows or [{"file": path.name, "status": "no face", "detector": self.options.detector}]

    def _choose(self, file: str, faces: list[Face], size: tuple[int, int]) -> tuple[list[_Target], list[dict]]:
        """Decide which faces are written; every face gets a row."""
        options, targets, rows = self.options, [], []
        for face in faces:
            row = {"file": file, "status": "ok", "score": face.score, "detector": options.detector,
                   "restorer": options.restorer, **dict(zip(BOX_COLUMNS, map(float, face.box), strict=True)),
                   **dict(zip(LANDMARK_COLUMNS, map(float, face.landmarks.ravel()), strict=True))}
            rows.append(row)
            box = intersect_box(face.box, *size, margin=options.box_margin)
            if box is None:
                row.update(status="outside", reason="the box does not meet the photo")
                continue
            row.update(width=box[3], height=box[2])
            if max(box[2:]) > LARGEST_BOX:
                row.update(status="error", reason=f"the box is larger than {LARGEST_BOX} pixels")
            elif min(box[2:]) < options.min_face_size:
                row.update(status="too small", reason=f"below --min_face_size {options.min_face_size}")
            elif options.max_faces is not None and len(targets) >= options.max_faces:
                row.update(status="too many", reason=f"beyond --max_faces {options.max_faces}")
            else:
                try:
                    targets.append(_Target(len(targets), face, box, estimate_alignment(face.landmarks)))
                    row["index"] = targets[-1].index
                except UserError as error:
                    row.update(status="error", reason=str(error))
        return targets, rows

    def _restored(self, path: Path, photo: Photo, samples: np.ndarray, targets: list[_Target],
                  on_progress: Callable[[str], None]) -> list[tuple[_Target, np.ndarray | None]]:
        """Give each face with its high-quality region, or None where no restorer is at hand."""
        results = []
        for batch in _batches(targets):
            on_progress(f"face {batch[0].index + 1} of {len(targets)}")
            aligned = np.stack([align_face(samples, target.matrix) for target in batch])
            if self.options.restored_dir is not None:
                restored = [self._read_restored(f"{path.stem}_{target.index}.png", face)
                            for target, face in zip(batch, aligned, strict=True)]
            elif self._restore is not None:
                restored = interruptible(self._restore, aligned)
            else:
                restored = [None] * len(batch)
            if self.options.writes_aligned:
                for target, face in zip(batch, aligned, strict=True):
                    write_png(self._output_dir / "Aligned" / f"{path.stem}_{target.index}.png", face)
            results += [(target, None if face is None else self._place(photo, target, face))
                        for target, face in zip(batch, restored, strict=True)]
        return results

    def _read_restored(self, name: str, aligned: np.ndarray) -> np.ndarray:
        """Read a face another tool restored; `aligned` is what it should have been given."""
        path, given = self.options.restored_dir / name, self._output_dir / "Aligned" / name
        if given.exists() and given.resolve() != path.resolve():
            before = quantize(read_image(given).pixels)
            if before.shape != aligned.shape or cv2.absdiff(before, aligned).mean() > SAME_FACE:
                raise UserError(f"{path} was restored from another face than this run finds. Give the flags that "
                                "--restorer none was given, or run that again.")
        if not path.exists():
            raise UserError(f"the restored face {path} is missing. Restore all of Aligned/ with the same detector "
                            "flags, keeping the names.")
        return check_restored(quantize(read_image(path).pixels), path)

    def _place(self, photo: Photo, target: _Target, face: np.ndarray) -> np.ndarray:
        """Lay a restored face onto its region; what it does not reach is filled by bicubic enlargement."""
        legacy = self.options.legacy_alignment
        region = paste_region(face, target.matrix, target.box, legacy=legacy)
        if legacy:  # the original leaves it black
            return region
        reached = coverage(target.matrix, target.box)
        if reached.min() == 1:
            return region
        filled = region + (1 - reached) * 255 * _enlarge_region(photo.pixels, target.box)
        return np.clip(np.rint(filled), 0, 255).astype(np.uint8)

    def _write(self, name: str, photo: Photo, target: _Target, hq: np.ndarray | None) -> None:
        top, left, height, width = target.box
        lq = quantize(photo.pixels[top:top + height, left:left + width], bit_depth=photo.bit_depth)
        if hq is not None:
            write_png(self._output_dir / "Face_HQ" / name, hq)
        write_png(self._output_dir / "Face_LQ" / name, lq)

    def _remove_earlier(self, stem: str, num_faces: int) -> None:
        """Remove pairs of an earlier run, and crops beyond the faces of this one."""
        for folder in ("Face_LQ", "Face_HQ"):
            for path in faces_in(self._output_dir / folder):
                if stem_of_face(path) == stem:
                    path.unlink(missing_ok=True)
        if self.options.writes_aligned:
            for path in faces_in(self._output_dir / "Aligned"):
                if stem_of_face(path) == stem and int(FACE_NAME.fullmatch(path.stem)["index"]) >= num_faces:
                    path.unlink(missing_ok=True)


def _batches(targets: list[_Target]) -> Iterator[list[_Target]]:
    for start in range(0, len(targets), BATCH):
        yield targets[start:start + BATCH]


def _enlarge_region(pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Enlarge a region four times as bicubic enlargement of the whole photo would: [4 * height, 4 * width, 3]."""
    top, left, height, width = box
    above, before = min(CONTEXT, top), min(CONTEXT, left)
    around = pixels[top - above:top + height + CONTEXT, left - before:left + width + CONTEXT]
    enlarged = resize_bicubic(np.ascontiguousarray(around), around.shape[0] * SCALE, around.shape[1] * SCALE)
    return enlarged[SCALE * above:SCALE * (above + height), SCALE * before:SCALE * (before + width)]


def draw_overlay(photo: np.ndarray, targets: list[_Target]) -> np.ndarray:
    """Draw boxes, landmarks, numbers and scores onto a copy of a photo [h, w, 3] uint8 RGB."""
    picture = photo.copy()
    thickness = max(1, round(min(photo.shape[:2]) / 400))
    for target in targets:
        top, left, height, width = target.box
        cv2.rectangle(picture, (left, top), (left + width - 1, top + height - 1), (0, 255, 0), thickness)
        for x, y in np.clip(target.face.landmarks, -1000, max(photo.shape) + 1000):
            cv2.circle(picture, (round(float(x)), round(float(y))), thickness, (255, 0, 0), -1)
        size = thickness * 0.4
        cv2.putText(picture, f"{target.index}: {target.face.score:.3f}", (left, max(top - 2 * thickness, 8)),
                    cv2.FONT_HERSHEY_SIMPLEX, size, (0, 255, 0), thickness, cv2.LINE_AA)
    return picture
