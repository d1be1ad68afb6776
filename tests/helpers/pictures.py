"""Properties of plots."""

from utils.image.io import read_image


def blue(path):
    """Return a mask of the pixels in the colour of matplotlib's points and intervals."""
    pixels = read_image(path).pixels
    return pixels[:, :, 2] - pixels[:, :, 0] > 0.3
