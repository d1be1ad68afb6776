"""Restore photos in a browser: the faces that are found, a slider between before and after, a download.

python scripts/web_app.py    # then open http://127.0.0.1:7860
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from config import SCALE, AdaptationConfig, UpscalingConfig
from scripts import restore
from utils.console import ArgumentParser, counted, run_cli
from utils.errors import FatalError, UserError, require
from utils.face.pairs import PhotoFace
from utils.image.io import Photo, image_size, quantize, write_image
from utils.image.listing import Source
from utils.image.resizing import resize_bicubic, resize_to

KEPT = 2  # photos whose un-pasted results stay in memory
LARGEST_SHOWN, FACES_SHOWN = 4096, 768  # pixels: longer sides of the pictures in the page
FILES_AGE = 3600  # seconds that uploads and results stay on the disk
BICUBIC, NAMES = "bicubic", {"realesrgan": "Real-ESRGAN"}
POLICY = "default-src 'self' 'unsafe-inline' data: blob:"  # the browser calls no other host
OnProgress = Callable[[str, float], None]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: open to the network")
    parser.add_argument("--port", type=int, default=7860, help="0: any that is free")
    parser.add_argument("--max_mib", type=float, default=64, help="larger uploads are refused")
    parser.add_argument("--max_megapixels", type=float, default=16, help="larger photos are refused")
    parser.add_argument("--baseline", default="realesrgan", help="super-resolver to compare with, as --model_dir")
    restore.add_networks(parser)
    args = parser.parse_args(argv)
    require(0 <= args.port < 2**16, "--port must lie between 0 and 65535", args.port)
    require(args.max_mib > 0, "--max_mib must be positive", args.max_mib)
    require(args.max_megapixels > 0, "--max_megapixels must be positive", args.max_megapixels)
    restore.check_networks(args)
    return args


@dataclass
class Restoration:
    """A photo (a `Loaded`) and its faces; later the trust in these, and the results, un-pasted and of the baseline."""

    loaded: tuple
    row: dict
    faces: list[PhotoFace]
    trusted: tuple[list[PhotoFace], list[np.ndarray]] = ()
    samples: np.ndarray | None = None
    baseline: np.ndarray | None = None


class Session:
    """Restores uploads as restore.py does, and keeps the last few results."""

    def __init__(self, args: argparse.Namespace, folder: Path, stack: contextlib.ExitStack):
        """Load the networks; pictures are written into `folder`."""
        self._args, self.folder, self._kept, self._baseline = args, folder, {}, None
        defaults = restore.parse_args(["photo", "--output_dir", str(folder)])
        self._pipeline = restore.build(argparse.Namespace(**vars(defaults) | vars(args)), stack)

    def open(self, path: str, on_progress: OnProgress) -> Restoration:
        """Read an upload and find its faces, unless that was done lately."""
        done = self._kept.pop(path, None)
        if done is None:
            source, (height, width) = Source(Path(path).name, Path(path)), image_size(Path(path))
            if height * width > 1e6 * self._args.max_megapixels:
                raise UserError(f"{source.name} has {height * width / 1e6:.3g} megapixels, more than the "
                                f"{self._args.max_megapixels:g} that are taken here: make it smaller.")
            row = {"file": source.name}
            loaded = self._pipeline.read(source, row)
            done = Restoration(loaded, row, self._pipeline.find_faces(loaded, row, on_progress))
        self._kept[path] = done
        for oldest in list(self._kept)[:-KEPT]:
            del self._kept[oldest]
        return done

    def after(self, done: Restoration, face_weight: float, on_progress: OnProgress) -> np.ndarray:
        """Return the result; another `face_weight` needs no adaptation and no upscaling again."""
        from utils.inference.pasting import paste_faces

        if done.samples is None:
            done.trusted = self._pipeline.trust_faces(done.faces)
            done.samples, done.row["status"] = self._pipeline.restore(done.loaded, done.faces, done.row, on_progress)
            print(f"{done.row['file']}: {done.row['status']}, {counted(len(done.faces), 'face')}", flush=True)
        samples = done.samples.copy()
        paste_faces(samples, *done.trusted, weight=face_weight)
        return samples

    def before(self, done: Restoration, kind: str, on_progress: OnProgress) -> np.ndarray:
        """Return the photo as `kind` upscales it: bicubic, in the size that is shown, or the baseline."""
        if kind == BICUBIC:
            photo = done.loaded.photo
            pixels = resize_bicubic(photo.pixels, *shown_size(*(SCALE * side for side in photo.pixels.shape[:2])))
            return quantize(pixels, bit_depth=photo.bit_depth, gray=photo.gray)
        if self._baseline is None:
            from utils.inference.restoration import PhotoPipeline, PipelineSettings

            on_progress(f"loading {kind}", 0)  # when it is first used
            self._baseline = PhotoPipeline(
                restore.load_resolver(self._args.baseline, self._args)[0], None, self.folder,
                PipelineSettings(AdaptationConfig(num_steps=0), UpscalingConfig(memory_gib=self._args.memory_gib)))
        if done.baseline is None:
            done.baseline, _ = self._baseline.restore(done.loaded, [], dict(done.row), on_progress)
        return done.baseline

    def write(self, name: str, samples: np.ndarray, photo: Photo, *, shown: bool = True) -> str:
        """Write a picture and return its path; if `shown` in the page, reduced, without alpha and EXIF data."""
        if shown:
            photo, size = replace(photo, exif=None, alpha=None), shown_size(*samples.shape[:2])
            samples = resize_to(samples, *size, "area").reshape(*size, -1)
        alpha = None if photo.alpha is None else resize_bicubic(photo.alpha, *samples.shape[:2])
        write_image(self.folder / name, samples, alpha=alpha, source=photo)
        return str(self.folder / name)


def shown_size(height: int, width: int) -> list[int]:
    """Return the size in which the page shows a picture: a browser cannot hold all of a large result."""
    scale = min(1, LARGEST_SHOWN / max(height, width))
    return [max(1, round(scale * side)) for side in (height, width)]


def draw_faces(photo: Photo, faces: list[PhotoFace]) -> np.ndarray:
    """Return a picture of a photo, with boxes around its faces: uint8 RGB, its longer side FACES_SHOWN."""
    scale = FACES_SHOWN / max(photo.pixels.shape[:2])
    height, width = (max(1, round(scale * side)) for side in photo.pixels.shape[:2])
    picture = quantize(resize_to(photo.pixels, height, width, "area" if scale < 1 else "bicubic"))
    for top, left, height, width in (face.box for face in faces):
        low, high = ((round(scale * x), round(scale * y)) for x, y in ((left, top), (left + width, top + height)))
        cv2.rectangle(picture, low, high, (0, 255, 0), 2, cv2.LINE_AA)
    return picture


def build_page(session: Session, args: argparse.Namespace):
    """Return the page, a gradio.Blocks."""
    import gradio as gr

    def clear():
        return None, None, gr.DownloadButton(value=None, interactive=False), ""

    def find(path, progress=gr.Progress()):  # noqa: B008 gradio finds it so
        if path is None:
            return None, ""
        with shown_errors(path):
            shutil.rmtree(session.folder, ignore_errors=True)  # gradio has copies of what is in the page
            done = session.open(path, follow(progress))
            picture = session.write("faces.png", draw_faces(done.loaded.photo, done.faces), done.loaded.photo)
        return picture, f"{counted(len(done.faces), 'face')} found"

    def show(path, face_weight, kind, progress=gr.Progress()):  # noqa: B008
        if path is None:
            return gr.skip(), gr.skip(), gr.skip()
        with shown_errors(path):
            done = session.open(path, follow(progress))
            (source, photo, _), after = done.loaded, session.after(done, face_weight, follow(progress))
            before = session.before(done, kind, follow(progress))
            pair = (session.write("before.jpg", before, photo), session.write("after.jpg", after, photo))
            result = session.write(f"{source.key}_x4.png", after, photo, shown=False)
        text = [f"{after.shape[1]}x{after.shape[0]} pixels", counted(len(done.faces), "face"), done.row["status"]]
        return pair, gr.DownloadButton(value=result, interactive=True), "; ".join(
            [*text, *filter(None, [done.row.get("reason")])])

    with gr.Blocks(title="MetaF2N-TF", analytics_enabled=False, delete_cache=(FILES_AGE // 4, FILES_AGE)) as page:
        gr.Markdown("# MetaF2N-TF\nUpscales photos of people four times, by a network that adapts to the faces in it. "
                    f"A photo may have up to {args.max_megapixels:g} megapixels and {args.max_mib:g} MiB.")
        with gr.Row():
            with gr.Column():
                photo = gr.File(label="Photo", height=160)
                face_weight = gr.Slider(0, 1, value=1, step=0.05, label="Weight of the restored faces")
                kind = gr.Radio([BICUBIC, NAMES.get(args.baseline, Path(args.baseline).name)], value=BICUBIC,
                                label="Before")
                status = gr.Textbox(label="Status", interactive=False)
                download = gr.DownloadButton("Download (PNG)", interactive=False, variant="primary")
            faces = gr.Image(label="Faces", interactive=False, height=420, buttons=["fullscreen"])
        slider = gr.ImageSlider(label="Before and after", interactive=False, max_height=800, buttons=["fullscreen"])
        one_job = {"concurrency_limit": 1, "concurrency_id": "networks", "trigger_mode": "always_last",
                   "api_visibility": "private"}
        shown = {"fn": show, "inputs": [photo, face_weight, kind], "outputs": [slider, download, status],
                 "show_progress_on": slider, **one_job}
        cleared = photo.change(clear, None, [faces, slider, download, status], queue=False, api_visibility="private")
        cleared.then(find, photo, [faces, status], show_progress_on=faces, **one_job).success(**shown)
        face_weight.release(**shown)
        kind.input(**shown)
    return page


@contextlib.contextmanager
def shown_errors(path: str) -> Iterator[None]:
    """Show an error in the page as one sentence, in which an upload has the name that its user knows."""
    import gradio as gr

    name = Path(path).name
    try:
        yield
    except (UserError, FatalError) as error:
        message = " ".join(str(error).replace(path, name).split())
        raise gr.Error(message, duration=None, print_exception=False) from error
    except Exception as error:  # a bug must not leave the page waiting
        traceback.print_exc()
        raise gr.Error(f"{name} could not be restored: the page's terminal says why.", print_exception=False) from error


def follow(progress: Callable) -> OnProgress:
    """Return what shows progress in the page; it adds up the shares that it is given."""
    shares = []

    def on_progress(what: str, share: float) -> None:
        shares.append(share)
        progress(min(1, sum(shares)), desc=what)

    return on_progress


def serve(page, listener: socket.socket, args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def forbid_other_hosts(request, call_next):
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    gr.mount_gradio_app(app, page.queue(api_open=False), path="/", footer_links=[], run_history=False, ssr_mode=False,
                        show_error=False, max_file_size=round(args.max_mib * 2**20))
    host, port = listener.getsockname()[:2]
    print(f"open http://{f'[{host}]' if ':' in host else host}:{port} in a browser; Ctrl-C ends", flush=True)
    # below critical, uvicorn prints a traceback for every page that is still open when Ctrl-C ends it
    settings = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address; raise a UserError if that is not possible."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"cannot listen at --host {host} --port {port}: {error.strerror or error}. Choose another "
                        "--port.") from error


def main(argv: list[str] | None = None) -> int:
    """Run the tool and return the exit status."""
    args = parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio, which is not installed: pip install -r requirements-web.txt")
    with (listen(args.host, args.port) as listener, contextlib.ExitStack() as stack,
          tempfile.TemporaryDirectory(prefix="metaf2n-") as folder):
        os.environ.update(GRADIO_TEMP_DIR=str(Path(folder, "gradio")), GRADIO_ANALYTICS_ENABLED="False")
        serve(build_page(Session(args, Path(folder, "pictures"), stack), args), listener, args)
    return 0


if __name__ == "__main__":
    run_cli(main)
