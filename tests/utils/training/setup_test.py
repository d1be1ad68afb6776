import pytest

from tests.helpers.training_workplace import TrainingWorkplace
from utils.errors import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.run.plot_curves", lambda *_: None)
    return TrainingWorkplace(tmp_path)


def test_validation_is_the_same_for_runs_of_other_length_and_batch(place):
    place.run(trial=0, meta__num_iterations=1)
    place.run(trial=1, meta__tasks_per_batch=2, meta__num_iterations=2)
    assert place.rows("metrics.csv", trial=0)[0] == place.rows("metrics.csv", trial=1)[0]


def test_weights_that_are_missing_for_two_reasons_are_named_once(place):
    with pytest.raises(UserError, match="realesrgan, realesrgan-netd"):
        place.run(meta__init="realesrgan", loss__gan=0.1, discriminator__init="realesrgan-netd",
                  generator__num_blocks=23, generator__num_features=64, generator__growth=32)
    assert not place.folder().exists()
