"""RetinaFace (Deng et al., 2020) with a ResNet-50 body: finds faces and their five landmarks. Inference only.

Names of parameters are those of the convolutions in the published file, `fpn/output1/0/weight` (HWIO) and
`.../bias`; the batch norm behind each is folded into them when the file is loaded. `detect` goes from a photo
to its faces.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model.layers import Params, check_shapes, conv2d, fold_batch_norm, upsample_nearest
from model.resnet import BATCH_NORM_EPSILON, EXPANSION, STAGES, resnet50, resnet50_shapes

MEAN_BGR = (104.0, 117.0, 123.0)  # in range 255
NUM_FEATURES = 256  # of each level of the pyramid
ANCHOR_SIZES = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # step of a level -> sides of its anchors, in pixels
NUM_ANCHORS = 2  # at each position
HEADS = {"ClassHead": 2, "BboxHead": 4, "LandmarkHead": 10}  # outputs for each anchor
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2  # units of the raw outputs
LONGEST_SIDE = 1500  # in pixels: photos beyond it are scaled to SCALED_SIDE
SCALED_SIDE = 1000
MAX_CANDIDATES = 5000  # that the non-maximum suppression looks at
MAX_FACES = 750

Forward = Callable[[np.ndarray], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


class Detections(NamedTuple):
    """Faces of a photo by falling score, in its pixels; nothing is clipped to the photo.

    `boxes` [k, 4] are x0, y0, x1, y1; `scores` [k] in [0, 1]; `landmarks` [k, 5, 2] are x and y of the eyes, the nose
    and the corners of the mouth, left in the picture first. All float32.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray


def retinaface_shapes() -> dict[str, tuple[int, ...]]:
    """Return name -> shape (HWIO and bias) of every folded parameter, in the order of the published file."""
    shapes = {f"body/{name}": shape for name, shape in resnet50_shapes().items()}

    def add(name: str, size: int, c_in: int, c_out: int) -> None:
        shapes[f"{name}/weight"] = (size, size, c_in, c_out)
        shapes[f"{name}/bias"] = (c_out,)

    half, quarter = NUM_FEATURES // 2, NUM_FEATURES // 4
    for level, stage in enumerate(list(STAGES)[1:], start=1):
        add(f"fpn/output{level}/0", 1, EXPANSION * STAGES[stage][0], NUM_FEATURES)
    for level in (1, 2):
        add(f"fpn/merge{level}/0", 3, NUM_FEATURES, NUM_FEATURES)
    for level in (1, 2, 3):
        add(f"ssh{level}/conv3X3/0", 3, NUM_FEATURES, half)
        add(f"ssh{level}/conv5X5_1/0", 3, NUM_FEATURES, quarter)
        for name in ("conv5X5_2", "conv7X7_2", "conv7x7_3"):
            add(f"ssh{level}/{name}/0", 3, quarter, quarter)
    for head, num_outputs in HEADS.items():
        for level in range(3):
            add(f"{head}/{level}/conv1x1", 1, NUM_FEATURES, NUM_ANCHORS * num_outputs)
    return shapes


def retinaface_torch_shapes() -> dict[str, tuple[int, ...]]:
    """Return name -> shape of what the published file holds, without the prefix "module." and batch norm's counters."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, (height, width, c_in, c_out) in _convolutions().items():
        shapes[f"{conv}.weight"] = (c_out, c_in, height, width)
        norm = _norm_of(conv)
        if norm is None:
            shapes[f"{conv}.bias"] = (c_out,)
        else:
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{norm}.{part}"] = (c_out,)
    return shapes


def retinaface_params_from_torch(state: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    """Fold the arrays of the published file into parameters.

    Args:
        state: as from `utils.weights.state_dicts.load_state_dict`; counters (`num_batches_tracked`) are ignored.

    Raises:
        ValueError: in one line, which names are missing, unknown or of another shape.
    """
    state = {name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
    check_shapes({name: value.shape for name, value in state.items()}, retinaface_torch_shapes(), network="RetinaFace")
    params = {}
    for conv in _convolutions():
        kernel, norm = state[f"{conv}.weight"], _norm_of(conv)
        if norm is None:
            weight, bias = kernel.transpose(2, 3, 1, 0), state[f"{conv}.bias"]
        else:
            parts = (state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
            weight, bias = fold_batch_norm(kernel, *parts, epsilon=BATCH_NORM_EPSILON)
        name = conv.replace(".", "/")
        params[f"{name}/weight"] = tf.constant(np.asarray(weight, np.float32))
        params[f"{name}/bias"] = tf.constant(np.asarray(bias, np.float32))
    return params


def _convolutions() -> dict[str, tuple[int, ...]]:
    """Return the convolutions under PyTorch's names -> shape HWIO."""
    return {name.removesuffix("/weight").replace("/", "."): shape for name, shape in retinaface_shapes().items()
            if name.endswith("/weight")}


