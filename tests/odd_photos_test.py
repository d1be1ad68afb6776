"""Photos of rare kinds and files that are none, in a folder given to the tools: right, or a row that says why not."""

import csv
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import calculate_metrics
import generate_test_faces
from tests.picture_files import chunk, exif, jpeg_of_claimed_size, make_png, smooth
from tests.workplace import Workplace
from utils.console import run_cli
from utils.image.io import quantize, read_image, write_png

HEIGHT, WIDTH = 24, 30
BITS = np.indices((HEIGHT, WIDTH)).sum(axis=0) // 5 % 2 == 1
POSTER = smooth(HEIGHT, WIDTH) // 64 * 64
GRAY = np.rint(np.linspace(0, 65535, HEIGHT * WIDTH)).astype(np.uint16).reshape(HEIGHT, WIDTH, 1)
DAMAGED = {
    "claims_much.png": "178 million pixels", "claims_much.jpg": "178 million pixels",
    "claims_more.jpg": "ends long before", "heic.jpg": "is a HEIC picture", "cut.png": "truncated",
    "cut.jpg": "truncated", "page.jpg": "it is no PNG, JPEG", "empty.png": "the file is empty"}


def saved(samples, kind, **options):
    stream = io.BytesIO()
    image = samples if isinstance(samples, Image.Image) else Image.fromarray(samples)
    image.save(stream, kind, **options)
    return stream.getvalue()


def odd_files():
    """Give name -> (bytes, samples that the photo shows)."""
    other = Image.fromarray(POSTER[::-1])
    palette = Image.fromarray(POSTER).quantize(64)
    alpha = np.full((HEIGHT, WIDTH, 1), 65535, np.uint16)
    alpha[:4] = 0
    huge = exif(6)[6:] + bytes(2**21)
    shown = np.asarray(palette.convert("RGB"))
    return {
        "plain.png": (saved(POSTER, "PNG"), POSTER), "named.jpg": (saved(POSTER, "PNG"), POSTER),
        "bits.png": (saved(BITS, "PNG"), 255 * BITS[:, :, None].astype(np.uint8)),
        "moving.webp": (saved(POSTER, "WEBP", save_all=True, append_images=[other], lossless=True), POSTER),
        "moving.png": (saved(POSTER, "PNG", save_all=True, append_images=[other]), POSTER),
        "gif.tif": (saved(palette, "GIF", save_all=True, append_images=[other.quantize(64)]), shown),
        "palette.png": (saved(palette, "PNG", transparency=5), shown),
        "deep.png": (make_png(np.dstack([GRAY, alpha]), colour_type=4), GRAY),
        "tagged.png": (make_png(POSTER, colour_type=2, extra=chunk(b"eXIf", huge)), np.rot90(POSTER, -1)),
        "cmyk.jpeg": (saved(Image.fromarray(POSTER).convert("CMYK"), "JPEG", quality=98), POSTER),
        "dot.bmp": (saved(POSTER[:1, :1], "BMP"), POSTER[:1, :1]),
        "line.tiff": (saved(np.tile(POSTER[:3, :1], (1, 5000, 1)), "TIFF"), np.tile(POSTER[:3, :1], (1, 5000, 1))),
    }


def damaged_files():
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return {
        "claims_much.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))),
        "claims_much.jpg": jpeg_of_claimed_size(20000), "claims_more.jpg": jpeg_of_claimed_size(13001),
        "heic.jpg": struct.pack(">I4s4s", 24, b"ftyp", b"heic") + bytes(99), "cut.png": saved(POSTER, "PNG")[:-60],
        "cut.jpg": saved(POSTER, "JPEG")[:-60], "page.jpg": b"<!DOCTYPE html>", "empty.png": b""}


