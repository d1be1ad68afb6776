"""A drawn portrait, whose person composites cut out."""

import cv2
import numpy as np

from utils.data.composites import cut_out

FACE = np.array([140.0, 120, 260, 280])
MARK = (250, 10, 250)
PEOPLE = {}  # that were cut out, by their portraits


def texture(seed, height, width, low, high):
    noise = np.random.default_rng(seed).uniform(low, high, (height // 4 + 1, width // 4 + 1, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


def draw_portrait(*, head=(200, 190), side=400):
    """A head and shoulders before a background that gets darker downwards; and where they are."""
    inside = np.zeros((side, side), np.uint8)
    cv2.ellipse(inside, head, (76, 110), 0, 0, 360, 1, cv2.FILLED)
    cv2.ellipse(inside, (200, 430), (140, 140), 0, 0, 360, 1, cv2.FILLED)
    background = 220 - 0.05 * np.mgrid[:side, :side][0][:, :, None] + np.zeros(3)
    coarse = cv2.resize(texture(0, side // 2, side // 2, 20, 150), (side, side), interpolation=cv2.INTER_LINEAR)
    image = np.where(inside[:, :, None], coarse, background)
    image[190:210, 190:210] = MARK
    return np.rint(image).astype(np.uint8), inside.astype(bool)


def cut_once(portrait, face):
    """As `cut_out`, but the same portrait is cut only once for all tests of a process."""
    key = portrait.tobytes()
    if key not in PEOPLE:
        PEOPLE[key] = cut_out(portrait, face)
    return PEOPLE[key]
