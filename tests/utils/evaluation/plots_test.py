"""The plots' points and intervals as they are handed to the drawing library, and the pixels of the pictures."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from tests.helpers.evaluation_scores import scores, summarize
from tests.helpers.pictures import blue
from utils.evaluation.plots import plot_gains, plot_own_and_other, write_pictures
from utils.image.io import quantize, read_image, write_png
from utils.image.panels import LABEL_HEIGHT, MARGIN


def test_every_variant_has_its_gain_and_interval(monkeypatch, tmp_path):
    drawn = {}

    def errorbar(_, x, y, *, xerr, **__):
        drawn[y[0]] = (x[0], x[0] - xerr[0][0], x[0] + xerr[1][0])

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    plot_gains(tmp_path / "gains.png", {"iid": summarize()})
    assert set(drawn) == {"bicubic", "base", "adapted", "other-faces"}
    assert drawn["adapted"] == pytest.approx((1, 0, 2))
    assert drawn["bicubic"] == pytest.approx((-2, -2, -2))


def test_own_faces_are_drawn_over_others(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(Axes, "scatter", lambda _, x, y, *, label, **__: drawn.append((list(x), list(y), label)))
    plot_own_and_other(tmp_path / "plot.png", scores(), {"iid": summarize()}, {"iid": ["a", "b"]})
    assert drawn == [([0.5, 1.0], [1.0, 2.0], "iid: +0.750 [+0.500, +1.000] dB")]  # the oracle's rows are missing


def test_sets_without_anything_to_draw_are_drawn(tmp_path):
    empty = summarize([row for row in scores() if row["variant"] == "bicubic"], paired=[])
    for summary in (empty, summarize([], paired=["a"])):
        plot_gains(tmp_path / "gains.png", {"iid": summary})
        plot_own_and_other(tmp_path / "own.png", scores(), {"iid": summary}, {"iid": []})
        assert not blue(tmp_path / "gains.png").any()
        assert (tmp_path / "own.png").is_file()


def test_pictures_show_results_pixel_for_pixel(tmp_path):
    rng = np.random.default_rng(0)
    images = {}
    for preset, shape in (("iid", (40, 60, 3)), ("ood-tone", (50, 30, 3))):
        for name in ("bicubic", "unadapted", "adapted", "GT"):
            images[preset, name] = rng.integers(0, 256, shape, dtype=np.uint8)
            write_png(tmp_path / preset / name / "a.png", images[preset, name])
    sets = {preset: (tmp_path / preset, "a") for preset in ("iid", "ood-tone")}
    write_pictures(tmp_path / "pictures.png", sets)
    shown = quantize(read_image(tmp_path / "pictures.png").pixels)
    top = LABEL_HEIGHT + MARGIN
    np.testing.assert_array_equal(shown[top:top + 40, :60], images["iid", "bicubic"])
    np.testing.assert_array_equal(shown[top:top + 40, 66:126], images["iid", "unadapted"])
    below = 2 * top + 40 + MARGIN
    np.testing.assert_array_equal(shown[below:below + 40, :60], images["iid", "GT"])
    second = below + 40 + top
    np.testing.assert_array_equal(shown[second:second + 50, :30], images["ood-tone", "bicubic"])
    np.testing.assert_array_equal(shown[-50:, :30], images["ood-tone", "GT"])


def test_damaged_pictures_are_left_out(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for name, picture in (("GT", image), ("adapted", image[:20])):
        write_png(tmp_path / name / "a.png", picture)
    (tmp_path / "bicubic").mkdir()
    (tmp_path / "bicubic" / "a.png").write_bytes(b"no picture")
    write_pictures(tmp_path / "pictures.png", {"iid": (tmp_path, "a")})
    shown = quantize(read_image(tmp_path / "pictures.png").pixels)
    np.testing.assert_array_equal(shown[LABEL_HEIGHT + MARGIN:LABEL_HEIGHT + MARGIN + 40, :60], image)
    write_pictures(tmp_path / "none.png", {})
    assert not (tmp_path / "none.png").exists()
