"""The variants that an evaluation compares: ways to upscale a photo."""

from dataclasses import dataclass, replace

from config import AdaptationConfig
from utils.evaluation.photos import LEGACY, ORACLE, RESTORED

BICUBIC, BASE, MODEL = "bicubic", "base", "model"
PUBLISHED_STEP = AdaptationConfig()
NO_STEP = replace(PUBLISHED_STEP, num_steps=0)


@dataclass(frozen=True)
class Variant:
    """`network`: bicubic interpolation, the base network or the evaluated one; `faces`: what it adapts to.

    `other` takes the faces of another photo; without `masked` every pixel has weight 1; `backtrack` is the safeguard.
    """

    network: str = MODEL
    faces: str = RESTORED
    other: bool = False
    masked: bool = True
    backtrack: bool = False
    adaptation: AdaptationConfig = PUBLISHED_STEP


VARIANTS = {
    "bicubic": Variant(network=BICUBIC, adaptation=NO_STEP),
    "base": Variant(network=BASE, adaptation=NO_STEP),
    "unadapted": Variant(adaptation=NO_STEP),
    "adapted": Variant(),
    "adapted-2": Variant(adaptation=replace(PUBLISHED_STEP, num_steps=2)),
    "adapted-5": Variant(adaptation=replace(PUBLISHED_STEP, num_steps=5)),
    "other-faces": Variant(other=True),
    "oracle": Variant(faces=ORACLE),
    "other-oracle": Variant(faces=ORACLE, other=True),
    "no-masknet": Variant(masked=False),
    "legacy-alignment": Variant(faces=LEGACY),
    "4-patches": Variant(adaptation=replace(PUBLISHED_STEP, patches_per_face=4)),
    "64-patches": Variant(adaptation=replace(PUBLISHED_STEP, patches_per_face=64)),
    "safeguard": Variant(backtrack=True),
}
