"""Sums in words: exact, bounded, and bit by bit those of the protocol."""

from __future__ import annotations

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from laws.aggregators import broadcast, clients_at, sent, weighted_mean
from laws.rounds import DATASET, after, client, late_state
from problems import client_data, relative_difference, settings, spread

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.words import FixedPoint, make_fixed_point, make_word_sum, upload_words
from fedvlr_jax.models.model import Broadcast

POINT = FixedPoint(bound=0.7, bits=20)
IN_WORDS = {"secure__sum": True, "aggregation__transforms": "clip", "aggregation__clip_norm": 0.5, "variant": "base"}


@hypothesis.given(arrays.arrays(np.float32, 8, elements=st.floats(-1, 1, width=32, allow_subnormal=False)))
@hypothesis.settings(deadline=None, max_examples=100)
def test_numbers_come_back_to_a_step_and_none_grows(x):
    back = np.asarray(POINT.decode(POINT.encode(jnp.asarray(x))))
    inside = np.clip(x, -0.7, 0.7)
    assert np.abs(back - inside).max() <= 0.7 / POINT.steps * (1 + 1e-3)
    assert (np.abs(back) <= np.abs(inside) * (1 + 1e-6)).all()
    assert np.linalg.norm(back) <= np.linalg.norm(x) * (1 + 1e-6)


@functools.cache
def _compiled_sum():
    made = make_word_sum(FixedPoint(10.0, 20))
    return made._replace(add=jax.jit(made.add), finish=jax.jit(made.finish))


def joined(of, chunks, devices=1):
    made = _compiled_sum()
    uploads = of.uploads._replace(
        rows=jax.tree.map(jnp.float32, of.uploads.rows), head=jax.tree.map(jnp.float32, of.uploads.head)
    )
    of = of._replace(uploads=uploads, alpha_c=(of.alpha_c > 0).astype(jnp.float32))
    like = jax.tree.map(jnp.float32, broadcast())
    carries = []
    for part in np.array_split(np.concatenate(chunks), devices):
        carry = made.init(like, 5)
        for chunk in chunks:
            mine = np.intersect1d(chunk, part)
            if mine.size:
                carry = made.add(carry, *clients_at(of, mine))
        carries.append(carry)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *carries)
    merged = jax.vmap(lambda carry: made.merge(carry, "devices"), axis_name="devices")(stacked)
    return made.finish(jax.tree.map(lambda x: x[0], merged), jnp.float32(5))


@pytest.mark.slow
def test_the_mean_is_that_of_numbers_to_a_step_and_the_same_in_any_order():
    of = sent(1)._replace(alpha_c=jnp.ones(5))
    expected, step = weighted_mean(of), 10.0 / (1 << 19)
    found = joined(of, [np.arange(5)])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=step * 1.01)
    for chunks, devices in (([np.array([3, 0]), np.array([4, 2, 1])], 1), ([np.arange(5)], 2), ([np.arange(5)], 5)):
        again = joined(of, chunks, devices)
        jax.tree.map(np.testing.assert_array_equal, found, again)


def test_who_is_left_out_adds_nothing_whatever_it_sent():
    of = sent(2)
    of = of._replace(alpha_c=jnp.ones(5).at[2].set(0.0))
    expected = joined(of, [np.array([0, 1, 3, 4])])
    rows, head = jax.tree.map(lambda x: x.at[2].set(jnp.nan), (of.uploads.rows, of.uploads.head))
    broken = of._replace(uploads=of.uploads._replace(rows=rows, head=head))
    jax.tree.map(np.testing.assert_array_equal, joined(broken, [np.arange(5)]), expected)


def test_sums_that_could_overflow_are_refused():
    assert make_fixed_point(1.0, 22, 1023).bits == 22
    with pytest.raises(ConfigError, match="the sum of 1024 clients has to fit into 32 bits, so expected 2 to 21"):
        make_fixed_point(1.0, 22, 1024)
    point, most = make_fixed_point(1.0, 22, 1023), jnp.full(1023, 5.0)
    total = jnp.sum(point.encode(most), dtype=jnp.uint32)
    assert float(point.decode(total)) == 1023.0  # of the bound each, not of what was sent
    for overrides in ({"aggregation__transforms": ""}, {"aggregation__aggregator": "median"}):
        with pytest.raises(ConfigError, match=r"secure\.sum: a sum in words needs numbers that are bounded"):
            make_algorithm(settings(**IN_WORDS | overrides), DATASET)


@pytest.mark.parametrize("objective", spread(["bce", "softmax"], ["softmax"]))
def test_rounds_in_words_are_rounds_of_the_same_uploads(objective):
    words, info = after(2, objective=objective, **IN_WORDS)
    numbers, _ = after(2, objective=objective, **IN_WORDS | {"secure__sum": False, "host__name": "fcf"})
    assert not np.any(info.num_dropped)
    assert 0 < relative_difference(words.public.params, numbers.public.params) < 1e-3


def test_a_round_in_words_is_the_protocol_to_the_bit():
    """The uploads of a small cohort, one by one as devices send them, through every message of the protocol."""
    pytest.importorskip("cryptography", reason="the protocol needs the extra secure: pip install cryptography")
    from fedvlr_jax.secure_sum.simulate import secure_sum

    algorithm = make_algorithm(settings(**IN_WORDS, objective="softmax"), DATASET)
    point, state, data = FixedPoint(0.5, 22), late_state(algorithm, 0), client_data(DATASET)
    downloaded = algorithm.model.publish(state.public.params, data.content)
    bucket, words, carry = data.buckets[0], {}, algorithm.pipeline.aggregator.init(downloaded, 13)
    streams = [sampling.stream(state.key, kind, 0) for kind in (sampling.CLIENT, sampling.TRANSFORM)]
    client_round, encode = jax.jit(algorithm.client_round), jax.jit(lambda upload: upload_words(point, upload))
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    for k, u in enumerate(bucket.user.tolist()):
        keys = (jax.random.fold_in(key, u) for key in streams)
        _, upload, _ = client_round(downloaded, client(state.private, u), bucket.history[k], *keys, jnp.int32(0))
        sealed = encode(upload)
        words[u] = flat((sealed.rows, sealed.head))
        one = jax.tree.map(lambda x: x[None], upload._replace(ids_n=None))
        carry = algorithm.pipeline.aggregator.add(carry, one, jnp.ones(1))
    outcome = secure_sum(words, degree=6, lost={"reveal": [2]}, share=0.5)
    np.testing.assert_array_equal(outcome.total, flat(tuple(carry)))
    mean = algorithm.pipeline.aggregator.finish(carry, jnp.float32(13))
    assert isinstance(mean, Broadcast)
    assert np.abs(flat(tuple(mean))).max() > 0
