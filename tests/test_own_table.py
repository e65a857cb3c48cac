"""A private item table in the span of its start, public rows and queries: the rows that plain SGD would have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import client_data, planned, settings, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.federated.bucket_plan import OWN_TABLES, plan_buckets
from fedvlr_jax.models.own_table import SpannedTable, SpanStep, TableRows, span, step_table, sum_rows

NUM_ITEMS, DIM, STEPS, RATE = 11, 4, 6, 0.3


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, list[SpanStep]]:
    """P, D, and what the loss says in every step; some rows are not read in some steps."""
    rng = np.random.default_rng(seed)

    def by_row() -> np.ndarray:
        return rng.normal(size=NUM_ITEMS) * (rng.random(NUM_ITEMS) < 0.7)

    steps = [SpanStep(by_row(), rng.normal(size=DIM), 0.1 * by_row(), 0.1 * by_row()) for _ in range(STEPS)]
    return rng.normal(size=(NUM_ITEMS, DIM)), rng.normal(size=(NUM_ITEMS, DIM)), steps


def dense_step(T: np.ndarray, D: np.ndarray, step: SpanStep) -> np.ndarray:
    """The gradient of ``e . (T q) + r . ||T - D||^2 + l . ||T||^2`` by rows."""
    pull = 2 * step.distance_i[:, None] * (T - D) + 2 * step.square_i[:, None] * T
    return T - RATE * (np.outer(step.e_i, step.query_d) + pull)


@pytest.mark.parametrize("seed", range(3))
def test_every_step_of_the_span_is_that_of_the_rows(seed):
    P, D, steps = problem(seed)
    with jax.enable_x64(True):
        table, T, pulled = span(jnp.asarray(P), jnp.asarray(D), STEPS), P, np.zeros_like(P)
        for step in steps:
            rows = TableRows(jnp.asarray(T), jnp.asarray(D))
            q_d = np.cos(step.query_d)
            for found, expected in (
                (table.rows(), T),
                (table.dot(q_d), rows.dot(q_d)),
                (table.distance(), rows.distance()),
                (table.square(), rows.square()),
            ):
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
            pulled = pulled - 2 * step.distance_i[:, None] * (T - D)
            table, T = step_table(table, step, RATE), dense_step(T, D, step)
        np.testing.assert_allclose(table.rows(), T, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(table.pulled().rows(jnp.asarray(D)), pulled, rtol=1e-12, atol=1e-12)


def test_the_weighted_sum_over_clients_is_that_of_their_rows():
    with jax.enable_x64(True):
        D, tables = jnp.asarray(problem(0)[1]), []
        for seed in range(3):
            P, _, steps = problem(seed)
            table: SpannedTable = span(jnp.asarray(P), D, STEPS)
            for step in steps:
                table = table.moved(step, RATE)
            tables.append(table)
        weight_c = jnp.array([0.5, 0.0, 2.0])
        each = [table.pulled() for table in tables]
        found = sum_rows(jax.tree.map(lambda *x: jnp.stack(x), *each), weight_c, D)
        expected = sum(w * rows.rows(D) for w, rows in zip(weight_c, each, strict=True))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_loss_is_differentiated_in_products_distances_and_squares_but_not_through_them():
    """The derivatives in `more_i` are r and l, and those in q are e @ T."""
    P, D, steps = problem(1)
    with jax.enable_x64(True):
        table = span(jnp.asarray(P), jnp.asarray(D), STEPS)
        for step in steps[:3]:
            table = table.moved(step, RATE)
        e_i, q_d, r_i, l_i = steps[3]

        def loss(q_d, more_i):
            at = table._replace(more_i=more_i)
            return e_i @ at.dot(q_d) + r_i @ at.distance() + l_i @ at.square()

        in_q, (in_distance, in_square) = jax.grad(loss, (0, 1))(jnp.asarray(q_d), table.more_i)
        np.testing.assert_allclose(in_q, e_i @ table.rows(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(in_distance, r_i)
        np.testing.assert_allclose(in_square, l_i)


def test_clients_with_private_tables_train_in_the_span_where_they_read_all_items():
    dataset = tiny_dataset()
    algorithm = make_algorithm(settings(host__name="fedrap"), dataset)
    assert {bucket.path for bucket in planned(algorithm, dataset)} == {"factors"}
    buckets = client_data(dataset).buckets
    plan = plan_buckets(algorithm.model, algorithm.local, buckets, dataset.num_items, path="auto", chunk=1)
    assert {bucket.chunk for bucket in plan} == {OWN_TABLES}
    moving = make_algorithm(settings(host__name="fedrap", client__move_items=True), dataset)
    assert {bucket.path for bucket in planned(moving, dataset)} == {"uploads"}
