import pytest

from model.rrdbnet import init_rrdbnet
from tests.training_workplace import TrainingWorkplace
from utils.errors import UserError
from utils.weights.checkpoints import save_super_resolver


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.run.plot_curves", lambda *_: None)
    return TrainingWorkplace(tmp_path)


@pytest.fixture
def teacher(tmp_path):
    save_super_resolver(tmp_path / "teacher.npz", init_rrdbnet(3, num_blocks=2, num_features=8, growth=4), None)
    return tmp_path / "teacher.npz"


def test_a_teacher_of_another_size_changes_the_target_and_nothing_else(place, teacher):
    place.run(trial=0, meta__num_iterations=1)
    place.run(trial=1, meta__num_iterations=1, loss__distill_weight=0.5, loss__teacher=teacher)
    [before], [after] = (place.rows("train.csv", trial=trial) for trial in (0, 1))
    assert before["l1"] != after["l1"]
    for same in ("inner_loss", "mask_mean"):
        assert before[same] == after[same]
    assert place.rows(trial=0)[0] == place.rows(trial=1)[0]  # validation is against the photographs
    assert place.checkpoint(1, trial=0).keys() == place.checkpoint(1, trial=1).keys()
    teacher.unlink()  # the run needs it, until it is told to do without
    with pytest.raises(UserError, match=r"loss.teacher.*teacher\.npz.*--set loss.distill_weight=0"):
        place.main("--run_dir", str(place.root / "runs"), "--trial", "1", "--iterations", "2")
    place.main("--run_dir", str(place.root / "runs"), "--trial", "1", "--iterations", "2", "--set",
               "loss.distill_weight=0")
    assert place.checkpoints(trial=1)[-1] == "model-2"


def test_validation_is_the_same_for_runs_of_other_length_and_batch(place):
    place.run(trial=0, meta__num_iterations=1)
    place.run(trial=1, meta__tasks_per_batch=3, meta__num_iterations=2)
    assert place.rows(trial=0)[0] == place.rows(trial=1)[0]


def test_weights_that_are_missing_for_two_reasons_are_named_once(place):
    with pytest.raises(UserError, match=r"missing: realesrgan, realesrgan-netd\. .*distill_weight=0"):
        place.run(loss__distill_weight=1, meta__init="realesrgan", loss__gan=0.1, discriminator__init="realesrgan-netd",
                  generator__num_blocks=23, generator__num_features=64, generator__growth=32)
    assert not place.folder().exists()
