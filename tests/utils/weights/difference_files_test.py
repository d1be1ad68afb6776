"""Checkpoints that are kept as their difference from Real-ESRGAN's weights: values, sizes, and what is missing."""

import math

import numpy as np
import pytest

from tests.reference_weights import reference_generator
from tests.small_networks import small_generator, small_masknet
from utils.errors import UserError
from utils.weights import checkpoints
from utils.weights import manifest as weights_module
from utils.weights.checkpoints import load_super_resolver, save_super_resolver
from utils.weights.manifest import Entry, Variant, WeightFile, sha256_of
from utils.weights.ternary import decode_difference, encode_difference

BASE = {name: value.astype(np.float16).astype(np.float32)
        for name, value in reference_generator(num_blocks=1, num_features=32, growth=16).items()}
NUM_CODES = math.ceil(sum(value.size for value in BASE.values() if value.size >= 4096) / 5)


def learnt():
    """Give weights a little away from the base."""
    random = np.random.default_rng(0)
    return {name: value + random.normal(0, 0.002, value.shape).astype(np.float32) for name, value in BASE.items()}


@pytest.fixture
def weights_dir(tmp_path, monkeypatch):
    """A weights folder in which `realesrgan` is a small network."""
    folder = tmp_path / "weights"
    save_super_resolver(folder / "base.npz", BASE)
    file = WeightFile("base.npz", None, sha256_of(folder / "base.npz"))
    entry = Entry("realesrgan", "base", "BSD", ("x",), (Variant("", (file,), ()),), ("https://a.org",))
    manifest = {"realesrgan": entry}
    monkeypatch.setattr(weights_module, "load_manifest", lambda: manifest)
    return folder


def save(path, weights_dir, generator=None, mask=None, **options):
    save_super_resolver(path, generator or learnt(), mask, base="realesrgan", weights_dir=weights_dir, **options)
    return path


def fails(match, path, weights_dir):
    with pytest.raises(UserError, match=match) as caught:
        load_super_resolver(str(path), weights_dir=weights_dir)
    assert "\n" not in str(caught.value)


def rewrite(path, **arrays):
    """Write a file again with other arrays; None takes one away."""
    with np.load(path) as file:
        kept = {**file, **{name.replace("__", "/"): value for name, value in arrays.items()}}
    np.savez(path, **{name: value for name, value in kept.items() if value is not None})


def test_a_difference_gives_the_weights_back_as_rounding_allows(tmp_path, weights_dir):
    file = save(tmp_path / "x.npz", weights_dir, mask=small_masknet())
    found = load_super_resolver(str(file), weights_dir=weights_dir)
    assert (found.source, found.meta_trained) == (str(file), True)
    expected = decode_difference(encode_difference(learnt(), BASE), BASE)
    assert found.generator.keys() == expected.keys()
    for name, value in expected.items():  # what is between is half precision, of differences of 0.002
        np.testing.assert_allclose(found.generator[name], value, rtol=0, atol=4e-6)
    for name, value in small_masknet().items():
        np.testing.assert_array_equal(found.mask[name], value.astype(np.float16))
    moved = np.concatenate([(found.generator[name] - value).ravel() for name, value in learnt().items()])
    assert 0.0008 < moved.std() < 0.0011  # sqrt(0.3) * 0.002, and less for what is kept exactly


def test_it_takes_less_than_a_quarter_of_float16_and_less_again_with_fewer_bits(tmp_path, weights_dir):
    save_super_resolver(tmp_path / "whole.npz", learnt())
    sizes = [path.stat().st_size for path in (
        tmp_path / "whole.npz", save(tmp_path / "a.npz", weights_dir),
        save(tmp_path / "b.npz", weights_dir, mantissa_bits=5))]
    # at best 1.11 bits for 16, but the small kernels and the archive's own entries weigh more in so small a network
    assert sizes[1] < sizes[0] / 4
    assert sizes[2] < sizes[1]