def write_all(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ({name: content for name, (content, _) in odd_files().items()} | damaged_files()).items():
        (folder / renamed(name)).write_bytes(content)


def renamed(name):
    """Give a name whose stem no other file has."""
    return f"{name.replace('.', '_')}.{name.split('.')[1]}"


def check_damaged(rows, errors):
    """Check the row and the line on stderr of every file that is none."""
    for name, message in DAMAGED.items():
        row = rows[renamed(name)]
        assert row["status"] == "error"
        assert message in row["reason"]
        assert renamed(name) in row["reason"]
        [line] = [line for line in errors.splitlines() if f"error: {renamed(name)}" in line]
        assert message in line
    assert {name for name, row in rows.items() if row["status"] == "error"} == {*map(renamed, DAMAGED)}


def test_samples_are_those_that_a_viewer_shows(tmp_path):
    write_all(tmp_path)
    for name, (_, expected) in odd_files().items():
        photo = read_image(tmp_path / renamed(name))
        peak = np.iinfo(expected.dtype).max
        tolerance = 8 / 255 if name.endswith("jpeg") else 1e-6
        assert photo.pixels.shape[:2] == expected.shape[:2]
        np.testing.assert_allclose(photo.pixels, np.broadcast_to(expected / peak, photo.pixels.shape), atol=tolerance)
    assert (read_image(tmp_path / "palette_png.png").alpha == 0).any()
    assert (read_image(tmp_path / "deep_png.png").alpha[:4] == 0).all()


def test_upscaling_gives_what_it_gives_for_the_plain_photo_and_says_why_others_fail(tmp_path, capfd):
    """The result of a rare kind is that of the same samples as a plain PNG."""
    place = Workplace(tmp_path)
    write_all(place.lq)
    for name, (_, expected) in odd_files().items():
        if not name.endswith("jpeg"):
            write_png(place.lq / f"as_{name.replace('.', '_')}.png", np.ascontiguousarray(expected))
    assert place.run() == 2
    rows = place.report()
    check_damaged(rows, capfd.readouterr().err)
    for name, (_, expected) in odd_files().items():
        stem = name.replace(".", "_")
        result = read_image(place.out / f"{stem}.png")
        assert rows[renamed(name)]["status"] == "base"
        assert result.pixels.shape[:2] == (4 * expected.shape[0], 4 * expected.shape[1])
        assert result.bit_depth == 8 * expected.dtype.itemsize
        if not name.endswith("jpeg"):
            reference = read_image(place.out / f"as_{stem}.png")
            np.testing.assert_array_equal(result.pixels, reference.pixels)
        assert (result.alpha is not None and result.alpha.min() < 1) == (name in ("palette.png", "deep.png"))


def test_phone_pictures_are_left_out_with_one_note_and_replace_no_result(tmp_path, capfd):
    """A phone may write photo.heic and photo.jpg at once: then photo.jpg alone is the photo."""
    place = Workplace(tmp_path)
    write_png(place.lq / "photo.png", POSTER)
    for name in ("photo.heic", "a.HEIF", "z.avif"):
        (place.lq / name).write_bytes(damaged_files()["heic.jpg"])
    assert place.run() == 0
    notes = [line for line in capfd.readouterr().err.splitlines() if "HEIC" in line]
    assert notes == [f"note: left out of {place.lq}: 3 HEIC or AVIF pictures, the first a.HEIF. "
                     "Convert them to PNG or JPEG."]
    assert list(place.results()) == list(place.report()) == ["photo.png"]
    (place.lq / "photo.png").unlink()
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: place.run("--overwrite"))
    assert (ended.value.code, capfd.readouterr().err) == (
        2, f"error: no image in {place.lq}, but 3 HEIC or AVIF pictures, the first a.HEIF. Convert them to PNG or "
           "JPEG.\n")


def test_faces_are_cut_from_rare_photos_and_the_others_get_rows(tmp_path, capfd):
    write_all(tmp_path / "LQ")
    points = [[8, 8], [16, 8], [12, 12], [9, 16], [15, 16]]
    (tmp_path / "b.json").write_text(json.dumps([
        {"file": renamed(name), "box": [4, 4, 19, 19], "landmarks": points} for name in (*odd_files(), *DAMAGED)]))
    assert generate_test_faces.main([
        "--input_dir", str(tmp_path / "LQ"), "--output_dir", str(tmp_path / "out"), "--detector", "boxes", "--boxes",
        str(tmp_path / "b.json"), "--restorer", "none"]) == 2
    with (tmp_path / "out" / "faces.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    check_damaged(rows, capfd.readouterr().err)
    for name in ("bits.png", "moving.webp", "moving.png", "gif.tif", "palette.png", "named.jpg", "tagged.png"):
        expected = odd_files()[name][1]
        face = quantize(read_image(tmp_path / "out" / "Face_LQ" / f"{name.replace('.', '_')}_0.png").pixels)
        height, width = face.shape[:2]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.broadcast_to(expected, (*expected.shape[:2], 3)), (height, width, 3))
        assert (windows[:, :, 0] == face).all(axis=(2, 3, 4)).any()  # a part of what a viewer shows
    assert rows["dot_bmp.bmp"]["status"] == "outside"


def test_metrics_of_rare_kinds_are_those_of_equal_pictures(tmp_path, capfd):
    write_all(tmp_path / "result")
    for name, (_, expected) in odd_files().items():
        samples = expected if expected.dtype == np.uint8 else np.rint(expected / 257).astype(np.uint8)
        write_png(tmp_path / "gt" / f"{name.replace('.', '_')}.png", np.ascontiguousarray(samples))
    for name in DAMAGED:
        write_png(tmp_path / "gt" / f"{name.replace('.', '_')}.png", POSTER)
    assert calculate_metrics.main(["--result_dir", str(tmp_path / "result"), "--gt_dir", str(tmp_path / "gt"),
                                   "--metrics", "psnr_rgb"]) == 2
    with (tmp_path / "result" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    check_damaged(rows, capfd.readouterr().err)
    for name in odd_files():
        value = float(rows[renamed(name)]["psnr_rgb"])
        assert value > 35 if name.endswith("jpeg") else value == np.inf
