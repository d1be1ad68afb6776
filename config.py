"""Every hyper-parameter: of the method as published (Yin et al., ICCV 2023), of the face restorer our own.

A file or a command line that names a value outside its field's `Range` is refused.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from utils.plain_data import Range

SCALE = 4  # super-resolution factor of every network here
RANDOM = "random"  # in place of weights: draw them
GROUND_TRUTH = "ground-truth"  # in place of a restorer
GAUSSIAN_KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")

Count, CountOrZero = Annotated[int, Range(1)], Annotated[int, Range(0)]
Positive, NotNegative = Annotated[float, Range(0, brackets="(]")], Annotated[float, Range(0)]
Prob, Decay = Annotated[float, Range(0, 1)], Annotated[float, Range(0, 1, "[)")]
Finite = Annotated[float, Range(-math.inf)]
Pair = tuple[float, float]
Side = Annotated[int, range(SCALE, 2**16, SCALE)]  # of a high-quality image, in pixels


@dataclass(frozen=True)
class GeneratorConfig:
    """Architecture of the RRDBNet generator (Real-ESRGAN x4plus)."""

    num_blocks: Count = 23
    num_features: Count = 64
    growth: Count = 32


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


@dataclass(frozen=True)
class DegradationStage:
    """One of the two stages of Real-ESRGAN's degradation (Wang et al., ICCVW 2021). Ranges are uniform."""

    blur_prob: Prob = 1.0
    kernel_sizes: tuple[Annotated[int, range(3, 22, 2)], ...] = (7, 9, 11, 13, 15, 17, 19, 21)  # pixels
    kernel_kinds: tuple[Annotated[str, GAUSSIAN_KINDS], ...] = GAUSSIAN_KINDS
    kernel_probs: tuple[Prob, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: Prob = 0.1  # of a sinc kernel in place of those
    sigma_range: Annotated[Pair, Range(1e-3, 100)] = (0.2, 3.0)  # pixels
    betag_range: Annotated[Pair, Range(0, 100)] = (0.5, 4.0)  # shape of generalised Gaussians
    betap_range: Annotated[Pair, Range(0, 100)] = (1.0, 2.0)  # shape of plateaus
    resize_probs: tuple[Prob, Prob, Prob] = (0.2, 0.7, 0.1)  # up, down, keep
    resize_range: Annotated[Pair, Range(0, 100)] = (0.15, 1.5)
    gaussian_noise_prob: Prob = 0.5  # otherwise Poisson
    noise_sigma_range: Annotated[Pair, Range(0, 255)] = (1.0, 30.0)  # in units of 1/255
    poisson_scale_range: Annotated[Pair, Range(0, 1000)] = (0.05, 3.0)
    gray_noise_prob: Prob = 0.4
    jpeg_range: Annotated[Pair, Range(1, 100)] = (30.0, 95.0)  # quality


@dataclass(frozen=True)
class DegradationConfig:
    """The two-stage degradation; its output is a quarter of the photo's size."""

    first: DegradationStage = DegradationStage()
    second: DegradationStage = DegradationStage(
        blur_prob=0.8, sigma_range=(0.2, 1.5), resize_probs=(0.3, 0.4, 0.3), resize_range=(0.3, 1.2),
        noise_sigma_range=(1.0, 25.0), poisson_scale_range=(0.05, 2.5))
    final_sinc_prob: Prob = 0.8
    jpeg_last_prob: Prob = 0.5  # of (resize, sinc, JPEG); otherwise (JPEG, resize, sinc)
    # not in the published degradation: wrong exposure and colours before all else, which the target does not have
    tone_prob: Prob = 0.0
    tone_gamma: Annotated[float, Range(0, 2)] = 0.35  # of log(gamma), to either side
    tone_gain_range: Annotated[Pair, Range(0.01, 10)] = (0.8, 1.1)  # of each channel


@dataclass(frozen=True)
class InnerConfig:
    """The inner loop in training: face patches of one task adapt the generator."""

    learning_rate: Positive = 1e-2
    num_steps: CountOrZero = 1  # 0: plain training of the generator
    second_order_from: CountOrZero = 0  # iteration; before it the inner gradients are constants to the outer loop


@dataclass(frozen=True)
class MetaConfig:
    """The outer loop: Adam on generator and MaskNet."""

    num_iterations: Count = 400_000
    tasks_per_batch: Count = 4
    learning_rate: Positive = 3e-5
    init: str = "realesrgan"  # weights to start from: what test.py takes as --model_dir, or `random`
    # initial bias of MaskNet's last layer, where W starts: with the published 0 the inner step has no effect at first
    mask_bias: Finite = 0.0
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    epsilon: Positive = 1e-8
    clip_norm: NotNegative = 0.0  # of the gradient of generator and MaskNet together; 0: no clipping
    ema_decay: Decay = 0.0  # of a moving average of both networks; 0: none
    bfloat16: bool = False  # of the generator's convolutions; faster on processors with bfloat16 instructions
    seed: CountOrZero = 0


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator. It is not built when `loss.gan` is 0."""

    num_features: Count = 64
    learning_rate: Positive = 1e-4
    freeze_until: CountOrZero = 0  # iteration; before it the discriminator is not updated
    init: str = "realesrgan-netd"  # weights of the manifest, a .pth file, or `random`


@dataclass(frozen=True)
class LossConfig:
    """The outer loss: its terms' weights (Yin et al., section 3.3; the code's values where the paper is silent)."""

    l1: NotNegative = 1.0
    lpips: NotNegative = 0.5
    gan: NotNegative = 0.1
    mask: NotNegative = 0.001  # of mean((W - 1)^2)
    unadapted: NotNegative = 0.0  # of the same terms of the un-adapted generator, for photos without faces


@dataclass(frozen=True)
class DataConfig:
    """Records and how samples are cut from them. Sizes are high-quality pixels."""

    face_record: str = "./datasets/whole_face.tfrecord"
    scene_record: str = "./datasets/back400.tfrecord"
    face_validation_record: str = ""  # empty: the last `num_validation` images of the training record, not trained on
    scene_validation_record: str = ""
    num_validation: CountOrZero = 16
    face_size: Side = 256  # of the images in the face record
    scene_size: Side = 400  # of the images in the scene record
    face_patch_size: Side = 128
    scene_patch_size: Side = 256
    samples_per_task: Count = 4
    min_log_gradient: Finite = -6.0  # of a face patch; flatter ones are drawn again
    max_redraws: CountOrZero = 5
    restorer: str = "gpen-256"  # of the degraded faces; `ground-truth`: the faces themselves
    codeformer_fidelity: float = 0.5  # of a restorer that is a .onnx of CodeFormer
    num_workers: CountOrZero = 0  # threads that degrade; 0: TensorFlow decides
    skip_corrupt: bool = False  # leave out damaged images of a record instead of stopping


@dataclass(frozen=True)
class RunConfig:
    """What a run writes, and how often, in iterations."""

    log_every: Count = 20
    validate_every: Count = 1000
    validation_tasks: Annotated[int, Range(2)] = 8  # each is also adapted with the faces of another
    validation_patches: Count = 16  # per face, as at test time
    validation_patch_size: Side = 64
    validation_scene_size: Side = 256  # of the scene's middle
    image_tasks: CountOrZero = 2  # validation tasks whose pictures go to TensorBoard
    save_every: Count = 1000
    keep_checkpoints: Count = 3
    keep_every: CountOrZero = 50_000  # checkpoints of its multiples are never removed; 0: none
    deterministic: bool = True  # equal runs give equal bits; may be slower on a GPU


@dataclass(frozen=True)
class TrainingConfig:
    """Everything main.py needs to know."""

    generator: GeneratorConfig = GeneratorConfig()
    inner: InnerConfig = InnerConfig()
    meta: MetaConfig = MetaConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: LossConfig = LossConfig()
    degradation: DegradationConfig = DegradationConfig()
    data: DataConfig = DataConfig()
    run: RunConfig = RunConfig()


@dataclass(frozen=True)
class FaceVariationConfig:
    """How portraits are varied before they are degraded. Ranges are uniform unless said otherwise."""

    face_width_range: Annotated[Pair, Range(4, 1024)] = (18.0, 80.0)  # low-quality pixels, of the box; log-uniform
    max_upscale: Positive = 1.15  # of a portrait: larger faces are shown smaller, or their truth would be blurred
    tilt: NotNegative = 8.0  # degrees: standard deviation of the head's
    # standard deviations of the alignment's rotation in degrees, log(scale), and shift as a share of the aligned crop
    alignment_rotation: NotNegative = 2.5
    alignment_scale: NotNegative = 0.05
    alignment_shift: NotNegative = 0.016
    gamma: NotNegative = 0.2  # of log(gamma), to either side
    gain: Prob = 0.08  # of each channel, around 1
    saturation_range: Annotated[Pair, Range(0, 10)] = (0.7, 1.15)
    gray_prob: Prob = 0.04


@dataclass(frozen=True)
class RestorerOptimizationConfig:
    """Muon on the kernels of the face restorer's blocks, Adam on the rest; the rate falls along half a cosine."""

    num_iterations: Count = 4000
    batch_size: Count = 4
    learning_rate: Positive = 1.2e-4
    position_lr_ratio: Positive = 10.0  # of the weights of the position maps, which begin at zero, to that
    min_lr_ratio: Prob = 0.01  # at the end
    warmup_iters: CountOrZero = 20
    init: str = "realesrgan"  # weights to start from: as meta.init, or a face restorer's .npz
    beta1: Decay = 0.9  # this, and the two below: of Adam
    beta2: Decay = 0.99
    epsilon: Positive = 1e-8
    clip_norm: NotNegative = 1.0  # of the gradient; 0: no clipping
    ema_decay: Decay = 0.99  # of the moving average that is validated and exported; less in the first iterations
    seed: CountOrZero = 0


