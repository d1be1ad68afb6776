"""The tool that compares a face restorer with bicubic enlargement and Real-ESRGAN."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data

from scripts import evaluate_face_restorer as tool
from tests.reference_restorer import identity_restorer
from tests.small_networks import small_generator
from utils.errors import UserError
from utils.face_restorers import save_face_restorer
from utils.images import quantize, read_image, write_png
from utils.restorer_evaluation import ALIGNED, FOUND, METHODS, Result


def make_result(psnr, *, preset="iid", kind=FOUND, seed=0):
    """A result whose methods are the truth with noise of the given PSNR, in the order of METHODS."""
    rng = np.random.default_rng(seed)
    truth = (rng.integers(80, 110, (64, 48, 3)) + 20 * seed).astype(np.uint8)
    noise = rng.choice((-1.0, 1.0), (64, 48, 1))
    methods = {name: quantize(((truth + noise * 255 / 0.86 * 10 ** (-value / 20)) / 255).astype(np.float32))
               for name, value in zip(METHODS, psnr, strict=True)}
    return Result(f"p{seed}", preset, kind, truth[::4, ::4], truth, methods)


def test_the_table_has_means_and_paired_differences():
    results = [make_result(psnr, seed=seed) for seed, psnr in enumerate([(25, 27, 30), (27, 28, 31), (26, 26, 29)])]
    rows = [tool.measure(result, None) for result in results]
    for row, psnr in zip(rows, [(25, 27, 30), (27, 28, 31), (26, 26, 29)], strict=True):
        assert [row[f"psnr_y_{name}"] for name in METHODS] == pytest.approx(psnr, abs=0.4)
    lines = tool.make_table(rows).splitlines()
    [line] = [line for line in lines if "PSNR-Y" in line]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:4] == ["iid", tool.KINDS[FOUND], "3", "PSNR-Y (dB)"]
    assert [float(cell) for cell in cells[4:7]] == pytest.approx([26, 27, 30], abs=0.4)
    assert float(cells[7].split()[0]) == pytest.approx(4, abs=0.5)
    low, high = (float(end) for end in cells[8].partition("[")[2].rstrip("]").split(","))
    assert low <= 3.5
    assert high >= 2.5
    assert not any("NIQE" in line for line in lines)


def test_the_picture_begins_with_the_face_that_gained_least():
    results = [make_result(psnr, seed=seed) for seed, psnr in enumerate([(25, 27, 30), (27, 28, 26), (26, 26, 29)])]
    rows = [tool.measure(result, None) for result in results]
    picture = tool.make_picture(results, rows, 2)
    side, height = tool.PICTURE_SIDE, tool.PICTURE_SIDE * 64 // 48
    assert picture.shape == (2 * (24 + height), 5 * side, 3)
    shown = picture[24:24 + height, 4 * side:]
    means = [result.truth.mean() for result in results]
    assert int(np.argmin(np.abs(np.subtract(means, shown.mean())))) == 1


def test_a_run_writes_table_rows_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_png(tmp_path / "in" / "a.png", skimage.data.astronaut())
    write_png(tmp_path / "in" / "empty.png", np.full((128, 128, 3), 128, np.uint8))
    save_face_restorer(tmp_path / "r.npz", identity_restorer())
    monkeypatch.setattr("utils.checkpoints.load_super_resolver",
                        lambda *_, **__: SimpleNamespace(generator=small_generator()))
    tool.main(["--input_dir", "in", "--output_dir", "out", "--restorer", "r.npz", "--presets", "ood-jpeg",
               "--face_sizes", "0", "0", "--pictures", "1", "--weights_dir", str(tmp_path)])
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} <= {ALIGNED, FOUND}
    assert all(float(row["psnr_y_restored"]) == pytest.approx(float(row["psnr_y_bicubic"]), abs=1.5) for row in rows)
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out
    assert read_image(tmp_path / "out" / "faces.png").pixels.shape[1] == 5 * tool.PICTURE_SIDE


@pytest.mark.parametrize(("flags", "message"), [
    (["--face_sizes", "50", "20"], "--face_sizes"), (["--restorer", "magic"], "--restorer is one of"),
    (["--seed", "-1"], "--seed")])
def test_wrong_values_are_refused_by_name(flags, message):
    with pytest.raises(UserError, match=message):
        tool.parse_args(["--input_dir", "x", *flags])
