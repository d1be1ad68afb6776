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


def test_a_teacher_of_another_size_changes_the_target_and_nothing_else(place, teacher, capsys):
    place.run(trial=0, meta__num_iterations=1)
    place.run(trial=1, meta__num_iterations=1, loss__distill_weight=0.5, loss__teacher=teacher)
    assert f"; 50% of the target's details are those of {teacher}" in capsys.readouterr().out
    [before], [after] = (place.rows("train.csv", trial=trial) for trial in (0, 1))
    assert before["l1"] != after["l1"]
    for same in ("inner_loss", "mask_mean"):
        assert before[same] == after[same]
    assert place.rows(trial=0)[0] == place.rows(trial=1)[0]  # validation is against the photographs
    assert place.checkpoint(1, trial=0).keys() == place.checkpoint(1, trial=1).keys()


def test_a_run_goes_on_with_its_teacher_and_without_it_only_when_told(place, teacher):
    place.run(meta__num_iterations=1, loss__distill_weight=0.5, loss__teacher=teacher)
    place.main("--run_dir", str(place.root / "runs"), "--iterations", "2")
    teacher.unlink()
    with pytest.raises(UserError, match=r"teacher\.npz"):
        place.main("--run_dir", str(place.root / "runs"), "--iterations", "3")
    place.main("--run_dir", str(place.root / "runs"), "--iterations", "3", "--set", "loss.distill_weight=0")
    assert place.checkpoints()[-1] == "model-3"


def test_a_missing_teacher_comes_with_the_command_that_fetches_it(place):
    with pytest.raises(UserError, match=r"^loss.teacher: .*realesrgan .*distill_weight=0") as caught:
        place.run(loss__distill_weight=1)
    assert "\n" not in str(caught.value)
    assert not place.folder().exists()


def test_weights_that_are_missing_for_two_reasons_are_named_once_and_with_all_that_does_without(place):
    published = {"generator__num_blocks": 23, "generator__num_features": 64, "generator__growth": 32}
    with pytest.raises(UserError, match=r"download_weights\.py realesrgan(?! realesrgan)") as caught:
        place.run(loss__distill_weight=1, meta__init="realesrgan", **published)
    assert "weights are missing: " not in str(caught.value)  # that is of several
    with pytest.raises(UserError, match=r"missing: realesrgan, realesrgan-netd\. .*, --set loss\.details=0\.$"):
        place.run(loss__distill_weight=1, meta__init="realesrgan", loss__gan=0.1, discriminator__init="realesrgan-netd",
                  **published)


def test_a_teacher_that_is_gone_is_named_with_what_to_set(place, tmp_path):
    with pytest.raises(UserError, match=r"^loss.teacher: .*gone.npz.*--set loss.distill_weight=0"):
        place.run(loss__distill_weight=1, loss__teacher=tmp_path / "gone.npz")


def test_the_base_of_this_repositorys_difference_is_among_the_weights_that_are_missing(place):
    with pytest.raises(UserError, match=r"^weights are missing: realesrgan, .*weights\.py realesrgan \S+") as caught:
        place.run(meta__init="metaf2n-x4plus", discriminator__init="realesrgan-netd", loss__gan=0.1)
    assert "\n" not in str(caught.value)
