"""Networks of the real architecture and tiny size, for tests that need no particular values."""

from tests.helpers.reference_weights import reference_generator, reference_masknet

SMALL = {"num_blocks": 1, "num_features": 8, "growth": 4}


def small_generator():
    """Return deterministic RRDBNet arrays: 1 block, 8 features, growth 4."""
    return reference_generator(**SMALL)


def small_masknet():
    """Return MaskNet arrays of the published size (it is small enough)."""
    return reference_masknet()