@dataclass(frozen=True)
class RestorerLossConfig:
    """Weights of the loss's terms."""

    l1: Positive = 1.0  # LPIPS alone would leave colours free
    lpips: NotNegative = 5.0


# photos of good quality, which the two-stage degradation hardly ever gives: without any the restorer smooths too much
MILD_DEGRADATION = DegradationConfig(
    first=DegradationStage(sigma_range=(0.2, 1.8), sinc_prob=0.05, resize_probs=(0.1, 0.3, 0.6),
                           resize_range=(0.5, 1.2), noise_sigma_range=(1.0, 8.0), poisson_scale_range=(0.05, 0.5),
                           jpeg_range=(75.0, 98.0)),
    second=DegradationStage(blur_prob=0.2, sigma_range=(0.2, 0.6), sinc_prob=0.05, resize_probs=(0.0, 0.0, 1.0),
                            resize_range=(0.9, 1.1), noise_sigma_range=(1.0, 8.0), poisson_scale_range=(0.05, 0.5),
                            jpeg_range=(75.0, 98.0)),
    final_sinc_prob=0.2)


@dataclass(frozen=True)
class RestorerDataConfig:
    """The portraits that the restorer learns from, and the shares of degradations besides the two-stage one."""

    photo_dir: str = "./datasets/portraits"
    faces: str = "./datasets/portrait_faces/faces.csv"  # of generate_test_faces.py: the faces in these photos
    # regular expressions for file names: those not to train on, and those to validate on. By default that is every
    # fifth number in the names (001, 006, 011, ...), and half of those; the others are for the evaluation
    held_out: str = r"_\d*[16](?!\d)"
    validation: str = r"_\d*1(?!\d)"
    patch_size: int = 40  # low-quality pixels
    clean_prob: Prob = 0.08
    jpeg_prob: Prob = 0.1  # of two JPEGs
    jpeg_range: Annotated[Pair, Range(1, 100)] = (10.0, 60.0)  # their quality
    mild_prob: Prob = 0.2
    num_workers: CountOrZero = 1  # threads that degrade; 0: one per core


