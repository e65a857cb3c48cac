"""The analysis of a router: its measures on small arrays, rankings with other weights, and the figures' rows."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import run_here
from problems import settings, tiny_dataset

from fedvlr_jax.analysis import report, routing
from fedvlr_jax.analysis.diagnosis import (
    both_rows,
    compare_rankings,
    diagnose,
    gains_by_history,
    movement,
    weightings,
)
from fedvlr_jax.analysis.modalities import draw as draw_modalities
from fedvlr_jax.analysis.modalities import modality_rows
from fedvlr_jax.analysis.preferences import draw, group_rows
from fedvlr_jax.analysis.reweighing import make_rerank, make_weigh
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.metrics import summarise, warm_items
from fedvlr_jax.fields import flatten
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.loop import train_in_memory
from fedvlr_jax.types import FedState, PrivateState, PublicState, Ranks

PNG = b"\x89PNG"


def test_weights_are_summarised_between_equal_and_one_view_each():
    equal = routing.summarise_weights(np.full((5, 4), 0.25))
    assert (equal.entropy, equal.between, equal.dominated) == pytest.approx((1, 0, 0))
    apart = routing.summarise_weights(np.eye(3))
    assert (apart.entropy, apart.between, apart.dominated) == pytest.approx((0, 1, 1))
    assert apart.spread_j == pytest.approx([np.sqrt(2) / 3] * 3)
    alike = routing.summarise_weights(np.array([[1.0, 0], [1, 0]]))
    assert (alike.entropy, alike.between, alike.dominated) == pytest.approx((0, 0, 1))
    assert routing.summarise_weights(np.ones((3, 1))).entropy == 0


def test_everybody_gets_the_weights_of_somebody_else():
    own_uj = np.arange(14.0).reshape(7, 2)
    other_uj = routing.of_another(own_uj)
    assert not (own_uj == other_uj).any()
    np.testing.assert_array_equal(np.sort(other_uj, axis=0), own_uj)


def test_histories_are_halved():
    dataset = tiny_dataset()
    first, second = routing.half_histories(dataset)
    for u in range(dataset.num_users):
        whole, a, b = (d.train_item[d.train_user == u] for d in (dataset, first, second))
        if whole.size == 1:
            assert a == b == whole
        else:
            assert sorted([*a, *b]) == sorted(whole)
            assert abs(a.size - b.size) <= 1
        assert (np.diff(a) > 0).all()
        assert (np.diff(b) > 0).all()


def test_reliability_is_stepped_up_and_missing_where_nothing_differs():
    rng = np.random.default_rng(0)
    truth_u, noise_u = rng.normal(size=(2, 4000))
    more_u = rng.normal(size=4000)
    first, second = (np.stack([truth_u + e, np.ones(4000)], axis=1) for e in (noise_u, more_u))
    found, constant = routing.reliability(first, second)
    assert found == pytest.approx(2 / 3, abs=0.03)  # r = 1/2 between the halves
    assert constant is None


def test_the_oracle_is_unbiased_only_where_validation_chooses():
    rng = np.random.default_rng(0)
    valid_ku, test_ku = rng.random((2, 50, 400))
    gain = routing.oracle_gain(valid_ku, test_ku)
    assert gain.biased > 0.95  # of noise alone
    assert gain.chosen == pytest.approx(0.5, abs=0.05)
    valid = np.array([[1.0, 0, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]])
    test = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.5, 0.6, 0.7], [1, 1, 1, 1]])
    gain = routing.oracle_gain(valid, test)  # two are equally good for the first user: the second is best overall
    assert gain == pytest.approx((1.0, (0.4 + 0.5 + 0.3 + 0.7) / 4, 0.55))


@pytest.fixture(scope="module")
def trained():
    """Two rounds of FCF + FedVLR with a router that has public and private parameters, and its experiment."""
    tree = settings(
        fusion__router="shared_bias",
        fusion__operators="id,mlp",
        rounds=2,
        eval__every=2,
        client__lr=3.0,
        data__name="tiny",
    )
    experiment = make_experiment(tree, tiny_dataset())
    return experiment, train_in_memory(experiment)


@pytest.mark.slow
def test_own_weights_give_the_ranks_of_the_run_and_others_do_not(trained):
    experiment, run = trained
    w_uj = make_weigh(experiment)(run.state, experiment.dataset)
    assert w_uj.std(axis=0).max() > 1e-3
    rerank = make_rerank(experiment, run.state)
    own = rerank(w_uj)
    np.testing.assert_array_equal(own.greater, run.ranks.greater)
    alone = weightings(w_uj, experiment.algorithm.views)["mlp alone"]
    assert (rerank(alone).greater != own.greater).any()


def test_rankings_are_compared_with_the_routers_own():
    item = np.array([[1, 2, -1], [3, 0, 1]], np.int32)
    good = Ranks(item, np.zeros((2, 3), np.int32), np.ones((2, 3), np.int32), np.zeros(3, bool), np.zeros(3, int))
    bad = good._replace(greater=np.full((2, 3), 60, np.int32))
    rows = compare_rankings({"own": good, "uniform": bad}, np.array([False, True, True, True]))
    assert [(row["split"], row["weighting"]) for row in rows] == [
        ("validation", "own"),
        ("validation", "uniform"),
        ("test", "own"),
        ("test", "uniform"),
    ]
    assert [row["NDCG@50"] for row in rows] == [1, 0, 1, 0]
    assert [row["difference"] for row in rows] == [0, -1, 0, -1]
    assert rows[0]["p_value"] is None
    assert rows[3]["warm NDCG@50"] == 0


def test_gains_are_those_of_the_users_of_a_group_who_have_both_rows():
    item = np.array([[1, 2, -1, 4], [3, 0, 1, 2]], np.int32)
    good = Ranks(item, np.zeros((2, 4), np.int32), np.ones((2, 4), np.int32), np.zeros(4, bool), np.zeros(4, int))
    bad = good._replace(greater=np.array([[60, 60, 0, 60], [60, 0, 0, 0]], np.int32))
    both = both_rows({"own": good, "another user's": bad, "mean over users": good})
    np.testing.assert_array_equal(both.user, [0, 1, 3])
    np.testing.assert_array_equal(both.valid_ku, [[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(both.test_ku, [[1, 1, 1], [0, 1, 1], [1, 1, 1]])
    short, longer = gains_by_history(both, np.array([3, 15, 3, 20]))
    assert (short["group"], short["users"], short["another user's"]) == ("0-10", 1, -1)
    assert (longer["group"], longer["users"], longer["another user's"], longer["own"]) == ("11-20", 2, 0, 1)
    assert short["chosen"] == short["best_for_all"] == short["biased"] == 1


def test_rows_of_a_user_count_as_one_user():
    """Three validation rows of user 0, one of user 1; user 2 has a test row alone."""
    item = np.array([[1, 2, 3, 4, -1], [0, -1, -1, 2, 1]], np.int32)
    user, flags = np.array([0, 0, 0, 1, 2], np.int32), np.zeros(3, bool)
    good = Ranks(item, np.zeros((2, 5), np.int32), np.ones((2, 5), np.int32), flags, np.zeros(3, int), user=user)
    greater = np.array([[60, 60, 60, 0, 60], [60, 60, 60, 60, 60]], np.int32)
    bad = good._replace(greater=greater)
    rows = compare_rankings({"own": bad, "uniform": bad}, np.ones(5, bool))
    assert rows[0]["NDCG@50"] == pytest.approx(0.5)  # not 0.25, the mean over rows
    both = both_rows({"own": bad})
    np.testing.assert_array_equal(both.user, [0, 1])
    np.testing.assert_array_equal(both.valid_ku, [[0, 1]])
    np.testing.assert_array_equal(both.test_ku, [[0, 0]])


@pytest.mark.slow
def test_a_run_with_several_rows_of_a_user_is_diagnosed():
    plain = tiny_dataset()
    rows = np.repeat(np.arange(plain.num_users), 2).astype(np.int32)
    new = [np.setdiff1d(np.arange(plain.num_items), plain.train_item[plain.train_user == u])[:4] for u in range(13)]
    several = dataclasses.replace(
        plain,
        held_user=rows,
        valid_item=np.concatenate([items[:2] for items in new]).astype(np.int32),
        test_item=np.concatenate([items[2:] for items in new]).astype(np.int32),
    )
    tree = settings(fusion__operators="id,mlp", rounds=2, eval__every=2, data__name="tiny")
    experiment = make_experiment(tree, several)
    run = train_in_memory(experiment)
    found = diagnose(experiment, run.state)
    summary = summarise(run.ranks, warm_items(several.train_item, several.num_items))
    (own,) = (row for row in found["rankings"] if (row["split"], row["weighting"]) == ("test", "own"))
    assert own["NDCG@50"] == pytest.approx(summary["test"]["NDCG@50"])
    assert own["warm NDCG@50"] == pytest.approx(summary["test_warm"]["NDCG@50"])


def test_movement_names_every_block():
    def state(value):
        private = PrivateState(
            params={"theta": {"w": jnp.full((2, 3), value)}, "none": jnp.zeros((2, 0))}, opt_state=()
        )
        return FedState(
            public=PublicState(params={"D": jnp.full(4, 2 * value)}, opt_state=(), round=jnp.zeros(())),
            private=private,
            key=jax.random.key(0),
        )

    rows = {row["block"]: (row["start"], row["end"], row["moved"]) for row in movement(state(1.0), state(-0.5))}
    assert rows == {"private['none']": (0, 0, 0), "private['theta']['w']": (1, 0.5, 1.5), "public['D']": (2, 1, 3)}


@pytest.mark.slow
def test_figure_2_has_all_users_then_those_of_every_group(trained):
    experiment, run = trained
    preference_um = np.tile([0.5, 0.3, 0.2], (13, 1))
    rows = group_rows(experiment.dataset, run.ranks, preference_um)
    assert [(row.group, row.quantity, row.users) for row in rows[:3]] == [
        ("all", "D", 13),
        ("0-10", "D", 11),
        ("11-20", "D", 2),
    ]
    assert rows[0][3:] == pytest.approx((0.5, 0.5, 0.5, 0))
    assert {row.quantity for row in rows} == {"D", "V", "C", "HR@50", "NDCG@50"}
    assert draw(rows, "tiny").startswith(PNG)


def write_run(folder, hit_rate, of_sweep=False, **changes):
    """The files of a finished run that figure 3 reads."""
    folder.mkdir(parents=True)
    tree = settings(**changes)
    metrics = {"HR@50": hit_rate, "NDCG@50": hit_rate / 2}
    groups = dict.fromkeys(("valid", "test", "test_warm", "test_cold"), metrics)
    numbers = dict.fromkeys(
        ("rounds", "best_round", "num_dropped", "nonfinite_users", "seconds_train", "seconds_eval")
        + ("seconds_compile", "client_updates_per_second", "tie_rate", "constant_score_rate"),
        1,
    )
    names = {"dataset": "tiny", "host": tree["host"]["name"], "variant": tree["variant"]}
    kept = {name: value for name, value in flatten(tree) if name not in ("data.dir", "writers", "baselines")}
    stored = {"settings": kept, "data": {}} if of_sweep else tree
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "result.json").write_text(json.dumps(names | numbers | groups))


def test_figure_3_joins_seeds_and_orders_modalities(tmp_path):
    write_run(tmp_path / "a", 0.2, fusion__modalities="D,C")
    write_run(tmp_path / "b" / "c", 0.4)
    write_run(tmp_path / "b" / "d", 0.6, seed=1, of_sweep=True)
    write_run(tmp_path / "base", 0.9, variant="base")
    rows = modality_rows([tmp_path])
    assert [row[2:] for row in rows if row.metric == "HR@50"] == [
        ("all", "HR@50", 2, pytest.approx(0.5), pytest.approx(np.sqrt(0.02))),
        ("without V", "HR@50", 1, pytest.approx(0.2), None),
    ]
    assert draw_modalities(rows).startswith(PNG)


@pytest.mark.parametrize("first", [False, True])
def test_figure_3_joins_a_run_and_a_run_of_a_sweep(tmp_path, first):
    write_run(tmp_path / "a", 0.4, of_sweep=first)
    write_run(tmp_path / "b", 0.6, of_sweep=not first, seed=1)
    assert [row.runs for row in modality_rows([tmp_path])] == [2, 2]


def test_figure_3_joins_no_two_data_sets_of_one_name(tmp_path):
    held_out = {"user": np.arange(3), "split": np.full(3, 2), "item": np.array([4, 5, 6])}
    write_run(tmp_path / "a", 0.4)
    write_run(tmp_path / "b", 0.6, seed=1)
    np.savez(tmp_path / "a" / "ranks.npz", **held_out)
    np.savez(tmp_path / "b" / "ranks.npz", **held_out)
    assert [row.runs for row in modality_rows([tmp_path])] == [2, 2]
    np.savez(tmp_path / "b" / "ranks.npz", **held_out | {"item": np.array([4, 5, 7])})
    with pytest.raises(ConfigError, match=r"a and .*b: expected runs on the same held-out rows, found others"):
        modality_rows([tmp_path])


def test_figure_3_counts_no_run_twice(tmp_path):
    write_run(tmp_path / "in" / "a", 0.4)
    write_run(tmp_path / "in" / "b", 0.6, seed=1)
    once = modality_rows([tmp_path])
    assert [row.runs for row in once] == [2, 2]
    assert modality_rows([tmp_path, tmp_path / "in", tmp_path / "in" / "a"]) == once
    shutil.copytree(tmp_path / "in" / "b", tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"copy and .*b: expected one run of fcf with modalities D,V,C and seed 1"):
        modality_rows([tmp_path])


def test_figure_3_refuses_what_cannot_be_averaged(tmp_path):
    with pytest.raises(ConfigError, match="found none in"):
        modality_rows([tmp_path])
    write_run(tmp_path / "a", 0.2)
    write_run(tmp_path / "b", 0.3, client__lr=0.7)
    with pytest.raises(ConfigError, match=r"b and .*a: .* found other settings in client\.lr;"):
        modality_rows([tmp_path])
    shutil.rmtree(tmp_path / "b")
    write_run(tmp_path / "b", 0.3, client__lr=0.7, fusion__modalities="D,C")
    with pytest.raises(ConfigError, match=r"b and .*a: .* found other settings in client\.lr;"):
        modality_rows([tmp_path])
    (tmp_path / "b" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"b/config\.json: expected the settings of a run, found none"):
        modality_rows([tmp_path])


@pytest.mark.slow
def test_a_run_is_analysed_into_files(trained, tmp_path, monkeypatch):
    experiment, run = trained
    monkeypatch.setattr(report, "rank_best", lambda experiment, workdir: run)
    text = report.analyse_run(experiment, tmp_path, tmp_path)
    assert "another user's" in text
    found = json.loads((tmp_path / "analysis.json").read_text())
    assert found["view_names"] == ["id", "mlp"]
    assert sum(found["weights"]["mean_j"]) == pytest.approx(1, abs=1e-5)
    assert sum(row["share"] for row in found["views"]) == pytest.approx(1, abs=1e-5)
    assert found["oracle"]["biased"] >= found["oracle"]["chosen"]
    names = {"analysis.json", "rankings.csv", "history.csv", "figure2.csv", "figure2.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert (tmp_path / "rankings.csv").read_text().count("\n") == 1 + 2 * 7
    own = next(row for row in found["rankings"] if (row["split"], row["weighting"]) == ("test", "own"))
    groups = found["history"]
    assert [(row["group"], row["users"]) for row in groups] == [("0-10", 11), ("11-20", 2)]
    assert sum(row["users"] * row["own"] for row in groups) / 13 == pytest.approx(own["NDCG@50"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--workdir and --runs are missing"),
        (["--runs=x"], "--out is missing"),
        (["--workdir=nowhere"], "no config.json there"),
    ],
)
def test_the_command_says_what_is_missing(monkeypatch, capsys, flags, message):
    assert run_here(monkeypatch, "analyze", *flags) == 2
    assert message in capsys.readouterr().err
