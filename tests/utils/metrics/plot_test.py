"""The plot, read back as pixels, and the points that are handed to the drawing library."""

from matplotlib.axes import Axes

from utils.image.io import read_image
from utils.metrics.plot import plot_images

ROWS = [{"psnr_y": 30.0, "psnr_y_other": 28.0, "ssim": 0.9}, {"psnr_y": 31.0, "psnr_y_other": 32.0, "ssim": 0.8},
        {"psnr_y": float("inf"), "psnr_y_other": 20.0}, {"ssim": 0.7}]


def drawn_points(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "scatter", lambda _, x, y, **options: drawn.append((list(x), list(y))))
    return drawn


def test_every_finite_value_is_a_point_of_its_metric(monkeypatch, tmp_path):
    drawn = drawn_points(monkeypatch)
    plot_images(tmp_path / "plot.png", ROWS, ["psnr_y", "ssim"])
    assert [values for _, values in drawn] == [[30, 31], [0.9, 0.8, 0.7]]
    assert all(-1 <= x <= 1 for places, _ in drawn for x in places)


def test_a_comparison_draws_the_result_over_the_other(monkeypatch, tmp_path):
    drawn = drawn_points(monkeypatch)
    plot_images(tmp_path / "plot.png", ROWS, ["psnr_y"], compare=True)
    assert drawn == [([28, 32], [30, 31])]


def test_the_picture_shows_blue_points_even_where_a_metric_has_none(tmp_path):
    plot_images(tmp_path / "new" / "plot.png", ROWS, ["psnr_y", "ssim", "niqe", "lpips", "psnr_rgb"])
    pixels = read_image(tmp_path / "new" / "plot.png").pixels
    height, width = pixels.shape[:2]
    blue = pixels[:, :, 2] - pixels[:, :, 0] > 0.3
    assert blue[:height // 2, :width // 4].any()
    assert not blue[:height // 2, width // 2:].any()