def _norm_of(conv: str) -> str | None:
    """Name the batch norm behind a convolution: `bn1` of `conv1`, 1 of 0 in a sequence, none in the heads."""
    parent, _, last = conv.rpartition(".")
    if last == "conv1x1":
        return None
    return f"{parent}." + ("1" if last == "0" else last.replace("conv", "bn"))


def retinaface(params: Params, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute the raw outputs for every anchor, in the order of `prior_boxes`.

    Args:
        params: as from `retinaface_params_from_torch`.
        images: [n, h, w, 3] float32, as from `preprocess`.

    Returns:
        Raw boxes [n, k, 4], scores of "face" [n, k] in [0, 1], raw landmarks [n, k, 10].
    """
    pyramid = feature_pyramid(params, resnet50(params, "body", images))
    contexts = [context_module(params, f"ssh{level}", features) for level, features in enumerate(pyramid, start=1)]
    outputs = {}
    for head, num_outputs in HEADS.items():
        levels = [conv2d(params, f"{head}/{level}/conv1x1", context) for level, context in enumerate(contexts)]
        levels = [tf.reshape(level, [tf.shape(images)[0], -1, num_outputs]) for level in levels]
        outputs[head] = tf.concat(levels, axis=1)
    return outputs["BboxHead"], tf.nn.softmax(outputs["ClassHead"])[..., 1], outputs["LandmarkHead"]


def feature_pyramid(params: Params, stages: list[tf.Tensor]) -> list[tf.Tensor]:
    """Bring the three stages, finest first, to 256 channels and add the coarser to the finer ones."""
    fine, middle, coarse = (tf.nn.relu(conv2d(params, f"fpn/output{level}/0", stage))
                            for level, stage in enumerate(stages, start=1))
    middle = tf.nn.relu(conv2d(params, "fpn/merge2/0", middle + _upsample_to(coarse, middle)))
    fine = tf.nn.relu(conv2d(params, "fpn/merge1/0", fine + _upsample_to(middle, fine)))
    return [fine, middle, coarse]


def _upsample_to(features: tf.Tensor, finer: tf.Tensor) -> tf.Tensor:
    """Upsample by nearest neighbours to the size of the finer level.

    The coarse side is half the finer one, rounded up; then floor(i * coarse / fine), the rule for any size, is i // 2.
    """
    size = tf.shape(finer)
    return upsample_nearest(features)[:, :size[1], :size[2]]


def context_module(params: Params, name: str, features: tf.Tensor) -> tf.Tensor:
    """Look at each position through 3x3, 5x5 and 7x7 windows (SSH, Najibi et al., 2017): [n, h, w, 256], the same."""
    near = conv2d(params, f"{name}/conv3X3/0", features)
    wider = tf.nn.relu(conv2d(params, f"{name}/conv5X5_1/0", features))
    widest = tf.nn.relu(conv2d(params, f"{name}/conv7X7_2/0", wider))
    wider = conv2d(params, f"{name}/conv5X5_2/0", wider)
    widest = conv2d(params, f"{name}/conv7x7_3/0", widest)
    return tf.nn.relu(tf.concat([near, wider, widest], axis=3))


def prior_boxes(height: int, width: int) -> np.ndarray:
    """Return the anchors of an image: [k, 4] float32, centre x, y, width, height as shares of the image.

    The order is level (finest first), row, column, size.
    """
    levels = []
    for step, sides in ANCHOR_SIZES.items():
        rows = (np.arange(-(-height // step)) + 0.5) * step / height
        columns = (np.arange(-(-width // step)) + 0.5) * step / width
        y, x, side = np.meshgrid(rows, columns, np.array(sides, np.float64), indexing="ij")
        levels.append(np.stack([x, y, side / width, side / height], axis=-1).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def decode_boxes(raw: np.ndarray, priors: np.ndarray, height: int, width: int) -> np.ndarray:
    """Turn raw boxes [k, 4] and their anchors into x0, y0, x1, y1 in pixels of an image of this size."""
    centres = priors[:, :2] + raw[:, :2] * CENTRE_VARIANCE * priors[:, 2:]
    sides = priors[:, 2:] * np.exp(raw[:, 2:] * SIZE_VARIANCE)
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return corners * np.array([width, height, width, height], np.float32)


def decode_landmarks(raw: np.ndarray, priors: np.ndarray, height: int, width: int) -> np.ndarray:
    """Turn raw landmarks [k, 10] and their anchors into pixels of an image of this size: [k, 5, 2], x and y."""
    points = priors[:, None, :2] + raw.reshape(-1, 5, 2) * CENTRE_VARIANCE * priors[:, None, 2:]
    return points * np.array([width, height], np.float32)


def non_maximum_suppression(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Choose the best of overlapping boxes.

    A box is removed when its intersection over union with a better one that was kept is above the threshold. A box
    includes its last row and column: it is x1 - x0 + 1 wide.

    Args:
        boxes: [k, 4], x0, y0, x1, y1 in pixels.
        scores: [k]; of equal ones the first is better.
        threshold: in [0, 1].

    Returns:
        Indices of the boxes that are kept, by falling score.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        first = np.maximum(boxes[best, :2], boxes[order, :2])
        last = np.minimum(boxes[best, 2:], boxes[order, 2:])
        common = np.prod(np.maximum(last - first + 1, 0), axis=1)
        order = order[common / (areas[best] + areas[order] - common) <= threshold]
    return np.array(kept, np.int64)


def shrink_photo(photo: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale a photo whose longest side is above 1500 pixels to 1000, bilinearly; return it and the scale.

    Pixel i of the result is the photo at (i + 0.5) / scale - 0.5, with the exact scale although the shorter side is
    rounded (half to even), as OpenCV does when it is given the scale instead of the size.
    """
    longest = max(photo.shape[:2])
    if longest <= LONGEST_SIDE:
        return photo, 1.0
    scale = SCALED_SIDE / longest
    for axis in (0, 1):
        length = photo.shape[axis]
        positions = np.clip((np.arange(max(1, round(length * scale))) + 0.5) / scale - 0.5, 0, length - 1)
        lower = np.floor(positions).astype(np.int64)
        upper = np.minimum(lower + 1, length - 1)
        share = np.expand_dims((positions - lower).astype(np.float32), (1 - axis, 2))
        photo = photo.take(lower, axis) * (1 - share) + photo.take(upper, axis) * share
    return photo, scale


def preprocess(photo: np.ndarray) -> np.ndarray:
    """Turn [h, w, 3] float32 RGB in [0, 1] into the network's [1, h, w, 3]: BGR in range 255 without its mean."""
    return photo[None, ..., ::-1] * np.float32(255) - np.array(MEAN_BGR, np.float32)


def compile_retinaface(params: Params) -> Forward:
    """Compile `retinaface` with these parameters: one graph for images [1, h, w, 3] of any size."""
    return tf.function(lambda images: retinaface(params, images),
                       input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)])