@dataclass(frozen=True)
class RestorerRunConfig:
    """What a run writes, and how often, in iterations."""

    log_every: Count = 20
    validate_every: Count = 250
    validation_faces: Count = 24
    validation_patch_size: int = 64  # low-quality pixels
    image_faces: CountOrZero = 4  # validation faces whose pictures are written
    save_every: Count = 250
    keep_checkpoints: Count = 2
    keep_every: CountOrZero = 0
    deterministic: bool = True


@dataclass(frozen=True)
class RestorerTrainingConfig:
    """Everything scripts/train_face_restorer.py needs to know."""

    network: GeneratorConfig = GeneratorConfig()
    optimization: RestorerOptimizationConfig = RestorerOptimizationConfig()
    loss: RestorerLossConfig = RestorerLossConfig()
    variation: FaceVariationConfig = FaceVariationConfig()
    degradation: DegradationConfig = DegradationConfig()
    mild_degradation: DegradationConfig = MILD_DEGRADATION
    data: RestorerDataConfig = RestorerDataConfig()
    run: RestorerRunConfig = RestorerRunConfig()


RESTORER_PRESETS: dict[str, dict[str, object]] = {
    "default": {},
    # seconds per run: does everything, learns nothing
    "smoke": {
        "network.num_blocks": 2, "network.num_features": 8, "network.growth": 4, "loss.lpips": 0.0,
        "optimization.num_iterations": 4, "optimization.init": "random", "optimization.warmup_iters": 1,
        "data.patch_size": 12, "run.log_every": 1, "run.validate_every": 2, "run.validation_faces": 2,
        "run.validation_patch_size": 16, "run.image_faces": 1, "run.save_every": 2,
    },
}


