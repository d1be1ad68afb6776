"""The plot's points and intervals as they are handed to the drawing library, and the pixels of the pictures."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from utils.evaluation.plots import plot_gains, write_pictures
from utils.image.io import quantize, read_image, write_png
from utils.image.panels import LABEL_HEIGHT, MARGIN

TOP = LABEL_HEIGHT + MARGIN


def row(*interval):
    gain = dict(zip(("mean", "low", "high"), interval, strict=True)) if interval else None
    return {"against": {"unadapted": {"psnr_y": gain}}}


def test_every_variant_has_its_gain_and_interval(monkeypatch, tmp_path):
    drawn, draw = {}, Axes.errorbar

    def errorbar(panel, x, y, *, xerr, **options):
        drawn[y[0]] = (x[0], *(np.ravel(xerr) if xerr else ()))
        return draw(panel, x, y, xerr=xerr, **options)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    rows = {"bicubic": row(-2, None, None), "base": row(), "unadapted": {"against": {}}, "adapted": row(1, 0.5, 3)}
    plot_gains(tmp_path / "gains.png", {"iid": {"variants": rows}, "ood": {"variants": {}}}, "realesrgan")
    assert drawn == {"bicubic": (-2,), "adapted": (1, 0.5, 2), "realesrgan": (pytest.approx(np.nan, nan_ok=True),)}
    pixels = read_image(tmp_path / "gains.png").pixels
    assert (pixels[:, :, 2] - pixels[:, :, 0] > 0.3).any()


def test_pictures_show_results_pixel_for_pixel_but_for_damaged_ones(tmp_path):
    rng = np.random.default_rng(0)
    images = {}
    for preset, shape in (("iid", (40, 60, 3)), ("ood-tone", (50, 60, 3))):
        for name in ("bicubic", "unadapted", "adapted", "GT"):
            images[preset, name] = rng.integers(0, 256, shape, dtype=np.uint8)
            write_png(tmp_path / preset / name / "a.png", images[preset, name])
    write_png(tmp_path / "ood-tone" / "adapted" / "a.png", images["iid", "GT"])  # of another size
    (tmp_path / "ood-tone" / "unadapted" / "a.png").write_bytes(b"no picture")
    write_pictures(tmp_path / "pictures.png", {preset: (tmp_path / preset, "a") for preset in ("iid", "ood-tone")}, "x")
    shown = quantize(read_image(tmp_path / "pictures.png").pixels)
    np.testing.assert_array_equal(shown[TOP:TOP + 40, :60], images["iid", "bicubic"])
    np.testing.assert_array_equal(shown[TOP:TOP + 40, 66:126], images["iid", "unadapted"])
    below = 2 * TOP + 40 + MARGIN
    np.testing.assert_array_equal(shown[below:below + 40, :60], images["iid", "GT"])
    second = below + 40 + TOP
    np.testing.assert_array_equal(shown[second:second + 50, :60], images["ood-tone", "bicubic"])
    np.testing.assert_array_equal(shown[second:second + 50, 66:126], images["ood-tone", "GT"])
    assert len(shown) == second + 50