def test_equal_weights_give_equal_bytes(tmp_path, weights_dir):
    names = sorted(BASE, reverse=True)
    one = save(tmp_path / "a.npz", weights_dir)
    other = save(tmp_path / "b.npz", weights_dir, {name: learnt()[name] for name in names})
    assert one.read_bytes() == other.read_bytes()


def test_without_masknet_there_is_none(tmp_path, weights_dir):
    assert load_super_resolver(str(save(tmp_path / "x.npz", weights_dir)), weights_dir=weights_dir).mask is None


def test_a_missing_base_is_named_with_the_way_to_get_it(tmp_path, weights_dir):
    file = save(tmp_path / "x.npz", weights_dir)
    (weights_dir / "base.npz").unlink()
    fails(rf"^{file} is a difference from realesrgan: base\.npz not found in .*Download it by hand from https://a\.org",
          file, weights_dir)
    with pytest.raises(UserError, match=r"base\.npz not found"):
        save(tmp_path / "y.npz", weights_dir)
    assert not (tmp_path / "y.npz").exists()


def test_a_base_of_another_network_is_refused_when_written_and_when_read(tmp_path, weights_dir, monkeypatch):
    with pytest.raises(UserError, match=r"as a difference from realesrgan: .*conv1/bias \(4,\) instead of \(16,\)"):
        save(tmp_path / "x.npz", weights_dir, small_generator())
    assert not (tmp_path / "x.npz").exists()
    with pytest.raises(UserError, match=r"^a difference is from realesrgan or realesrgan-anime. Received: gpen\.$"):
        save_super_resolver(tmp_path / "x.npz", learnt(), base="gpen", weights_dir=weights_dir)
    file = save(tmp_path / "x.npz", weights_dir)
    monkeypatch.setattr(checkpoints, "load_base", lambda *_: small_generator())
    fails(rf"^{file} holds no difference from realesrgan: .*wrong shape: CODES ", file, weights_dir)


@pytest.mark.parametrize(("arrays", "match"), [
    ({"BASE__realesrgan": np.uint8(2)}, "is a difference of format 2, which this version does not know"),
    ({"BASE__realesrgan": np.uint8(2), "PLAIN": None, "TREE": np.zeros(3)}, "is a difference of format 2, which"),
    ({"BASE__realesrgan": None}, "holds no super-resolver: the name CODES begins neither with"),
    ({"BASE__realesrgan-anime": np.uint8(1)}, "it must be a difference from realesrgan or realesrgan-anime"),
    ({"BASE__gpen": np.uint8(1), "BASE__realesrgan": None}, "it must be a difference from realesrgan or"),
    ({"BASE__realesrgan": np.ones(3, np.uint8)}, "it must be a difference from realesrgan or realesrgan-anime"),
    ({"MODEL__conv_first__bias": np.zeros(32)}, "the name MODEL/conv_first/bias is none of a difference's"),
    ({"Mask__conv1__bias": np.zeros(64)}, "not those of MaskNet. missing: conv1/kernel"),
    ({"PLAIN": None}, "holds no difference from realesrgan: the array PLAIN is missing"),
    ({"PLAIN__\x1b": np.zeros(1)}, r"the name PLAIN/\? is none of a difference's"),
    ({"PLAIN": np.zeros(7)}, r"holds no difference from realesrgan: .*wrong shape: PLAIN \(7,\) instead of"),
    ({"STEPS": np.float32(np.inf)}, "STEPS has values that are not finite"),
    ({"CODES": np.full(NUM_CODES, 250, np.uint8)}, "holds no difference from realesrgan: a code is none of 0 to 242")])
def test_what_is_no_difference_is_one_line_that_says_why(tmp_path, weights_dir, arrays, match):
    file = save(tmp_path / "x.npz", weights_dir)
    rewrite(file, **arrays)
    fails(rf"^{file} .*{match}", file, weights_dir)
