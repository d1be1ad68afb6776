"""Every hyper-parameter of the method, as published (Yin et al., ICCV 2023). Importing this module does nothing."""

from dataclasses import dataclass

SCALE = 4  # super-resolution factor of every network here


@dataclass(frozen=True)
class GeneratorConfig:
    """Architecture of the RRDBNet generator (Real-ESRGAN x4plus)."""

    num_blocks: int = 23
    num_features: int = 64
    growth: int = 32


@dataclass(frozen=True)
class AdaptationConfig:
    """The inner loop at test time: plain SGD on patches of one photo's faces."""

    learning_rate: float = 1e-2
    num_steps: int = 1
    patch_size: int = 64  # side of a high-quality patch in pixels; its low-quality partner is a quarter of it
    patches_per_face: int = 16
    seed: int = 0  # of the positions of patches
    holdout_fraction: float = 0.25  # of the patches, for --safeguard backtrack
    max_halvings: int = 5  # of the learning rate, for --safeguard backtrack


@dataclass(frozen=True)
class UpscalingConfig:
    """How a whole photo is run through the generator. Sizes in low-quality pixels."""

    tile_size: int | None = None  # None: chosen by the memory; 0: the whole photo
    smallest_tile: int = 128  # that is chosen by the memory
    tile_overlap: int = 64
    memory_gib: float = 4.0  # resident memory within which the chosen tile keeps the process
