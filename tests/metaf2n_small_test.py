"""The checkpoint that comes with this repository: what it is, and that a step on a photo's own faces helps it."""

import functools

import cv2
import numpy as np
import pytest
import skimage.data

from config import AdaptationConfig, GeneratorConfig
from model.rrdbnet import rrdbnet_architecture
from model.super_resolver import SuperResolver
from tests.helpers.tracing import untraced
from utils.data.noise import Tone
from utils.face.patches import Patches, sample_patches
from utils.image.io import quantize, to_float
from utils.metrics.fidelity import psnr_y
from utils.weights.checkpoints import load_super_resolver

FACE = slice(14, 46), slice(40, 72)  # rows and columns of the astronaut's face in the degraded photo
DARK, PALE = Tone(1.4, 0.8, 0.9, 1.0), Tone(0.7, 1.0, 0.9, 0.8)
SETTINGS = AdaptationConfig()


@pytest.fixture(autouse=True)
def _eager():
    with untraced():
        yield


@pytest.fixture(scope="module")
def weights():
    return load_super_resolver("metaf2n-small")


@pytest.fixture(scope="module")
def network(weights):
    return SuperResolver(weights.generator, weights.mask)


@pytest.fixture(scope="module")
def truth():
    return skimage.data.astronaut()[:, :400]


def degrade(truth, tone):
    """As a photo of wrong exposure and colours with a little noise shows it, a quarter of the size."""
    toned = tone(to_float(truth))
    small = cv2.resize(toned, (truth.shape[1] // 4, truth.shape[0] // 4), interpolation=cv2.INTER_AREA)
    return np.clip(small + np.random.default_rng(0).normal(0, 0.01, small.shape), 0, 1).astype(np.float32)


def face_patches(network, photo, truth):
    """Weigh patches of the face, the true one in place of a restored one."""
    rows, columns = FACE
    high = to_float(truth)[4 * rows.start:4 * rows.stop, 4 * columns.start:4 * columns.stop]
    patches = sample_patches(Patches(photo[FACE][None], high[None]), np.random.default_rng(0),
                             count=SETTINGS.patches_per_face, lq_patch_size=SETTINGS.patch_size // 4)
    return [network.weigh_patches(*patches)]


@pytest.fixture(scope="module")
def adapt(network, truth):
    """Return a function: the parameters after a step on the face as a photo of a tone shows it."""
    @functools.cache
    def adapt(tone):
        return network.adapt(face_patches(network, degrade(truth, tone), truth),
                             learning_rate=SETTINGS.learning_rate, num_steps=1).params

    return adapt


def upscale(network, photo, params):
    return quantize(np.clip(network.upscaler(params)(photo[None])[0], 0, 1))


def test_it_is_a_meta_trained_generator_of_6_blocks_with_a_masknet(weights):
    shapes = {name: value.shape for name, value in weights.generator.items()}
    assert GeneratorConfig(*rrdbnet_architecture(shapes)) == GeneratorConfig(num_blocks=6)
    assert weights.mask["conv8/kernel"].shape == (3, 3, 64, 1)
    assert weights.meta_trained


@pytest.mark.parametrize(("own", "other"), [(DARK, PALE), (PALE, DARK)])
def test_a_step_on_the_photos_own_face_corrects_it_and_one_on_anothers_does_not(network, truth, adapt, own, other):
    """The score is that of the lowest quarter; the face is above."""
    photo, params = degrade(truth, own)[96:], {
        "unadapted": network.generator, "own": adapt(own), "other": adapt(other)}
    score = {name: psnr_y(upscale(network, photo, value), truth[4 * 96:]) for name, value in params.items()}
    assert score["own"] > score["unadapted"] + 0.3
    assert score["own"] > score["other"] + 0.3
