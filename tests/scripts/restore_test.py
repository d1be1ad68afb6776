"""scripts/restore.py: photos, folders, formats; the faces are found by MTCNN, or by a detector that tests provide."""

import contextlib

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms

import scripts.restore as cli
import utils.face.restorers
import utils.inference.batch
import utils.weights.checkpoints
from scripts.make_demo import degrade
from tests.helpers.face_workplace import BOX, LANDMARKS, FaceWorkplace
from tests.helpers.small_networks import small_generator, small_masknet
from tests.helpers.tracing import untraced
from tests.helpers.workplace import cli as test_cli
from tests.helpers.workplace import fails, picture, write
from utils.errors import UserError
from utils.face.detection import Face
from utils.image.io import read_image, write_png
from utils.weights.checkpoints import checkpoint_tensors, write_tf1_checkpoint

FACE = Face(np.array(BOX) / 4, np.array(LANDMARKS) / 4, 0.99)  # of the degraded astronaut


def open_inverter(name, weights_dir):
    return lambda faces: 255 - faces


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a checkpoint; `faces` maps names of photos to what the detector finds."""
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator(), small_masknet()))

    @contextlib.contextmanager
    def open_detector(name, **_):
        yield lambda photo, file: [FACE] if "astronaut" in file else []

    monkeypatch.setattr(cli, "open_detector", open_detector)
    monkeypatch.setitem(utils.face.restorers.RESTORERS, "rrdb-face", open_inverter)
    write_png(tmp_path / "in" / "astronaut.png", degrade(skimage.data.astronaut()))
    with untraced():
        yield tmp_path


def run(place, *arguments, out="out"):
    return cli.main([*map(str, arguments), "-o", str(place / out), "--model_dir", str(place / "model")])


def names(place, out="out"):
    return sorted(path.relative_to(place / out).as_posix() for path in (place / out).rglob("*.*"))


def test_the_result_is_that_of_both_tools_one_after_the_other(tmp_path, monkeypatch):
    place = FaceWorkplace(tmp_path)
    monkeypatch.setitem(utils.face.restorers.RESTORERS, "rrdb-face", open_inverter)
    write_tf1_checkpoint(tmp_path / "model", checkpoint_tensors(small_generator(), small_masknet()))
    place.add_photo(samples=degrade(skimage.data.astronaut()))
    assert run(tmp_path, tmp_path / "LQ", out="one") == 0
    assert place.run("--detector", "mtcnn", boxes=False, restorer="rrdb-face") == 0
    assert test_cli.main([
        "--input_dir", str(tmp_path / "LQ"), "--face_dir", str(place.out), "--output_dir", str(tmp_path / "two"),
        "--model_dir", str(tmp_path / "model"), "--paste_faces", "--safeguard", "backtrack"]) == 0
    assert (tmp_path / "one" / "astronaut.png").read_bytes() == (tmp_path / "two" / "astronaut.png").read_bytes()
    assert "astronaut.png,adapted,128,128,1," in (tmp_path / "two" / "report.csv").read_text()


def test_faces_are_pasted_by_their_weight_and_nothing_else_changes(place):
    photo = place / "in" / "astronaut.png"
    for out, flags in {"with": (), "half": ("--face_weight", "0.5"), "zero": ("--face_weight", "0"),
                       "none": ("--no_paste",)}.items():
        assert run(place, photo, *flags, out=out) == 0
    whole, half, without = (255 * read_image(place / out / "astronaut.png").pixels for out in ("with", "half", "none"))
    assert (place / "zero" / "astronaut.png").read_bytes() == (place / "none" / "astronaut.png").read_bytes()
    top, left, height, width = 60, 180, 112, 84  # of the box, four times as large
    assert np.abs(whole - without)[top:top + height, left:left + width].max() > 20
    assert np.abs((whole - without) / 2 - (half - without)).max() < 1.1
    whole[top:top + height, left:left + width] = without[top:top + height, left:left + width]
    np.testing.assert_array_equal(whole, without)


def test_a_folder_of_many_kinds_keeps_what_each_photo_is(place, capsys, monkeypatch):
    loads, original = [], utils.weights.checkpoints.load_super_resolver
    monkeypatch.setattr(utils.weights.checkpoints, "load_super_resolver",
                        lambda *args, **given: loads.append(args) or original(*args, **given))
    astronaut = read_image(place / "in" / "astronaut.png").pixels
    color = (255 * astronaut[:, :, ::-1]).astype(np.uint8)
    write(place / "in" / "gray_astronaut.png", color.mean(axis=2).astype(np.uint8))
    write(place / "in" / "deep_astronaut.png", color.astype(np.uint16) * 257)
    write(place / "in" / "cut_astronaut.png", np.dstack([color, picture(1, 128, 128, channels=1)]))
    write(place / "in" / "scene.png", picture(2, 20, 30))
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Maker"
    Image.fromarray(picture(3, 20, 30)).save(place / "in" / "turned.jpg", exif=exif)
    (place / "in" / "broken.jpg").write_bytes(b"no image")
    (place / "out").mkdir()
    (place / "out" / ".scene.png.0123abcd.part").touch()  # which a killed run left
    assert run(place, place / "in") == 2
    assert len(loads) == 1
    shapes = {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (place / "out").iterdir()}
    assert {name: (image.shape, image.dtype) for name, image in shapes.items()} == {
        "astronaut.png": ((512, 512, 3), np.uint8), "gray_astronaut.png": ((512, 512), np.uint8),
        "deep_astronaut.png": ((512, 512, 3), np.uint16), "cut_astronaut.png": ((512, 512, 4), np.uint8),
        "scene.png": ((80, 120, 3), np.uint8), "turned.png": ((120, 80, 3), np.uint8)}
    assert Image.open(place / "out" / "turned.png").getexif()[271] == "Maker"
    shown = capsys.readouterr()
    assert "7 photos: 4 adapted, 2 not adapted, 2 without a face, 1 failed" in shown.out
    assert "broken.jpg" in shown.err


@pytest.mark.parametrize(("flags", "name", "size"), [
    ((), "a.png", (120, 80)), (("--format", "jpg", "--quality", "80"), "a.jpg", (120, 80)),
    (("--format", "webp", "--suffix", "_x2", "--outscale", "2"), "a_x2.webp", (60, 40)),
    (("--format", "same", "--outscale", "1.5"), "a.jpg", (45, 30))])
def test_format_name_and_size_are_as_asked(place, flags, name, size):
    exif = Image.Exif()
    exif[271] = "Maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture(1, 20, 30)).save(place / "a.JPEG", exif=exif, icc_profile=profile)
    assert run(place, "-i", place / "a.JPEG", *flags) == 0
    assert names(place) == [name]
    with Image.open(place / "out" / name) as image:
        assert (image.size, image.info["icc_profile"]) == (size, profile)
        assert image.getexif()[271] == "Maker"
        assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.split(".")[1]]
    assert run(place, place / "a.JPEG", *flags, "--strip_metadata", "--overwrite") == 0
    with Image.open(place / "out" / name) as image:
        assert 271 not in image.getexif()


def test_formats_agree_with_png(place):
    write(place / "gray.png", picture(1, 20, 30, channels=1))
    write(place / "deep.png", picture(2, 20, 30, dtype=np.uint16))
    for kind in ("png", "jpg", "webp"):
        run(place, place / "gray.png", place / "deep.png", "--format", kind, "--quality", "100")
    for name in ("gray", "deep"):
        png, jpg, webp = (read_image(place / "out" / f"{name}.{kind}") for kind in ("png", "jpg", "webp"))
        assert (jpg.gray, jpg.bit_depth) == (name == "gray", 8)
        assert np.abs(jpg.pixels - png.pixels).mean() < 0.01
        assert np.abs(webp.pixels - png.pixels).mean() < 0.02


def test_subfolders_are_kept_and_results_are_no_inputs(place):
    write(place / "in" / "sub" / "astronaut.png", picture(1, 20, 30))
    assert run(place, place / "in", "--recursive", out="in/out") == 0
    assert names(place, "in/out") == ["astronaut.png", "sub/astronaut.png"]
    with pytest.raises(UserError, match="--skip_existing"):
        run(place, place / "in", "--recursive", out="in/out")
    (place / "in" / "out" / "astronaut.png").unlink()
    (place / "in" / "out" / "sub" / "astronaut.png").write_text("kept")
    assert run(place, place / "in", "--recursive", "--skip_existing", "--compare", out="in/out") == 0
    assert (place / "in" / "out" / "sub" / "astronaut.png").read_text() == "kept"
    assert names(place, "in/out") == ["astronaut.png", "comparison/astronaut.png", "sub/astronaut.png"]
    assert cv2.imread(str(place / "in" / "out" / "comparison" / "astronaut.png")).shape[1] == 2 * 480 + 6


@pytest.mark.parametrize(("arguments", "message"), [
    (("{in}/a.png", "{other}/A.jpg"), "A.jpg"), (("{in}", "-o", "{in}"), "--suffix"), (("{in}/none.png",), "none.png"),
    (("{other}/empty",), "empty"), ((), "INPUT"), (("{in}", "--outscale", "5"), "--outscale"),
    (("{in}", "--quality", "0"), "--quality"), (("{in}", "--face_weight", "2"), "--face_weight"),
    (("{in}", "--suffix", "a/b"), "--suffix"), (("{in}", "--device", "tpu"), "--device"),
    (("{in}", "--restorer", "none"), "--restorer"), (("{in}", "--overwrite", "--skip_existing"), "--skip_existing"),
    (("{in}", "--face_wieght", "1"), "--face_weight")])
def test_a_wrong_command_is_one_line_and_writes_nothing(tmp_path, capsys, arguments, message):
    write(tmp_path / "in" / "a.png", picture(1, 20, 30))
    write(tmp_path / "other" / "A.jpg", picture(2, 20, 30))
    (tmp_path / "other" / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    given = [argument.format(**{name: tmp_path / name for name in ("in", "other")}) for argument in arguments]
    fails(capsys, lambda: cli.main(["-o", str(tmp_path / "out"), *given]), message=message)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_face_with_impossible_landmarks_is_named_and_left_out(place, monkeypatch, capsys):
    faulty = Face(FACE.box, FACE.landmarks[[0] * 5], 0.99)

    @contextlib.contextmanager
    def open_detector(name, **_):
        yield lambda photo, file: [faulty]

    monkeypatch.setattr(cli, "open_detector", open_detector)
    assert run(place, place / "in") == 0
    assert "astronaut.png" in capsys.readouterr().err
    assert names(place) == ["astronaut.png"]


def test_faces_that_are_not_searched_are_not_counted(place, capsys):
    generator = small_generator()
    np.savez(place / "plain.npz", **checkpoint_tensors(generator))
    assert run(place, place / "in", "--no_paste", "--model_dir", place / "plain.npz") == 0
    assert "without" not in capsys.readouterr().out


def test_a_folder_without_photos_stops_no_other_one(place, capsys):
    (place / "empty").mkdir()
    assert run(place, place / "empty", place / "in") == 0
    assert names(place) == ["astronaut.png"]
    assert str(place / "empty") in capsys.readouterr().err
    with pytest.raises(UserError, match="empty"):
        run(place, place / "empty", out="none")


def test_a_transparent_photo_is_on_white_in_a_jpeg(place):
    picture = np.zeros((20, 24, 4), np.uint8)
    picture[:, 12:] = (40, 90, 160, 255)
    Image.fromarray(picture).save(place / "cut.png")
    assert run(place, place / "cut.png", "--format", "jpg") == 0
    pixels = np.asarray(Image.open(place / "out" / "cut.jpg"))
    assert pixels[:, :40].min() > 250
    assert pixels[:, 60:].max() < 250
