"""Upload transforms: the bound of clip, the size of noise, and a memory that lives as private state does."""

from __future__ import annotations

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from laws.rounds import DATASET, after, late_state
from laws.saving import require_saved, require_stored_rounds
from laws.transforms import KEY, broadcast, upload
from problems import client_data, settings

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.client import make_client_round
from fedvlr_jax.federated.transforms import TRANSFORMS, UploadTransform, make_clip, make_noise
from fedvlr_jax.models.model import Upload

# ---- clip

FLOATS = st.floats(width=32, allow_subnormal=False)  # the compiler takes subnormal numbers for zero
ROWS, HEAD = arrays.arrays(np.float32, (3, 2), elements=FLOATS), arrays.arrays(np.float32, (2,), elements=FLOATS)


@jax.jit
def clipped(clip_norm, rows, head):
    """Of a client alone, and of one in a chunk: two programs, which may treat extreme numbers in two ways."""

    def clip(rows, head):
        upload, _ = make_clip(clip_norm=clip_norm).client(None, Upload(None, {"views": rows}, {"w": head}), ())
        return upload.rows["views"], upload.head["w"]

    return clip(rows, head), jax.tree.map(lambda x: x[0], jax.vmap(clip)(rows[None], head[None]))


def norm_of(*leaves: np.ndarray) -> float:
    return float(np.linalg.norm(np.concatenate([np.float64(x).ravel() for x in leaves])))


@hypothesis.given(ROWS, HEAD, st.sampled_from([1e-3, 1.0, 50.0]))
@hypothesis.settings(deadline=None, max_examples=200)
def test_clip_bounds_the_norm_of_whatever_is_sent_and_changes_nothing_below(rows, head, bound):
    norm = norm_of(rows, head)
    for found in clipped(np.float32(bound), rows, head):
        assert norm_of(*found) <= bound * (1 + 1e-6)
        if norm <= bound * (1 - 1e-6):
            np.testing.assert_array_equal(found[0], rows)
            np.testing.assert_array_equal(found[1], head)
        elif norm < 1e30:  # the direction stays
            np.testing.assert_allclose(found[0], rows * (bound / norm), rtol=1e-5, atol=1e-37)


# ---- compression


def test_the_largest_rows_are_sent_and_the_others_are_zero():
    rng = np.random.default_rng(0)
    rows = {
        name: jnp.asarray(rng.normal(size=(8, *shape)), jnp.float32) for name, shape in (("a", (2, 3)), ("b", (3,)))
    }
    rows = jax.tree.map(lambda x: jnp.float32(x).at[6:].set(0), rows)  # padding
    transform = TRANSFORMS["top_rows"](keep_rows=0.4)
    found, _ = transform.client(KEY, Upload(jnp.arange(8), rows, {"w": jnp.ones(2)}), ())
    norm = np.sqrt(sum(np.sum(np.reshape(x, (8, -1)) ** 2, axis=1) for x in rows.values()))
    kept = np.argsort(-norm)[:3]  # 0.4 of six rows, rounded up
    for name, x in rows.items():
        np.testing.assert_array_equal(found.rows[name][kept], x[kept])
        assert not np.delete(found.rows[name], kept, axis=0).any()
    np.testing.assert_array_equal(found.head["w"], 1)


def test_rounding_to_8_bits_is_right_on_average_and_never_off_by_more_than_a_step():
    sent = upload(seed=3)
    keys = jax.random.split(KEY, 4_000)
    draws, _ = jax.jit(jax.vmap(TRANSFORMS["round8"]().client, in_axes=(0, None, None)))(keys, sent, ())
    for x, found in zip(
        *(map(np.asarray, jax.tree.leaves((u.rows["views"], u.head))) for u in (sent, draws)), strict=True
    ):
        axes = tuple(range(1, x.ndim)) if x.ndim == 3 else None
        step = np.max(np.abs(x), axis=axes, keepdims=True) / 127
        whole = np.divide(found, step, out=np.zeros(found.shape), where=step > 0)
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-3)
        assert np.abs(whole).max() <= 127.001
        assert (np.abs(found - x) <= step * 1.001).all()
        assert (np.abs(np.mean(found, axis=0) - x) <= 6 * 0.5 * step / np.sqrt(len(keys)) + 1e-6).all()


