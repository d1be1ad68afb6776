"""The rows of the evaluation's table: ways to enlarge a photo."""

from dataclasses import dataclass, replace

from config import AdaptationConfig
from utils.evaluation.faces import LEGACY, ORACLE, RESTORED

BICUBIC, BASE, MODEL = "bicubic", "base", "model"
PUBLISHED = AdaptationConfig()
UNADAPTED = replace(PUBLISHED, num_steps=0)


@dataclass(frozen=True)
class Row:
    """A way to enlarge a photo.

    `network` is bicubic enlargement, the network that knows no adaptation, or the one that is evaluated; `faces` are
    those it adapts to, if it does; `other` takes the faces of another photo; without `masked` every pixel of a face
    counts alike; `backtrack` is the safeguard.
    """

    network: str = MODEL
    faces: str = RESTORED
    other: bool = False
    masked: bool = True
    backtrack: bool = False
    adaptation: AdaptationConfig = PUBLISHED


ROWS = {
    "bicubic": Row(network=BICUBIC, adaptation=UNADAPTED),
    "base": Row(network=BASE, adaptation=UNADAPTED),
    "unadapted": Row(adaptation=UNADAPTED),
    "adapted": Row(),
    "adapted-2": Row(adaptation=replace(PUBLISHED, num_steps=2)),
    "adapted-5": Row(adaptation=replace(PUBLISHED, num_steps=5)),
    "other-faces": Row(other=True),
    "oracle": Row(faces=ORACLE),
    "other-oracle": Row(faces=ORACLE, other=True),
    "no-masknet": Row(masked=False),
    "legacy-alignment": Row(faces=LEGACY),
    "4-patches": Row(adaptation=replace(PUBLISHED, patches_per_face=4)),
    "64-patches": Row(adaptation=replace(PUBLISHED, patches_per_face=64)),
    "safeguard": Row(backtrack=True),
}