def detect(forward: Forward, photo: np.ndarray, *, min_confidence: float = 0.9, nms_threshold: float = 0.4,
           max_candidates: int = MAX_CANDIDATES, max_faces: int = MAX_FACES) -> Detections:
    """Find the faces of a photo.

    Args:
        forward: as from `compile_retinaface`.
        photo: [h, w, 3] float32 RGB in [0, 1], of any size.
        min_confidence: scores must be above it.
        nms_threshold: boxes whose intersection over union with a better one is above it are left out.
        max_candidates: how many of the best boxes are compared with each other.
        max_faces: how many are returned at most.
    """
    shrunk, scale = shrink_photo(photo)
    height, width = shrunk.shape[:2]
    raw_boxes, scores, raw_landmarks = (np.asarray(output)[0] for output in forward(preprocess(shrunk)))
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > min_confidence][:max_candidates]
    priors = prior_boxes(height, width)
    boxes = decode_boxes(raw_boxes[order], priors[order], height, width)
    kept = non_maximum_suppression(boxes, scores[order], nms_threshold)[:max_faces]
    landmarks = decode_landmarks(raw_landmarks[order[kept]], priors[order[kept]], height, width)
    return Detections(boxes[kept] / np.float32(scale), scores[order[kept]], landmarks / np.float32(scale))