@pytest.mark.slow
def test_a_row_is_rounded_alike_whatever_else_is_sent():
    sent = upload(seed=3)
    alone = Upload(sent.ids_n[1:2], jax.tree.map(lambda x: x[1:2], sent.rows), sent.head)
    (found, _), (one, _) = (TRANSFORMS["round8"]().client(KEY, u, ()) for u in (sent, alone))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1:2], b), found.rows, one.rows)


# ---- noise


def test_noise_has_the_size_that_it_says_on_every_coordinate():
    """On rows that nobody touched too: the mean of a round is zero there before, and noise after."""
    transform, like = make_noise(noise_multiplier=0.5, clip_norm=3.0), broadcast()
    keys = jax.random.split(jax.random.key(0), 2_000)
    draws = jax.jit(jax.vmap(lambda key: transform.server(key, like, jnp.float32(6))))(keys)
    for x in jax.tree.leaves(draws):
        deviation = np.std(x, axis=0)
        np.testing.assert_allclose(deviation, 0.5 * 3.0 / 6, rtol=0.08)
        assert np.abs(np.mean(x, axis=0)).max() < 5 * 0.25 / np.sqrt(len(keys))
    flat = np.concatenate([np.reshape(x, (len(keys), -1)) for x in jax.tree.leaves(draws)], axis=1)
    correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert np.abs(correlation).max() < 6 / np.sqrt(len(keys))  # no two coordinates share a number


def test_noise_is_that_of_the_seed_and_the_round():
    """It is all that moves D behind a clip that hides every upload, and moves each of its rows."""
    common = {"variant": "base", "aggregation__transforms": "clip,noise", "aggregation__clip_norm": 1e-6}
    algorithm = make_algorithm(settings(aggregation__noise_multiplier=1e6, **common), DATASET)
    run, data, start = jax.jit(algorithm.run, static_argnums=2), client_data(DATASET), late_state(algorithm, 2)
    start_d = start.public.params["variant"]["D"]

    def noise(round_, seed):
        state = start.replace(public=start.public.replace(round=jnp.int32(round_)), key=jax.random.key(seed))
        return np.asarray(run(state, data, 1)[0].public.params["variant"]["D"] - start_d)

    first, again, other_round, other_seed = (noise(*at) for at in ((2, 0), (2, 0), (3, 0), (2, 1)))
    np.testing.assert_array_equal(first, again)
    for other in (other_round, other_seed):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.2
    expected = 0.05 * 1.0 / DATASET.num_users  # the server's rate times the deviation of the mean
    np.testing.assert_allclose(np.std(first), expected, rtol=0.15)
    assert (np.std(first, axis=1) > 0.3 * expected).all()


def test_noise_needs_clip_before_it_and_a_sum():
    for transforms in ("noise", "noise,clip"):
        with pytest.raises(ConfigError, match="expected clip before it"):
            make_algorithm(settings(aggregation__transforms=transforms), DATASET)
    for transforms in ("clip,round8,noise", "clip,noise,top_rows"):
        with pytest.raises(ConfigError, match="nothing bounds what is made of an upload after clip"):
            make_algorithm(settings(aggregation__transforms=transforms), DATASET)
    make_algorithm(settings(aggregation__transforms="top_rows,round8,clip,noise"), DATASET)
    with pytest.raises(ConfigError, match="noise is calibrated to a sum"):
        make_algorithm(settings(aggregation__transforms="clip,noise", aggregation__aggregator="median"), DATASET)