# differences from the published values
PRESETS: dict[str, dict[str, object]] = {
    "published": {},
    # a CPU with 8 GB: the whole generator, small patches, one task, L1 only, faces from the ground truth
    "small": {
        "meta.num_iterations": 300, "meta.tasks_per_batch": 1, "meta.learning_rate": 5e-5, "meta.mask_bias": 1.0,
        "data.samples_per_task": 1, "data.face_patch_size": 64, "data.scene_patch_size": 128,
        "data.restorer": "ground-truth", "loss.lpips": 0.0, "loss.gan": 0.0,
        "run.log_every": 5, "run.validate_every": 25, "run.validation_patches": 4, "run.validation_scene_size": 192,
        "run.save_every": 50, "run.keep_every": 0,
    },
    # resumes pretrained_models/metaf2n-small, whose card has the commands of the training before
    "metaf2n-small": {
        "generator.num_blocks": 6, "meta.num_iterations": 6000, "meta.tasks_per_batch": 1, "meta.learning_rate": 1.5e-4,
        "meta.mask_bias": 1.0, "meta.clip_norm": 1.0, "meta.ema_decay": 0.998, "meta.bfloat16": True,
        "meta.init": "metaf2n-small", "loss.lpips": 0.0, "loss.gan": 0.0, "loss.mask": 0.01, "loss.unadapted": 0.3,
        "degradation.tone_prob": 0.5, "degradation.tone_gamma": 0.4, "degradation.tone_gain_range": (0.8, 1.1),
        "data.samples_per_task": 2, "data.face_patch_size": 96, "data.scene_patch_size": 96, "data.scene_size": 320,
        "data.restorer": "rrdb-face", "run.log_every": 50, "run.validate_every": 500, "run.validation_tasks": 24,
        "run.validation_patches": 8, "run.validation_scene_size": 192, "run.save_every": 250, "run.keep_every": 0,
    },
    # seconds per run: uses every part, learns nothing
    "smoke": {
        "generator.num_blocks": 1, "generator.num_features": 8, "generator.growth": 4,
        "meta.num_iterations": 4, "meta.tasks_per_batch": 2, "meta.init": "random", "meta.mask_bias": 1.0,
        "discriminator.num_features": 4, "discriminator.init": "random",
        "data.samples_per_task": 1, "data.face_patch_size": 64, "data.scene_patch_size": 64,
        "data.restorer": "ground-truth", "data.num_validation": 2, "loss.lpips": 0.0,
        "run.log_every": 1, "run.validate_every": 2, "run.validation_tasks": 2, "run.validation_patches": 2,
        "run.validation_scene_size": 64, "run.save_every": 2, "run.keep_every": 0,
    },
}
# continues pretrained_models/metaf2n-x4plus; its card says what the loss was before LPIPS was available
PRESETS["metaf2n-x4plus"] = {
    **PRESETS["metaf2n-small"], "generator.num_blocks": 23, "meta.init": "metaf2n-x4plus", "meta.num_iterations": 2000,
    "meta.learning_rate": 3e-5, "meta.ema_decay": 0.98, "loss.lpips": 0.5, "loss.unadapted": 0.5, "run.log_every": 20,
    "run.validation_tasks": 6, "run.validate_every": 200, "run.save_every": 50,
}
