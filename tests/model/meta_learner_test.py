import functools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import model.meta_learner
from config import InnerConfig, LossConfig
from model.adam import AdamState, adam
from model.adaptation import Support, inner_steps, support_loss_and_gradients
from model.discriminator import discriminator_params_from_torch, init_discriminator
from model.lpips import lpips_params_from_torch
from model.masknet import init_masknet, masknet
from model.meta_learner import (
    Networks,
    Task,
    batch_gradients,
    discriminator_terms,
    reconstruction_terms,
    scalar_names,
    task_gradients,
)
from model.rrdbnet import rrdbnet, traced_block
from tests.helpers.reference_weights import (
    reference_discriminator_state,
    reference_generator,
    reference_lpips_states,
    reference_masknet,
)
from tests.helpers.small_networks import small_generator

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "train_step.npz")
GRAD_NAMES = GOLDEN["grad_names"].tobytes().decode().split("\n")
SCALARS = {"inner_loss": "lossa", "l1": "l1", "lpips": "vgg", "gan": "gan", "discriminator_loss": "d_losses"}


def tensors(params):
    return {name: tf.constant(value) for name, value in params.items()}


@pytest.fixture(scope="module")
def networks():
    discriminator, vectors = discriminator_params_from_torch(reference_discriminator_state())
    return Networks(tensors(reference_generator()), tensors(reference_masknet()), discriminator, vectors,
                    lpips_params_from_torch(*reference_lpips_states()))


@pytest.fixture(scope="module")
def tasks():
    return Task(*(tf.constant(GOLDEN[f"in/{name}"]) for name in ("inputa", "labela", "inputb", "labelb",
                                                                  "labelb_nousm")))


def run(networks, tasks, *, num_steps=1, second_order=True):
    """Both tasks of the published arithmetic. One block is traced; to trace all would take longer than it saves."""
    inner = InnerConfig(num_steps=num_steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.meta_learner, "rrdbnet", functools.partial(rrdbnet, run_block=traced_block))
        gradients, rows = batch_gradients(networks, tasks, inner=inner, loss=LossConfig(), second_order=second_order)
    return gradients, dict(zip(scalar_names(networks, inner, LossConfig()), rows.numpy().T, strict=True))


@pytest.fixture(scope="module")
def second(networks, tasks):
    return run(networks, tasks)


@pytest.fixture(scope="module")
def first(networks, tasks):
    return run(networks, tasks, second_order=False)


def by_published_name(gradients):
    """Means over the two tasks, under the names of the checkpoint."""
    return {**{f"MODEL/{name}": value.numpy() / 2 for name, value in gradients.generator.items()},
            **{f"Mask/{name}": value.numpy() / 2 for name, value in gradients.mask.items()}}


def check_gradients(gradients, case, factor=1.0):
    actual = {name: factor * value for name, value in by_published_name(gradients).items()}
    compared = [key for key in GOLDEN.files if key.startswith(f"{case}/grad/")]
    assert len(compared) == 7
    for key in compared:
        expected = GOLDEN[key]
        np.testing.assert_allclose(actual[key.removeprefix(f"{case}/grad/")].ravel()[:64], expected, rtol=0,
                                   atol=1e-3 * np.abs(expected).max(), err_msg=key)
    norms = np.array([np.linalg.norm(actual[name].astype(np.float64)) for name in GRAD_NAMES])
    expected = GOLDEN[f"{case}/grad_l2"]
    np.testing.assert_allclose(norms, expected, rtol=0, atol=2e-4 * expected.max())
    assert np.linalg.norm(norms) == pytest.approx(float(GOLDEN[f"{case}/grad_global_norm"]), rel=5e-5)


@pytest.mark.parametrize("case", ["first", "second"])
def test_every_loss_term_equals_the_original(case, request):
    _, scalars = request.getfixturevalue(case)
    for name, published in SCALARS.items():
        expected = GOLDEN[f"{case}/{published}"]
        np.testing.assert_allclose(scalars[name], expected[-1] if expected.ndim > 1 else expected, rtol=1e-5,
                                   err_msg=name)
    np.testing.assert_allclose(scalars["outer_loss"], GOLDEN[f"{case}/lossesb"][-1], rtol=1e-5)
    assert np.mean(scalars["outer_loss"]) == pytest.approx(float(GOLDEN[f"{case}/objective"]), rel=1e-5)


