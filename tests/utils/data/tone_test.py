"""Wrong exposure and colours."""

import numpy as np
import pytest

from utils.data.tone import Tone
from utils.errors import UserError


def test_tone_is_gain_then_power():
    image = np.float32([[[0.5, 0.5, 0.9], [0.0, 1.0, 0.25]]])
    expected = np.float32([[[0.25, 0.16, 1.0], [0.0, 0.64, 0.25]]])
    np.testing.assert_allclose(Tone(2.0, 1.0, 0.8, 2.0).apply(image), expected, atol=1e-6)


def test_tone_of_ones_changes_nothing():
    image = np.float32([[[0.5, 0.25, 0.9]]])
    np.testing.assert_array_equal(Tone(1.0, 1.0, 1.0, 1.0).apply(image), image)


@pytest.mark.parametrize(("values", "message"), [
    ((0.05, 1.0, 1.0, 1.0), "gamma must be from"), ((1.0, 0.0, 1.0, 1.0), "red, green and blue must be positive"),
    ((1.0, 1.0, 1.0, 11.0), "red, green and blue must be positive and at most 10")])
def test_tone_outside_of_its_ranges_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        Tone(*values)
