"""JPEGs that were cut and got an end mark are told from sound ones, whatever these show."""

import io

import numpy as np
import pytest
import skimage
from PIL import Image

from tests.picture_files import encode, fails_in_one_line
from utils.image.io import read_image
from utils.image.jpeg_data import ends_in_gray, lengthened

END = b"\xff\xd9"
OPTIONS = ({}, {"quality": 95, "subsampling": 0}, {"quality": 30, "subsampling": 2}, {"optimize": True},
           {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"progressive": True})
MODES = ("RGB", "L", "CMYK")


def encoded(samples, mode, options):
    stream = io.BytesIO()
    image = Image.fromarray(samples).convert(mode)
    if mode == "CMYK":  # with black, which `convert` leaves out
        image = Image.merge(mode, (*Image.fromarray(samples).split(), image.getchannel(0)))
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("options", OPTIONS[:-1], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_jpeg_cut_anywhere_is_refused_although_it_has_an_end_mark(tmp_path, mode, options):
    data = encoded(skimage.data.astronaut()[:100, :133], mode, options)
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    whole = read_image(path).pixels
    begin = data.rindex(b"\xff\xda") + 40
    for position in range(begin, len(data) - 2, max(1, (len(data) - begin) // 60)):
        path.write_bytes(data[:position] + END)
        if position < len(data) - 200:  # of a block of the corner something may be left, and then it is not gray
            assert "its data end before its lower right corner" in fails_in_one_line(path)
        elif ends_in_gray(Image.open(path).getpixel((132, 99))):
            fails_in_one_line(path)
        else:
            assert np.abs(read_image(path).pixels - whole)[:80].max() == 0


def test_a_progressive_jpeg_cut_in_its_first_scan_is_refused(tmp_path):
    """Cut in a later one, it is blurred and not gray, which nothing tells from a picture that was made so."""
    data = encoded(skimage.data.astronaut()[:100, :133], "RGB", {"progressive": True})
    first, second = (data.index(b"\xff\xda"), data.index(b"\xff\xda", data.index(b"\xff\xda") + 2))
    (tmp_path / "x.jpg").write_bytes(data[:(first + second) // 2] + END)
    assert "its data end before its lower right corner" in fails_in_one_line(tmp_path / "x.jpg")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_sound_jpeg_with_a_gray_corner_is_read(tmp_path, mode, options):
    rng, path, gray = np.random.default_rng(0), tmp_path / "x.jpg", 0
    for number in range(40):
        height, width = rng.integers(1, 80, 2)
        samples = rng.integers(0, 256, (height, width, 3), np.uint8)
        samples[height // 2 * (number % 2):, width // 2 * (number % 4 // 2):] = 128
        data = encoded(samples, mode, options)
        gray += ends_in_gray(Image.open(io.BytesIO(data)).getpixel((int(width) - 1, int(height) - 1)))
        np.testing.assert_array_equal(decoded(lengthened(data)), decoded(data))
        path.write_bytes(data)
        assert read_image(path).pixels.shape == (height, width, 3)
    assert gray >= 20


def test_data_behind_the_end_mark_and_a_second_picture_do_not_matter(tmp_path):
    flat = Image.new("RGB", (50, 40), (128, 128, 128))
    flat.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (50, 40))])
    assert np.ptp(read_image(tmp_path / "x.jpg").pixels) == 0
    thumbnail = encode(np.zeros((9, 9, 3), np.uint8), "JPEG")
    flat.save(tmp_path / "y.jpg", exif=b"Exif\0\0" + thumbnail)
    data = (tmp_path / "y.jpg").read_bytes()
    for rest in (b"", b"ftypmp42" + bytes(999), thumbnail, END):
        (tmp_path / "y.jpg").write_bytes(data + rest)
        assert np.ptp(read_image(tmp_path / "y.jpg").pixels) == 0


@pytest.mark.parametrize("data", [
    b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xda\0\2\1\2\3",
    b"\xff\xd8\xff\xc9\0\2\xff\xda\0\2\1\xff\xd9"],
    ids=["nothing", "no scan", "no length", "no end mark", "arithmetic coding"])
def test_where_nothing_can_be_told_nothing_is_said(data):
    assert lengthened(data) is None