def test_a_round_without_transforms_is_the_program_it_was(monkeypatch):
    """A transform without halves changes no line of it."""
    monkeypatch.setitem(TRANSFORMS, "nothing", lambda **options: UploadTransform())
    texts = []
    for name in ("", "nothing"):
        algorithm = make_algorithm(settings(variant="base", aggregation__transforms=name), DATASET)
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        texts.append(jax.jit(algorithm.run, static_argnums=2).lower(state, client_data(DATASET), 1).as_text())
    assert texts[0] == texts[1]


# ---- a transform with memory


def make_sparse(**options) -> UploadTransform:
    """Sends the rows with the largest numbers, and remembers the rest for the next round (error feedback)."""

    def init(like):
        return jax.tree.map(jnp.zeros_like, like.rows)

    def client(key, upload, memory):
        due = jax.tree.map(
            lambda x, rest: x + rest.at[upload.ids_n].get(mode="fill", fill_value=0), upload.rows, memory
        )
        sent = jax.tree.map(lambda x: jnp.where(jnp.abs(x) > 0.5 * jnp.max(jnp.abs(x)), x, 0), due)
        rest = jax.tree.map(jnp.subtract, due, sent)
        memory = jax.tree.map(lambda table, x: table.at[upload.ids_n].set(x, mode="drop"), memory, rest)
        return upload._replace(rows=sent), memory

    return UploadTransform(init=init, client=client)


SPARSE = {
    "variant": "base",
    "client__negatives": 1,
    "client__steps": 1,
    "server__clients_per_round": 5,
    "aggregation__transforms": "sparse",
}


@pytest.fixture
def sparse(monkeypatch):
    monkeypatch.setitem(TRANSFORMS, "sparse", make_sparse)


@pytest.mark.slow
def test_nothing_of_an_upload_is_lost_between_message_and_memory(sparse):
    algorithm = make_algorithm(settings(**SPARSE), DATASET)
    start, data = late_state(algorithm, 0), client_data(DATASET)
    downloaded = algorithm.model.publish(start.public.params, data.content)
    state = jax.tree.map(lambda x: x[3], start.private)
    state = state.replace(memory=jax.tree.map(lambda x: x + 0.1, state.memory))
    rounds = [
        make_client_round(algorithm.model, algorithm.local, DATASET.num_items, transform)
        for transform in (algorithm.pipeline.transform, UploadTransform())
    ]
    arguments = (downloaded, state, data.buckets[0].history[3], jax.random.key(1), jax.random.key(2), jnp.int32(0))
    (after_, sent, _), (_, whole, _) = (jax.jit(client_round)(*arguments) for client_round in rounds)
    (memory,) = after_.memory
    ids_n = sent.ids_n
    kept = np.asarray(memory["views"].at[ids_n].get(mode="fill", fill_value=0))
    real = np.asarray(ids_n < DATASET.num_items)
    np.testing.assert_allclose((sent.rows["views"] + kept)[real], whole.rows["views"][real] + 0.1, rtol=1e-5)
    untouched = np.setdiff1d(np.arange(DATASET.num_items), ids_n)
    np.testing.assert_allclose(memory["views"][untouched], 0.1, rtol=1e-6)


@pytest.mark.slow
def test_memory_is_the_private_state_of_the_clients_that_took_part(sparse):
    (first, _), (second, _) = (after(count, **SPARSE) for count in (1, 2))
    remembers = [np.asarray(state.private.memory[0]["views"]).any(axis=(1, 2, 3)) for state in (first, second)]
    assert remembers[0].sum() == 5
    assert 5 <= remembers[1].sum() <= 10
    assert (remembers[1] >= remembers[0]).all()


@pytest.mark.slow
def test_memory_is_saved_and_stored_as_private_state_is(sparse, tmp_path):
    private = require_stored_rounds(tmp_path, 3, **SPARSE)
    assert np.any(private.memory[0]["views"])
    state, _ = after(1, **SPARSE)
    require_saved(tmp_path, state)
