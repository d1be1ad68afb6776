"""The variants that an evaluation compares: ways to upscale a photo."""

from dataclasses import dataclass, replace

from config import AdaptationConfig
from utils.evaluation.faces import LEGACY, ORACLE, RESTORED

BICUBIC, BASE, MODEL = "bicubic", "base", "model"
PUBLISHED = AdaptationConfig()
UNADAPTED = replace(PUBLISHED, num_steps=0)


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
    adaptation: AdaptationConfig = PUBLISHED


VARIANTS = {
    "bicubic": Variant(network=BICUBIC, adaptation=UNADAPTED),
    "base": Variant(network=BASE, adaptation=UNADAPTED),
    "unadapted": Variant(adaptation=UNADAPTED),
    "adapted": Variant(),
    "adapted-2": Variant(adaptation=replace(PUBLISHED, num_steps=2)),
    "adapted-5": Variant(adaptation=replace(PUBLISHED, num_steps=5)),
    "other-faces": Variant(other=True),
    "oracle": Variant(faces=ORACLE),
    "other-oracle": Variant(faces=ORACLE, other=True),
    "no-masknet": Variant(masked=False),
    "legacy-alignment": Variant(faces=LEGACY),
    "4-patches": Variant(adaptation=replace(PUBLISHED, patches_per_face=4)),
    "64-patches": Variant(adaptation=replace(PUBLISHED, patches_per_face=64)),
    "safeguard": Variant(backtrack=True),
}
