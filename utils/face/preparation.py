"""What generate_test_faces.py does with one photo: detect its faces, align and restore them, write Face_LQ/, Face_HQ/.

The geometry is in `utils/face/alignment.py`: `align_face` makes what a restorer gets, `paste_region` makes Face_HQ.
`rrdb-face` restores the face in the photo's own pixels instead (`RrdbFace.restore_region`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from config import SCALE
from utils.console import interruptible, note_once
from utils.errors import UserError
from utils.face.alignment import (
    ALIGNED_SIZE,
    align_face,
    check_landmarks,
    coverage,
    estimate_alignment,
    intersect_box,
    paste_region,
)
from utils.face.detection import BOX_COLUMNS, LANDMARK_COLUMNS, Detector, Face
from utils.face.pairs import BOX_PIXELS, PhotoFace, list_faces
from utils.face.patches import Patches
from utils.face.restorers import Restorer, RrdbFace
from utils.image.io import Photo, quantize, read_image, to_float, write_png
from utils.image.listing import Source, same_name
from utils.image.resizing import resize_bicubic

BATCH = 4  # faces restored at a time: a batch of GPEN-512 takes about 2 GiB
CONTEXT = 2  # pixels around a region that its bicubic upscale looks at
FACE_COLUMNS = ("file", "index", "status", *BOX_COLUMNS, *LANDMARK_COLUMNS, "score", *BOX_PIXELS, "detector",
                "restorer", "reason")
FINISHED = ("ok", "no face", "too small", "outside", "too many")  # all but "error"
LARGEST_BOX = 32767 // SCALE  # pixels: OpenCV warps to no larger images
ALIGNED_TOLERANCE = 4.0  # of 255: crops in Aligned/ that differ by more, in the mean, are of another face


@dataclass(frozen=True)
class PreparationSettings:
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
    def folders(self) -> list[str]:
        """The folders that get a file per face; Aligned also where another tool is to restore what is in it."""
        writes_hq = self.restorer != "none" or self.restored_dir is not None
        return ["Face_LQ", *["Face_HQ"] * writes_hq, *["Aligned"] * (self.save_aligned or not writes_hq)]


class _Target(NamedTuple):
    """A face that is to be written: its number, the pixels of its box (top, left, height, width), its alignment."""

    index: int
    face: Face
    box: tuple[int, int, int, int]
    matrix: np.ndarray


class FacePreparer:
    """Prepares the faces of one photo after the other."""

    def __init__(self, detector: Detector, restorer: Restorer | None, output_dir: Path, settings: PreparationSettings):
        """Take a detector, a restorer (None: aligned faces are written, or read from `restored_dir`) and settings."""
        self._detect, self._restore, self._output_dir, self.settings = detector, restorer, output_dir, settings
        self._earlier: dict[str, list[Path]] = {}  # files of an earlier run, by the photo's key
        for folder in ("Face_LQ", "Face_HQ", *["Aligned"] * ("Aligned" in settings.folders)):
            if (output_dir / folder).is_dir():
                for key, faces in list_faces(output_dir / folder, recursive=True).faces.items():
                    self._earlier.setdefault(key, []).extend(path for _, path in faces)

    def is_done(self, key: str, rows: list[dict]) -> bool:
        """Whether an earlier run, which left these rows of a photo, did all that this one would."""
        settings = self.settings
        names = [f"{key}_{row['index']}.png" for row in rows if row["status"] == "ok"]
        return (bool(rows) and not any(row["status"] in ("too small", "too many") for row in rows)
                and all(row["detector"] == settings.detector and row["restorer"] in ("", settings.restorer)
                        for row in rows)
                and all((self._output_dir / folder / name).exists() for folder in settings.folders for name in names)
                and (not settings.save_overlay or (self._output_dir / "Overlay" / f"{key}.png").exists()))

    def prepare(self, source: Source, on_progress: Callable[[str], None] = lambda _: None) -> list[dict]:
        """Write `<key>_<index>.png` for each face of a photo, and return the photo's rows of the report.

        Faces are numbered by falling score, then by position. Faces an earlier run wrote for this photo are removed.
        """
        photo = read_image(source.path)
        targets, restored, rows = self._find(source, photo, on_progress)
        names = [f"{source.key}_{target.index}.png" for target in targets]
        for earlier in self._earlier.pop(same_name(source.key), []):
            if earlier not in [self._output_dir / "Aligned" / name for name in names]:
                earlier.unlink(missing_ok=True)
        for name, target, hq in zip(names, targets, restored, strict=True):
            top, left, height, width = target.box
            lq = quantize(photo.pixels[top:top + height, left:left + width], bit_depth=photo.bit_depth)
            if hq is not None:
                write_png(self._output_dir / "Face_HQ" / name, hq)
            write_png(self._output_dir / "Face_LQ" / name, lq)
        return rows or [{"file": source.name, "status": "no face", "detector": self.settings.detector}]

    def faces_of(self, source: Source, photo: Photo, on_progress: Callable[[str], None]) -> list[PhotoFace]:
        """Find and restore the faces of a photo, without writing them; a note names those that cannot be aligned."""
        targets, restored, rows = self._find(source, photo, on_progress)
        for row in rows:
            if row["status"] == "error":
                note_once(f"{source.name}: a face is left out: {row['reason']}")
        faces = []
        for (index, _, box, matrix), hq in zip(targets, restored, strict=True):
            top, left, height, width = box
            lq = photo.pixels[top:top + height, left:left + width]
            faces.append(PhotoFace(f"{source.key}_{index}", Patches(lq[None], to_float(hq)[None]), box, matrix))
        return faces

    def _find(self, source: Source, photo: Photo,
              on_progress: Callable[[str], None]) -> tuple[list[_Target], list[np.ndarray | None], list[dict]]:
        """Find the faces of a photo; return those that are wanted, their restored regions, and rows of all faces."""
        samples = quantize(photo.pixels)
        on_progress("detecting")
        faces = interruptible(self._detect, photo.pixels, source.name)
        targets, rows = self._choose(source.name, faces, samples.shape[:2])
        if self.settings.save_overlay:
            write_png(self._output_dir / "Overlay" / f"{source.key}.png", draw_overlay(samples, targets))
        names = [f"{source.key}_{target.index}.png" for target in targets]
        restored: list[np.ndarray | None] = []
        for start in range(0, len(targets), BATCH):
            on_progress(f"face {start + 1} of {len(targets)}")
            restored += self._restore_batch(photo, samples, targets[start:start + BATCH], names[start:start + BATCH])
        return targets, restored, rows

    def _choose(self, file: str, faces: list[Face], size: tuple[int, int]) -> tuple[list[_Target], list[dict]]:
        """Decide which faces are written; every face gets a row."""
        settings, targets, rows = self.settings, [], []
        for face in faces:
            row = {"file": file, "status": "ok", "score": face.score, "detector": settings.detector,
                   "restorer": settings.restorer, **dict(zip(BOX_COLUMNS, map(float, face.box), strict=True)),
                   **dict(zip(LANDMARK_COLUMNS, map(float, face.landmarks.ravel()), strict=True))}
            rows.append(row)
            box = intersect_box(face.box, *size, margin=settings.box_margin)
            if box is None:
                row.update(status="outside", reason="the box does not meet the photo")
                continue
            row.update(zip(BOX_PIXELS, box, strict=True))
            if max(box[2:]) > LARGEST_BOX:
                row.update(status="error", reason=f"the box is larger than {LARGEST_BOX} pixels")
            elif min(box[2:]) < settings.min_face_size:
                row.update(status="too small", reason=f"below --min_face_size {settings.min_face_size}")
            elif settings.max_faces is not None and len(targets) >= settings.max_faces:
                row.update(status="too many", reason=f"beyond --max_faces {settings.max_faces}")
            else:
                try:
                    matrix = estimate_alignment(face.landmarks)
                    check_landmarks(face.landmarks, matrix, face.box, *size)
                    row["index"] = len(targets)
                    targets.append(_Target(len(targets), face, box, matrix))
                except UserError as error:
                    row.update(status="error", reason=str(error))
        return targets, rows

    def _restore_batch(self, photo: Photo, samples: np.ndarray, targets: list[_Target],
                       names: list[str]) -> list[np.ndarray | None]:
        """Return the high-quality region of each face, or None where there is no restorer."""
        aligned = np.stack([align_face(samples, target.matrix) for target in targets])
        restored: Sequence[np.ndarray] = ()
        regions: list[np.ndarray | None] = [None] * len(targets)
        if self.settings.restored_dir is not None:
            restored = [self._read_restored(name, face) for name, face in zip(names, aligned, strict=True)]
        elif isinstance(self._restore, RrdbFace) and not self.settings.legacy_alignment:
            regions = [interruptible(self._restore.restore_region, samples, target.matrix, target.box)
                       for target in targets]
        elif self._restore is not None:
            restored = interruptible(self._restore, aligned)
        if "Aligned" in self.settings.folders:
            for name, face in zip(names, aligned, strict=True):
                write_png(self._output_dir / "Aligned" / name, face)
        if len(restored):
            regions = [self._paste(photo, target, face) for target, face in zip(targets, restored, strict=True)]
        return regions

    def _read_restored(self, name: str, aligned: np.ndarray) -> np.ndarray:
        """Read a face that another tool restored; `aligned` is what it should have been given."""
        path, given = self.settings.restored_dir / name, self._output_dir / "Aligned" / name
        if given.exists() and given.resolve() != path.resolve():
            before = quantize(read_image(given).pixels)
            if before.shape != aligned.shape or cv2.absdiff(before, aligned).mean() > ALIGNED_TOLERANCE:
                raise UserError(f"{path} was restored from another face than this run finds. Give the flags that "
                                "--restorer none was given, or run that again.")
        if not path.exists():
            raise UserError(f"the restored face {path} is missing. Restore all of Aligned/ with the same detector "
                            "flags, keeping the names.")
        face = quantize(read_image(path).pixels)
        if face.shape[:2] != (ALIGNED_SIZE, ALIGNED_SIZE):
            raise UserError(f"the restored face {path} must be {ALIGNED_SIZE}x{ALIGNED_SIZE}. Received: "
                            f"{face.shape[1]}x{face.shape[0]}.")
        return face

    def _paste(self, photo: Photo, target: _Target, face: np.ndarray) -> np.ndarray:
        """Inverse-warp a restored face into its region; what it does not cover is upscaled bicubically."""
        region = paste_region(face, target.matrix, target.box, legacy=self.settings.legacy_alignment)
        covered = coverage(target.matrix, target.box)
        if self.settings.legacy_alignment or covered.min() == 1:  # the original leaves the rest black
            return region
        filled = region + (1 - covered) * 255 * _upscale_region(photo.pixels, target.box)
        return np.clip(np.rint(filled), 0, 255).astype(np.uint8)


def _upscale_region(pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Upscale a region as a bicubic upscale of the whole photo would: [4 * height, 4 * width, 3]."""
    top, left, height, width = box
    above, before = min(CONTEXT, top), min(CONTEXT, left)
    around = pixels[top - above:top + height + CONTEXT, left - before:left + width + CONTEXT]
    upscaled = resize_bicubic(np.ascontiguousarray(around), around.shape[0] * SCALE, around.shape[1] * SCALE)
    return upscaled[SCALE * above:SCALE * (above + height), SCALE * before:SCALE * (before + width)]


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
