"""Train rows, client by client."""

import dataclasses

import numpy as np
from problems import histories, tiny_dataset

from fedvlr_jax.data.histories import split_by_user


def test_every_user_gets_the_rows_of_their_own_history():
    dataset = tiny_dataset()
    for found, expected in zip(split_by_user(dataset, dataset.train_item), histories(dataset), strict=True):
        np.testing.assert_array_equal(np.sort(found), expected)
    for user, rows in enumerate(split_by_user(dataset, dataset.train_user)):
        assert set(rows.tolist()) == {user}


def test_users_without_train_rows_get_an_empty_part():
    dataset = tiny_dataset(num_users=3)
    kept = dataset.train_user == 1
    alone = dataclasses.replace(dataset, train_user=dataset.train_user[kept], train_item=dataset.train_item[kept])
    sizes = [len(rows) for rows in split_by_user(alone, alone.train_item)]
    assert sizes == [0, int(kept.sum()), 0]
