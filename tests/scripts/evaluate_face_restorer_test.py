"""The tool that compares a face restorer with bicubic upscaling and Real-ESRGAN."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data

from model.lpips import init_lpips
from scripts import evaluate_face_restorer as tool
from tests.helpers.face_restorer import nearest_restorer
from tests.helpers.small_networks import small_generator
from utils.errors import UserError
from utils.evaluation.face_restorer import METHODS, FaceMeter, Result
from utils.face.restorers import save_face_restorer
from utils.image.io import quantize, read_image, write_png
from utils.image.panels import LABEL_HEIGHT, MARGIN, PANEL

METER = FaceMeter(None)


def make_result(psnr, *, preset="iid", seed=0):
    """A result whose methods are the truth with noise of the given PSNR, in the order of METHODS."""
    rng = np.random.default_rng(seed)
    truth = (rng.integers(80, 110, (64, 48, 3)) + 20 * seed).astype(np.uint8)
    noise = rng.choice((-1.0, 1.0), (64, 48, 1))
    methods = {name: quantize(((truth + noise * 255 / 0.86 * 10 ** (-value / 20)) / 255).astype(np.float32))
               for name, value in zip(METHODS, psnr, strict=True)}
    return Result(f"p{seed}", preset, truth[::4, ::4], truth, np.full((5, 2), 20.0), methods)


def measure(result, person="p"):
    return {"person": person, "preset": result.preset, "width": 12, **METER.measure(result)}


def cells_of(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_table_has_means_and_paired_differences():
    results = [make_result(psnr, seed=seed) for seed, psnr in enumerate([(25, 27, 30), (27, 28, 31), (26, 26, 29)])]
    rows = [measure(result, result.name) for result in results]
    lines = tool.make_table(rows).splitlines()
    [line] = [line for line in lines if "PSNR-Y" in line]
    cells = cells_of(line)
    assert cells[:3] == ["iid", "3", "PSNR-Y (dB)"]
    assert [float(cell) for cell in cells[3:6]] == pytest.approx([26, 27, 30], abs=0.4)
    assert float(cells[6].split()[0]) == pytest.approx(4, abs=0.5)
    low, high = (float(end) for end in cells[7].partition("[")[2].rstrip("]").split(","))
    assert low <= 3.4
    assert high >= 2.6
    assert high - low < 1.2  # the differences are alike, though the values are not
    assert not any("LPIPS" in line for line in lines)


def make_rows(metric, *gains):
    return [{"preset": "iid", "person": person,
             **{f"{metric}_{name}": value for name, value in zip(METHODS, (20.0, 21.0, 20.0 + gain), strict=True)}}
            for person, gain in gains]


def test_several_photos_of_a_person_count_once_in_the_intervals():
    [line] = tool.make_table(make_rows("psnr_y", ("a", 1.0), ("a", 3.0), ("b", 4.0))).splitlines()[2:]
    cells = cells_of(line)
    assert cells[1] == "3"
    assert cells[5] == "22.67"  # the mean over faces
    assert cells[6] == "+3.00 [+2.00, +4.00]"  # people: 2 and 4


def test_one_person_has_no_interval_and_lpips_has_ratios():
    [line] = tool.make_table(make_rows("lpips", ("a", -10.0), ("a", -10.0))).splitlines()[2:]
    assert cells_of(line)[6:] == ["-10.000 (x0.50)", "-11.000 (x0.48)"]


def test_the_picture_begins_with_the_face_that_gained_least():
    results = [make_result(psnr, seed=seed) for seed, psnr in enumerate([(25, 27, 30), (27, 28, 26), (26, 26, 29)])]
    picture = tool.make_picture([(measure(result), result) for result in results], 2)
    height = LABEL_HEIGHT + MARGIN + PANEL * 64 // 48
    assert picture.shape == (2 * height, 5 * PANEL + 4 * MARGIN, 3)
    shown = picture[LABEL_HEIGHT + MARGIN:height, -PANEL:]
    means = [result.truth.mean() for result in results]
    assert int(np.argmin(np.abs(np.subtract(means, shown.mean())))) == 1


def test_a_run_writes_table_rows_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "in" / "a.png", skimage.data.astronaut())
    write_png(tmp_path / "in" / "empty.png", np.full((128, 128, 3), 128, np.uint8))
    save_face_restorer(tmp_path / "r.npz", nearest_restorer())
    monkeypatch.setattr("utils.weights.checkpoints.load_super_resolver",
                        lambda *_, **__: SimpleNamespace(generator=small_generator()))
    monkeypatch.setattr("utils.metrics.lpips.load_lpips", lambda *_: init_lpips(0))
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    status = tool.main(["--input_dir", "in", "--output_dir", "out", "--restorer", "r.npz", "--presets", "ood-jpeg",
                        "--face_sizes", "0", "0", "--pictures", "1", "--weights_dir", str(tmp_path)])
    assert status == 2
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["status"]) for row in rows] == [
        ("a.png", "ok"), ("broken.png", "error"), ("empty.png", "no face")]
    assert float(rows[0]["psnr_y_restored"]) == pytest.approx(float(rows[0]["psnr_y_bicubic"]), abs=1.5)
    output = capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").read_text() in output
    assert "nan" not in output
    assert "3 photos: 1 with a face, 1 without, 1 errors. Once degraded, the face was found again in 1 of 1." in output
    assert read_image(tmp_path / "out" / "faces.png").pixels.shape[1] == 5 * PANEL + 4 * MARGIN


@pytest.mark.parametrize(("flags", "message"), [
    (["--face_sizes", "50", "20"], "--face_sizes"), (["--restorer", "magic"], "--restorer is one of"),
    (["--seed", "-1"], "--seed"), (["--pictures", "0"], "--pictures"), (["--people", "("], "--people")])
def test_wrong_values_are_refused_by_name(flags, message):
    with pytest.raises(UserError, match=message):
        tool.parse_args(["--input_dir", "x", *flags])
