"""Wrong exposure and colours."""

from dataclasses import dataclass

import numpy as np

from utils.errors import require


@dataclass(frozen=True)
class Tone:
    """Colour gains, then a power: brighter for gamma below 1. The result is clipped."""

    gamma: float
    red: float
    green: float
    blue: float

    def __post_init__(self):
        require(0.1 <= self.gamma <= 10, "gamma must be from 0.1 to 10", self.gamma)
        gains = (self.red, self.green, self.blue)
        require(all(0 < gain <= 10 for gain in gains), "red, green and blue must be positive and at most 10", gains)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Change the colours."""
        return np.clip(image * np.float32([self.red, self.green, self.blue]), 0, 1) ** np.float32(self.gamma)