def test_second_order_meta_gradients_equal_the_original(second):
    check_gradients(second[0], "second")


def test_first_order_meta_gradients_equal_the_original(first):
    check_gradients(first[0], "first")


def test_two_inner_steps_equal_the_original(networks, tasks):
    gradients, scalars = run(networks, tasks, num_steps=2)
    for step, suffix in ((1, "_step1"), (2, "")):
        for name in ("l1", "lpips", "gan"):
            np.testing.assert_allclose(scalars[f"{name}{suffix}"], GOLDEN[f"two/second/{SCALARS[name]}"][step],
                                       rtol=1e-5)
    np.testing.assert_allclose(scalars["discriminator_loss"], GOLDEN["two/second/d_losses"][-1], rtol=1e-5)
    # the original halves the weighted sum once more
    assert np.mean(scalars["outer_loss"]) / 2 == pytest.approx(float(GOLDEN["two/second/objective"]), rel=1e-5)
    check_gradients(gradients, "two/second", factor=0.5)


def test_mask_and_outputs_equal_the_original(networks, tasks, second):
    weights = masknet(networks.mask, tasks.face_lq[:, 0], tasks.face_hq[:, 0])
    np.testing.assert_allclose(weights[:, None, ::2, ::2], GOLDEN["second/W"], rtol=0, atol=1e-5)
    _, scalars = second
    np.testing.assert_allclose(scalars["mask_mean"], np.mean(weights, axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(scalars["mask_min"], np.min(weights, axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(scalars["mask_max"], np.max(weights, axis=(1, 2, 3)), rtol=1e-5)
    task = Task(*(images[0] for images in tasks))
    start = reconstruction_terms(networks, rrdbnet(networks.generator, task.scene_lq), task)
    assert float(start["l1"]) == pytest.approx(float(GOLDEN["second/l1"][0, 0]), rel=1e-5)
    assert float(start["lpips"]) == pytest.approx(float(GOLDEN["second/vgg"][0, 0]), rel=1e-5)


def take_adam_steps(params, gradients, learning_rate):
    return {name: adam(AdamState(params[name], tf.zeros_like(value), tf.zeros_like(value)), value / 2,
                       update=tf.constant(1.0), learning_rate=learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8)
            for name, value in gradients.items()}


def discriminator_gradients(networks, task):
    """As `task_gradients`, without those of the other networks."""
    weights = masknet(networks.mask, task.face_lq, task.face_hq)
    generator = functools.partial(rrdbnet, run_block=traced_block)
    [step] = inner_steps(networks.generator, [Support(task.face_lq, task.face_hq, weights)], learning_rate=0.01,
                         loss_and_gradients=functools.partial(support_loss_and_gradients, generator))
    return discriminator_terms(networks, generator(step.params, task.scene_lq), task.scene_real).discriminator_gradients


def test_one_iteration_in_the_original_order_gives_its_variables(networks, tasks):
    """The original takes the discriminator's gradient with the generator that has just been updated."""
    networks = networks._replace(vectors={name: tf.constant(GOLDEN[f"u_after/u{name[4]}"][None])
                                          for name in networks.vectors})
    gradients, _ = run(networks, tasks)
    generator = take_adam_steps(networks.generator, gradients.generator, 3e-5)
    mask = take_adam_steps(networks.mask, gradients.mask, 3e-5)
    moved = networks._replace(generator={name: state.value for name, state in generator.items()},
                              mask={name: state.value for name, state in mask.items()})
    by_task = [discriminator_gradients(moved, Task(*(images[index] for images in tasks))) for index in range(2)]
    discriminator = take_adam_steps(networks.discriminator, tf.nest.map_structure(tf.add, *by_task), 1e-4)
    after = {**{f"MODEL/{name}": state for name, state in generator.items()},
             **{f"Mask/{name}": state for name, state in mask.items()},
             **{f"Discriminator/{name}": state for name, state in discriminator.items()}}
    compared = [key.removeprefix("after/") for key in GOLDEN.files
                if key.startswith("after/") and not key.endswith(("/Adam", "/Adam_1"))]
    assert len(compared) == 11
    for name in compared:
        state, key = after[name], f"after/{name}"
        np.testing.assert_allclose(state.value.numpy().ravel()[:32], GOLDEN[key], rtol=0, atol=1e-7, err_msg=name)
        for mean, slot in ((state.m, "Adam"), (state.v, "Adam_1")):
            expected = GOLDEN[f"{key}/{slot}"]
            np.testing.assert_allclose(mean.numpy().ravel()[:32], expected, rtol=0, atol=1e-3 * np.abs(expected).max())


# Below: small networks in float64, where differences are sharp.

def small_networks(seed=0):
    rng = np.random.default_rng(seed)
    generator = {name: tf.constant(value, tf.float64) for name, value in small_generator().items()}
    mask = {name: tf.cast(value, tf.float64) for name, value in init_masknet(seed, num_features=8).items()}
    mask["conv8/bias"] = tf.constant([0.5], tf.float64)
    size = ((1, 5, 4, 3), (1, 20, 16, 3), (1, 4, 6, 3), (1, 16, 24, 3), (1, 16, 24, 3))
    return Networks(generator, mask), Task(*(tf.constant(rng.random(shape)) for shape in size))


def gradients_of(networks, task, *, second_order, num_steps=1, learning_rate=0.1, mask_weight=0.001):
    return task_gradients(networks, task, inner=InnerConfig(learning_rate=learning_rate, num_steps=num_steps),
                          loss=LossConfig(mask=mask_weight), second_order=second_order)


@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("network", ["generator", "mask"])
def test_second_order_meta_gradient_equals_central_differences(network, num_steps):
    networks, task = small_networks()
    gradients, _ = gradients_of(networks, task, second_order=True, num_steps=num_steps)
    rng = np.random.default_rng(7)
    for _ in range(3):
        params = getattr(networks, network)
        move = {name: rng.normal(size=value.shape) * 0.1 for name, value in params.items()}
        losses = []
        for sign in (1, -1):
            moved = networks._replace(**{network: {name: params[name] + sign * 1e-6 * move[name] for name in params}})
            losses.append(float(gradients_of(moved, task, second_order=False, num_steps=num_steps)[1]["outer_loss"]))
        along = sum(float(np.sum(getattr(gradients, network)[name] * move[name])) for name in params)
        assert abs(along) > 1e-7
        assert along == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-3)


def test_first_order_meta_gradient_is_the_plain_gradient_at_the_adapted_weights():
    networks, task = small_networks()
    gradients, _ = gradients_of(networks, task, second_order=False)
    weights = masknet(networks.mask, task.face_lq, task.face_hq)
    [step] = inner_steps(networks.generator, [Support(task.face_lq, task.face_hq, weights)], learning_rate=0.1,
                         loss_and_gradients=functools.partial(support_loss_and_gradients, rrdbnet))
    with tf.GradientTape() as tape:
        tape.watch(step.params)
        loss = tf.reduce_mean(tf.abs(task.scene_target - rrdbnet(step.params, task.scene_lq)))
    expected = tape.gradient(loss, step.params)
    for name, value in expected.items():
        np.testing.assert_allclose(gradients.generator[name], value, rtol=1e-9, atol=1e-12)


def test_the_mask_learns_to_reconstruct_through_second_order_alone():
    networks, task = small_networks()
    for second_order in (False, True):
        gradients, _ = gradients_of(networks, task, second_order=second_order, mask_weight=0.0)
        size = max(float(np.abs(value).max()) for value in gradients.mask.values())
        assert (size > 1e-6) == second_order
        assert second_order or size == 0.0


def test_terms_are_weighted_and_summed_to_the_outer_loss(networks, tasks):
    task = Task(*(images[0] for images in tasks))
    small = Networks(tensors(small_generator()), networks.mask, networks.discriminator, networks.vectors,
                     networks.lpips)
    loss = LossConfig(l1=2.0, lpips=0.3, gan=0.7, mask=0.11)
    _, scalars = task_gradients(small, task, inner=InnerConfig(), loss=loss, second_order=False)
    expected = (2 * scalars["l1"] + 0.3 * scalars["lpips"] + 0.7 * scalars["gan"] + 0.11 * scalars["mask_loss"])
    assert float(scalars["outer_loss"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.fixture(scope="module")
def plain(networks):
    """A tiny generator and no perceptual networks."""
    return Networks(tensors(small_generator()), networks.mask)


L1_ONLY = LossConfig(lpips=0.0, gan=0.0)


def gradients_without_adaptation(plain, task):
    with tf.GradientTape() as tape:
        tape.watch(plain.generator)
        loss = tf.reduce_mean(tf.abs(task.scene_target - rrdbnet(plain.generator, task.scene_lq)))
    return loss, tape.gradient(loss, plain.generator)


def test_no_inner_step_is_plain_training_on_the_scenes(plain, tasks):
    task = Task(*(images[0] for images in tasks))
    inner = InnerConfig(num_steps=0)
    gradients, scalars = task_gradients(plain, task, inner=inner, loss=L1_ONLY, second_order=True)
    loss, expected = gradients_without_adaptation(plain, task)
    assert float(scalars["l1"]) == pytest.approx(float(loss), rel=1e-6)
    assert sorted(scalars) == scalar_names(plain, inner, L1_ONLY)
    assert "inner_loss" not in scalars
    for name, value in expected.items():
        np.testing.assert_allclose(gradients.generator[name], value, rtol=1e-5, atol=1e-8)


def test_unadapted_loss_is_added_with_its_weight(plain, tasks):
    task = Task(*(images[0] for images in tasks))
    settings = {"inner": InnerConfig(), "second_order": True}
    both = LossConfig(lpips=0.0, gan=0.0, unadapted=0.3)
    gradients, scalars = task_gradients(plain, task, loss=both, **settings)
    adapted, alone = task_gradients(plain, task, loss=L1_ONLY, **settings)
    loss, unadapted = gradients_without_adaptation(plain, task)
    assert float(scalars["l1_unadapted"]) == pytest.approx(float(loss), rel=1e-6)
    assert float(scalars["l1"]) == pytest.approx(float(alone["l1"]), rel=1e-6)
    assert float(scalars["outer_loss"]) == pytest.approx(float(alone["outer_loss"] + 0.3 * loss), rel=1e-6)
    assert sorted(scalars) == scalar_names(plain, InnerConfig(), both)
    for name, value in unadapted.items():
        np.testing.assert_allclose(gradients.generator[name], adapted.generator[name] + 0.3 * value, rtol=1e-4,
                                   atol=1e-7)
    for name, value in adapted.mask.items():
        np.testing.assert_allclose(gradients.mask[name], value, rtol=1e-4, atol=1e-9)


def test_bfloat16_convolutions_give_nearly_the_same_meta_gradient_in_float32(plain, tasks):
    task = Task(*(images[0] for images in tasks))
    exact, rounded = (task_gradients(plain, task, inner=InnerConfig(), loss=L1_ONLY, second_order=True,
                                     precision=precision) for precision in (None, tf.bfloat16))
    assert float(rounded[1]["l1"]) == pytest.approx(float(exact[1]["l1"]), rel=0.02)
    for network in ("generator", "mask"):
        a, b = (np.concatenate([value.numpy().ravel() for value in getattr(result[0], network).values()])
                for result in (exact, rounded))
        assert b.dtype == np.float32
        assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.9
        assert not np.array_equal(a, b)


@pytest.fixture(scope="module")
def small_tasks():
    """Two tasks, and networks with a discriminator for them, in float32."""
    rng = np.random.default_rng(0)
    discriminator, vectors = init_discriminator(0, num_features=4)
    networks = Networks(tensors(small_generator()), init_masknet(0, num_features=8), discriminator, vectors)
    return networks, Task(*(tf.constant(rng.random((2, 1, side, side, 3), np.float32)) for side in (4, 16, 8, 32, 32)))


def test_tasks_add_up_in_a_graph_as_one_by_one(small_tasks):
    networks, tasks = small_tasks
    settings = {"inner": InnerConfig(), "loss": LossConfig(lpips=0.0), "second_order": False}
    sums, rows = tf.function(lambda tasks: batch_gradients(networks, tasks, **settings))(tasks)
    single = [task_gradients(networks, Task(*(images[index] for images in tasks)), **settings) for index in range(2)]
    for network in ("generator", "mask", "discriminator"):
        for name, total in getattr(sums, network).items():
            expected = sum(getattr(gradients, network)[name].numpy() for gradients, _ in single)
            np.testing.assert_allclose(total, expected, rtol=1e-3, atol=1e-5 * max(1, np.abs(expected).max()))
    for index, (_, scalars) in enumerate(single):
        np.testing.assert_allclose(rows[index], [scalars[name] for name in
                                                 scalar_names(networks, InnerConfig(), LossConfig())], rtol=1e-5)
