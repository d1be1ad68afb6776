import pytest

from tests.helpers.training_workplace import TrainingWorkplace
from utils.errors import UserError


def test_weights_that_are_missing_for_two_reasons_are_named_once(tmp_path):
    place = TrainingWorkplace(tmp_path)
    with pytest.raises(UserError, match="realesrgan, realesrgan-netd"):
        place.run(meta__init="realesrgan", loss__gan=0.1, discriminator__init="realesrgan-netd",
                  generator__num_blocks=23, generator__num_features=64, generator__growth=32)
    assert not place.folder().exists()
