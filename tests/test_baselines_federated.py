"""FedEASE: clients' blocks and their sum by loops, equality with the central models, bytes, clipping and noise."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from ranking_oracle import load_real, one_bucket, random_dataset

from fedvlr_jax.baselines import BASELINES, select
from fedvlr_jax.baselines.base import gram_matrix
from fedvlr_jax.baselines.fed_ease import federated_factor, gram_block, messages, sum_gram_blocks
from fedvlr_jax.baselines.ridge import gram_factor, ridge_scores
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.types import Dataset


def histories(dataset: Dataset) -> list[np.ndarray]:
    return [dataset.train_item[dataset.train_user == u] for u in range(dataset.num_users)]


def test_a_block_lists_the_pairs_of_its_clients_items():
    pairs = [(i, j) for j in range(10) for i in range(j + 1)]  # the order of positions
    block = gram_block(np.array([7, 2, 5]))
    assert (block.position.dtype, block.value.dtype) == (np.uint32, np.float32)
    found = [pairs[p] for p in block.position]
    assert sorted(found) == sorted(itertools.combinations_with_replacement([2, 5, 7], 2))
    assert (block.value == 1).all()


@pytest.mark.parametrize("shape", [(9, 14), (30, 12)])
def test_the_sum_of_the_blocks_is_the_gram_matrix_to_the_bit(shape):
    dataset = random_dataset(0, *shape)
    naive_ii = np.zeros((shape[1], shape[1]))
    for history in histories(dataset):
        for i, j in itertools.product(history, repeat=2):
            naive_ii[i, j] += 1
    np.testing.assert_array_equal(sum_gram_blocks(map(gram_block, histories(dataset)), shape[1]), naive_ii)
    np.testing.assert_array_equal(gram_matrix(dataset), naive_ii)
    np.testing.assert_array_equal(federated_factor(dataset), gram_factor(naive_ii))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ease", "content_ease"])
def test_the_federated_model_is_the_centralised_one_to_the_bit(monkeypatch, ku_folder, name):
    dataset = load_real(ku_folder)
    for key in (name, f"fed_{name}"):
        monkeypatch.setitem(
            BASELINES, key, BASELINES[key]._replace(grid=BASELINES[key].grid[:: len(BASELINES[key].grid) // 8])
        )
    central, federated = (select(dataset, one_bucket(dataset), key) for key in (name, f"fed_{name}"))
    assert federated.hyper == central.hyper
    jax.tree.map(np.testing.assert_array_equal, federated.ranks, central.ranks)


def test_a_client_needs_only_the_rows_of_its_own_items():
    """s_u = r_u B from n_u rows of B equals the table that is ranked."""
    dataset = random_dataset(1, 9, 14)
    ((_, weight_ii),) = ridge_scores(federated_factor(dataset), np.eye(14), {}, ({"l2": 5.0},))
    table_ui = BASELINES["fed_ease"].fit(dataset, l2=5.0)
    for user, history in enumerate(histories(dataset)):
        np.testing.assert_allclose(weight_ii[history].sum(axis=0), table_ui[user], rtol=1e-6, atol=1e-7)


def test_messages_count_the_bytes_of_the_arrays_that_move():
    dataset = random_dataset(1, 9, 14)
    found = messages(dataset)
    for user, history in enumerate(histories(dataset)):
        block = gram_block(history)
        assert found.up_pairs_u[user] == block.position.nbytes + block.value.nbytes
        assert found.down_rows_u[user] == np.zeros((history.size, 14), np.float32).nbytes
    assert found.up_triangle == np.ones(14 * 15 // 2, np.float32).nbytes
    assert found.down_whole == np.zeros((14, 14), np.float32).nbytes
    total = sum(found.up_pairs_u) + sum(found.down_rows_u)
    assert BASELINES["fed_ease"].megabytes(dataset) == BASELINES["fed_content_ease"].megabytes(dataset) == total / 1e6


def test_clipping_bounds_the_norm_of_a_clients_upload():
    history = np.arange(20)
    assert np.linalg.norm(gram_block(history).value) == pytest.approx(np.sqrt(210))
    clipped = gram_block(history, clip=3.0)
    assert np.linalg.norm(clipped.value) == pytest.approx(3.0, rel=1e-6)
    np.testing.assert_array_equal(gram_block(history, clip=15.0).value, gram_block(history).value)
    np.testing.assert_array_equal(clipped.position, gram_block(history).position)


def test_noise_has_the_stated_deviation_on_a_symmetric_sum():
    num_items = 200
    gram_ii = sum_gram_blocks([gram_block(np.arange(3))], num_items, deviation=2.0, seed=1)
    np.testing.assert_array_equal(gram_ii, gram_ii.T)
    noise_p = (gram_ii - sum_gram_blocks([gram_block(np.arange(3))], num_items))[np.triu_indices(num_items)]
    assert noise_p.std() == pytest.approx(2.0, rel=0.02)
    assert abs(noise_p.mean()) < 4 * 2.0 / np.sqrt(noise_p.size)
    assert np.abs(np.diff(np.sort(noise_p))).min() > 0  # drawn for every pair by itself


def test_a_noisy_sum_is_replaced_by_the_nearest_matrix_without_negative_eigenvalues():
    dataset = random_dataset(1, 9, 14)
    blocks = [gram_block(history, clip=2.0) for history in histories(dataset)]
    noisy_ii = sum_gram_blocks(blocks, 14, deviation=0.5 * 2.0, seed=3)
    value_i, vector_ii = np.linalg.eigh(noisy_ii)
    assert value_i.min() < -0.1
    factor_ri = federated_factor(dataset, noise=0.5, clip=2.0, seed=3)
    nearest_ii = vector_ii @ np.diag(np.maximum(value_i, 0)) @ vector_ii.T
    np.testing.assert_allclose(factor_ri.T @ factor_ri, nearest_ii, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fed_ease", "fed_content_ease"])
def test_noise_is_chosen_with_the_grid_and_hurts_more_the_more_there_is(monkeypatch, ku_folder, name):
    dataset, found = load_real(ku_folder), {}
    plain = BASELINES[name]._replace(grid=BASELINES[name].grid[:: len(BASELINES[name].grid) // 4])
    for noise in (0.0, 0.05, 5.0):
        grid = tuple({**hyper, "noise": noise, "clip": 100.0} for hyper in plain.grid)
        monkeypatch.setitem(BASELINES, name, plain._replace(grid=grid))
        best = select(dataset, one_bucket(dataset), name)
        assert (best.hyper["noise"], best.hyper["clip"]) == (noise, 100.0)
        found[noise] = best.summary["test"]["NDCG@50"]
    assert found[0.0] > found[0.05] > found[5.0]
    assert found[5.0] < 0.1


@pytest.mark.parametrize("options", [{"noise": -1.0, "clip": 1.0}, {"noise": 1.0}, {"clip": 0.0}])
def test_noise_without_a_clip_and_values_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="expected noise >= 0 and, with noise, a clip > 0"):
        federated_factor(random_dataset(1, 9, 14), **options)
