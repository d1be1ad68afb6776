"""LPIPS with its published weights: figures of the lpips package (0.1.4, AlexNet) for ten pairs of images.

No part of `make test`, which needs no download: .ci/run calls it after the demo, which fetches the weights.
Made by: python tests/published_lpips.py ALEXNET.ckpt, in an environment with lpips 0.1.4 and PyTorch.
"""

import sys

import numpy as np
import skimage.data

DISTANCES = [0.0499967486, 0.0460959338, 0.0316303708, 0.0679760724, 0.302912921,
             0.102215655, 0.00451209396, 0.0889270157, 0.781542182, 0.294955641]


def make_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ten pairs of uint8 RGB images: noise, shifts, exposure and averaged pixels on three photographs."""
    rng, pairs = np.random.RandomState(0), []
    for index in range(10):
        photo = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.cat())[index % 3]
        top, left, height, width = 20 + 9 * index, 30 + 5 * index, 96 + 16 * index, 150 - 8 * index
        image = photo[top:top + height, left:left + width].astype(np.float64)
        other = (image + rng.normal(0, 4 + 3 * index, image.shape), np.roll(image, index, axis=1),
                 255 * (image / 255) ** (0.6 + 0.05 * index),
                 (image + np.roll(image, 1, 0) + np.roll(image, 2, 1)) / 3)[index % 4]
        pairs.append((image.astype(np.uint8), np.clip(np.rint(other), 0, 255).astype(np.uint8)))
    return pairs


def test_distances_are_those_of_the_lpips_package():
    from utils.metrics.lpips import load_lpips, make_lpips_distance

    distance = make_lpips_distance(load_lpips())
    found = [distance(*(image.astype(np.float32) / 255 for image in pair)) for pair in make_pairs()]
    np.testing.assert_allclose(found, DISTANCES, rtol=1e-5)


def _compute_with_torch(path: str) -> list[float]:
    import pickle

    import lpips
    import torch

    with open(path, "rb") as file:
        arrays = pickle.load(file)  # the file is the one whose hash is in weights/manifest.json
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    slices = [getattr(network.net, f"slice{index}") for index in range(1, 6)]
    layers = [layer for part in slices for layer in part if isinstance(layer, torch.nn.Conv2d)]
    for index, layer in enumerate(layers):
        values = arrays["AlexNet_0"][f"Conv_{index}"]
        layer.weight.data = torch.tensor(np.asarray(values["kernel"]).transpose(3, 2, 0, 1).copy())
        layer.bias.data = torch.tensor(np.asarray(values["bias"]))
    with torch.no_grad():
        return [float(network(*(torch.tensor(image.transpose(2, 0, 1)[None] / np.float32(127.5) - np.float32(1))
                                for image in pair))) for pair in make_pairs()]


if __name__ == "__main__":
    sys.stdout.write(f"{_compute_with_torch(sys.argv[1])}\n")
