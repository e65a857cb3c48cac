"""The public API: the numbers of the commands to the bit, ids that come back, and one line for each slip."""

from __future__ import annotations

import ast
import csv
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import without_clocks
from problems import HOST_NAMES, MODELS, client_data, settings, spread, tiny_dataset
from test_data_arrays import numbered_rows

import fedvlr_jax
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import CheckpointError, ConfigError, DataError
from fedvlr_jax.inference.preferences import learned_preferences
from fedvlr_jax.training.job import evaluate_job

DATASET = tiny_dataset()
SMALL = {
    "variant": "base",
    "objective": "bce",
    "rounds": 12,
    "eval": {"every": 3, "patience": 0},
    "fusion.dim": 4,
    "client.steps": 2,
    "server.lr": 0.05,
}
ROUTED = SMALL | {"variant": "fedvlr", "fusion.operators": "sum,mlp"}
USERS = [f"u{n:02}" for n in range(DATASET.num_users)]
ITEMS = [f"i{n:02}" for n in range(DATASET.num_items)]


def named(**features):
    """The rows of `DATASET` with strings as ids."""
    users, items, splits = numbered_rows(DATASET)
    names = [USERS[n] for n in users], [ITEMS[n] for n in items]
    return fedvlr_jax.from_arrays(*names, splits=splits, item_ids=ITEMS, name="tiny", **features)


def bits(fitted):
    """Everything of a fitted model that has to be equal to the bit."""
    leaves = jax.tree.leaves((fitted.state.public, fitted.state.private, fitted.trained.ranks))
    return without_clocks(fitted.metrics), [np.asarray(x).tobytes() for x in leaves]


@pytest.fixture(scope="module")
def fitted():
    return fedvlr_jax.fit(DATASET, ROUTED)


@pytest.fixture(scope="module")
def own():
    """The same with strings as ids."""
    return fedvlr_jax.fit(named(visual=DATASET.V, textual=DATASET.C), ROUTED)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fedvlr_jax.train(DATASET, ROUTED, folder)
    return folder


# ---- fit, train, evaluate


def test_fit_gives_the_bits_of_train(fitted, workdir):
    restored = fedvlr_jax.restore(workdir, DATASET)
    assert 0 < fitted.metrics["best_round"] <= fitted.metrics["rounds"] == 12
    assert bits(restored) == bits(fitted)
    assert without_clocks(json.loads((workdir / "result.json").read_text())) == without_clocks(fitted.metrics)


def test_evaluate_computes_the_metrics_again(fitted, workdir):
    assert without_clocks(fedvlr_jax.evaluate(workdir, DATASET)) == without_clocks(fitted.metrics)


def test_a_finished_run_is_only_restored(fitted, workdir):
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    again = fedvlr_jax.train(
        DATASET, ROUTED, workdir, on_progress=lambda event: pytest.fail("nothing is left to train")
    )
    assert bits(again) == bits(fitted)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_resume_false_starts_again(tmp_path):
    fedvlr_jax.train(DATASET, SMALL, tmp_path)
    with pytest.raises(CheckpointError, match="seed: checkpoint 0, now 3"):
        fedvlr_jax.train(DATASET, SMALL | {"seed": 3}, tmp_path)
    assert fedvlr_jax.train(DATASET, SMALL | {"seed": 3}, tmp_path, resume=False).metrics["seed"] == 3


@pytest.mark.slow
def test_a_workdir_of_the_synthetic_set_needs_no_data_set(tmp_path):
    changes = {f"data.synthetic.{name}": value for name, value in SYNTHETIC.items()}
    dataset = fedvlr_jax.load_dataset(synthetic=SYNTHETIC)
    trained = fedvlr_jax.train(dataset, SMALL | changes, tmp_path)
    assert without_clocks(fedvlr_jax.evaluate(tmp_path)) == without_clocks(trained.metrics)
    assert "planted_rank_correlation" in trained.metrics


SYNTHETIC = {"num_users": 12, "num_items": 30, "num_interactions": 90, "dim_visual": 4, "dim_text": 4}


def test_ids_change_nothing(fitted, own):
    assert own.metrics["rounds"] == 12
    for name in ("valid", "test"):
        assert own.metrics[name] == pytest.approx(fitted.metrics[name], abs=1e-6)


@pytest.mark.slow
def test_baselines_on_demand():
    fitted = fedvlr_jax.fit(DATASET, SMALL | {"rounds": 1}, baselines=True)
    assert "popularity" in {row["name"] for row in fitted.baselines}
    assert fedvlr_jax.fit(DATASET, SMALL | {"rounds": 1}).baselines == []


def test_it_shows_itself_in_a_line(fitted):
    assert repr(fitted).startswith("<Fitted fcf + fedvlr on tiny, round ")
    assert "\n" not in repr(fitted)


# ---- progress


def test_the_callback_sees_every_evaluation(tmp_path):
    events = []
    trained = fedvlr_jax.train(DATASET, SMALL, tmp_path, on_progress=events.append)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event.round for event in events] == [3, 6, 9, 12] == [line["round"] for line in lines]
    assert [event.loss for event in events] == [line["loss"] for line in lines]
    assert [event.valid for event in events] == [line["valid"] for line in lines]
    assert {event.rounds for event in events} == {12}
    assert events[-1].seconds_left == 0
    assert min(event.seconds_left for event in events[:-1]) > 0
    best = max(events, key=lambda event: event.valid["NDCG@50"])
    assert (best.round, best.valid) == (trained.metrics["best_round"], trained.metrics["valid"])


ANSWERS = [(False, 3), (np.False_, 3), (None, 12), (0, 12), (True, 12)]


@pytest.mark.parametrize(("answer", "rounds"), spread(ANSWERS, [(False, 3), (None, 12)]))
def test_only_false_stops(answer, rounds):
    assert fedvlr_jax.fit(DATASET, SMALL, on_progress=lambda event: answer).metrics["rounds"] == rounds


def test_a_stopped_run_has_a_result_and_goes_on_to_the_bit(fitted, tmp_path):
    stopped = fedvlr_jax.train(DATASET, ROUTED, tmp_path, on_progress=lambda event: event.round < 6)
    assert stopped.metrics["rounds"] == 6
    assert json.loads((tmp_path / "result.json").read_text())["rounds"] == 6
    assert bits(fedvlr_jax.train(DATASET, ROUTED, tmp_path)) == bits(fitted)


@pytest.mark.slow
def test_an_error_in_the_callback_loses_nothing(fitted, tmp_path):
    def fail(event):
        if event.round == 9:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fedvlr_jax.train(DATASET, ROUTED | {"checkpoint.seconds": 0.0}, tmp_path, on_progress=fail)
    assert bits(fedvlr_jax.train(DATASET, ROUTED, tmp_path)) == bits(fitted)


# ---- recommend, preferences


def test_recommendations_in_own_ids_are_those_of_the_command(fitted, own, workdir):
    evaluate_job(fitted.experiment, workdir, num_best=5)
    with open(workdir / "recommendations.csv", newline="") as stream:
        expected = [
            (int(r["user"]), int(r["rank"]), int(r["item"]), float(r["score"])) for r in csv.DictReader(stream)
        ]
    (workdir / "recommendations.csv").unlink()
    rows = fedvlr_jax.recommend(fitted, k=5)
    assert rows.dtype.names == ("user", "rank", "item", "score")
    assert rows.tolist() == expected
    found = fedvlr_jax.recommend(own, k=5)
    assert found["user"].tolist() == [USERS[user] for user, *_ in expected]
    assert found["rank"].tolist() == [rank for _, rank, *_ in expected]
    np.testing.assert_allclose(found["score"], [score for *_, score in expected], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def scores(fitted):
    """The algorithm's own scores, [u, i]."""
    clients, algorithm = fitted.experiment.clients, fitted.experiment.algorithm
    score_ui = np.full((DATASET.num_users, DATASET.num_items), np.nan)
    score = jax.jit(lambda state, bucket: algorithm.score(algorithm.snapshot(state, clients.content), bucket))
    for bucket in clients.buckets:
        score_ui[bucket.user] = score(fitted.state, bucket)
    return score_ui


def expected_items(score_i, excluded, k):
    """The best items by their scores, without those excluded."""
    score_i = score_i.copy()
    score_i[list(excluded)] = -np.inf
    return np.argsort(-score_i, kind="stable")[: min(k, np.isfinite(score_i).sum())].tolist()


@pytest.mark.parametrize(("exclude", "k"), [("train", 4), ("seen", 4), ("seen", 1000)])
def test_what_is_excluded_is_not_recommended_and_nothing_else_is_missing(fitted, scores, exclude, k):
    rows = fedvlr_jax.recommend(fitted, k=k, exclude=exclude)
    for user in range(DATASET.num_users):
        excluded = set(DATASET.train_item[DATASET.train_user == user].tolist())
        if exclude == "seen":
            excluded |= {int(DATASET.valid_item[user]), int(DATASET.test_item[user])}
        found = rows[rows["user"] == user]
        assert found["item"].tolist() == expected_items(scores[user], excluded, k)
        assert found["rank"].tolist() == list(range(1, len(found) + 1))
        assert (np.diff(found["score"]) <= 0).all()


def test_some_users_get_what_they_get_among_all(own):
    rows = fedvlr_jax.recommend(own, k=3)
    some = fedvlr_jax.recommend(own, k=3, users=["u07", "u02"])
    assert some["user"].tolist() == ["u02"] * 3 + ["u07"] * 3
    same = rows[np.isin(rows["user"], ["u02", "u07"])]
    assert some["item"].tolist() == same["item"].tolist()
    np.testing.assert_allclose(some["score"], same["score"], rtol=1e-5)
    assert fedvlr_jax.recommend(own, users=[]).size == 0


def test_a_finished_run_judges_its_lists_when_it_is_asked_to(workdir, tmp_path):
    before = json.loads((workdir / "result.json").read_text())
    shutil.copytree(workdir, tmp_path / "run")
    done = fedvlr_jax.train(DATASET, ROUTED | {"eval.lists": True}, tmp_path / "run")
    after = json.loads((tmp_path / "run" / "result.json").read_text())
    assert after.keys() - before.keys() == {"lists"}
    assert after["lists"] == done.metrics["lists"]
    assert all(after[name] == before[name] for name in before if not name.startswith("seconds_"))


def test_the_command_writes_items_of_some_users_by_their_ids(fitted, workdir):
    evaluate_job(fitted.experiment, workdir, num_best=3, users=["7", "2"], format="jsonl")
    lines = (workdir / "recommendations.jsonl").read_text().splitlines()
    (workdir / "recommendations.jsonl").unlink()
    expected = fedvlr_jax.recommend(fitted, k=3, users=[2, 7])
    assert [tuple(json.loads(line).values()) for line in lines] == expected.tolist()


def moved(state):
    """A state whose numbers were moved at random, as rounds move them."""
    rng = np.random.default_rng(0)

    def move(x):
        return x + 0.1 * rng.normal(size=x.shape).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    params, private = jax.tree.map(move, (state.public.params, state.private))
    return state.replace(public=state.public.replace(params=params), private=private)


def preferences_of(host, variant):
    """The preferences of a model whose numbers were moved at random; of a fitted one where clients need a prior."""
    if host in ("fedprior", "fedblend"):
        fitted = fedvlr_jax.fit(DATASET, SMALL | {"host.name": host, "variant": variant, "rounds": 3})
        return fedvlr_jax.preferences(fitted)
    algorithm = make_algorithm(settings(host__name=host, variant=variant, fusion__dim=4), DATASET)
    clients, state = client_data(DATASET), moved(jax.jit(algorithm.init)(jax.random.key(0)))
    return learned_preferences(algorithm, [(state, clients.buckets[0])], clients, DATASET.num_users)


@pytest.mark.parametrize(("host", "variant"), spread(MODELS, [("fcf", "base"), ("fedrap", "mlp")]))
def test_preferences_are_shares_for_every_host_and_variant(host, variant):
    share_um = preferences_of(host, variant)
    assert share_um.shape == (DATASET.num_users, 3)
    assert (share_um >= 0).all()
    total_u = share_um.sum(axis=1)
    assert ((np.abs(total_u - 1) < 1e-5) | (total_u == 0)).all()
    by_ids = variant in ("base", "gfmfr")  # the teacher of gfmfr ranks nothing
    assert total_u.max() > 0 or (host == "fedncf" and by_ids)  # its item tables are the host's, not D
    if by_ids and host != "fedblend":  # whose views read features in every variant
        assert share_um[:, 1:].max() == 0


@pytest.mark.slow
def test_preferences_of_single_modalities_are_router_weights():
    fitted = fedvlr_jax.fit(DATASET, ROUTED | {"fusion.operators": "text,id,visual"})
    np.testing.assert_allclose(fedvlr_jax.preferences(fitted).sum(axis=1), 1, atol=1e-5)


# ---- data without features


@pytest.mark.parametrize("host", spread(HOST_NAMES, ["fcf"]))
def test_every_host_trains_on_item_ids_alone(host):
    fitted = fedvlr_jax.fit(named(), SMALL | {"host.name": host})
    assert np.isfinite(fitted.metrics["test"]["NDCG@50"])
    assert fedvlr_jax.recommend(fitted, k=1).size == DATASET.num_users
    assert fedvlr_jax.preferences(fitted)[:, 1:].max() == 0


@pytest.mark.parametrize("variant", ["mlp", "vbpr", "fedvlr"])
def test_a_variant_that_fuses_features_says_what_is_missing_and_what_works(variant):
    message = f"variant {variant}: expected visual or textual features of the items, found none in tiny.*variant base"
    with pytest.raises(ConfigError, match=message):
        fedvlr_jax.fit(named(), SMALL | {"variant": variant})


@pytest.mark.slow
def test_one_modality_is_enough():
    assert fedvlr_jax.fit(named(textual=DATASET.C), ROUTED | {"rounds": 1}).metrics["rounds"] == 1


# ---- slips


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rouds": 3}, "unknown field rouds; did you mean rounds?"),
        ({"rounds": 0}, "rounds: expected at least 1, found 0"),
        ({"client.lr": -1.0}, "client.lr: expected a finite number"),
        ({"host.name": "fedrapp"}, "did you mean 'fedrap'?"),
        ({"server.clients_per_round": 14}, "server.clients_per_round: expected 0 (all) to 13"),
        ({"compute.store": "disk"}, "compute.store: expected device where there is no workdir, found 'disk'"),
        ({"data.features": "shuffled"}, "data.features: expected real, since a data set at hand is used as it is"),
        ({"dry_run": True}, "dry_run: expected False outside of the command line"),
    ],
)
def test_a_wrong_setting_is_one_line(changes, message):
    with pytest.raises(ConfigError) as error:
        fedvlr_jax.fit(DATASET, SMALL | changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"k": 0}, ConfigError, "k: expected a whole number of at least 1, found 0"),
        ({"k": 2.5}, ConfigError, "k: expected a whole number of at least 1, found 2.5"),
        ({"exclude": "test"}, ConfigError, "exclude: expected one of train, seen, found 'test'"),
        ({"users": [3, 99]}, DataError, "tiny, users: expected users of the data set, found 99 (1 such)"),
        ({"users": ["ann"]}, DataError, "tiny, users: expected users of the data set, found 'ann' (1 such)"),
        ({"users": "ann"}, DataError, "tiny, field users: expected a list or an array, found 'ann'"),
    ],
)
def test_a_wrong_request_is_one_line(fitted, arguments, kind, message):
    with pytest.raises(kind) as error:
        fedvlr_jax.recommend(fitted, **arguments)

    assert message in str(error.value)


def test_a_user_who_does_not_exist_has_neighbours(own):
    with pytest.raises(DataError, match=r"found 'u99' \(1 such\); the nearest are 'u0"):
        fedvlr_jax.recommend(own, users=["u07", "u99"])


def test_a_workdir_without_its_data_set_says_so(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDVLR_DATA", raising=False)
    with pytest.raises(DataError, match=r"no such folder(.|\n)*or give the data set itself, as dataset="):
        fedvlr_jax.evaluate(workdir)
    with pytest.raises(CheckpointError, match="data train_item: checkpoint"):
        fedvlr_jax.evaluate(workdir, tiny_dataset(seed=1))
    with pytest.raises(CheckpointError, match=r"no config\.json there"):
        fedvlr_jax.restore(tmp_path)


def test_load_dataset_refuses_unknown_names():
    with pytest.raises(ConfigError, match=r"data\.features: expected one of real, shuffled, random, found 'fake'"):
        fedvlr_jax.load_dataset(features="fake")
    with pytest.raises(ConfigError, match="unknown field"):
        fedvlr_jax.load_dataset(synthetic={"num_user": 3})


def test_controls_have_other_features():
    real, shuffled = (fedvlr_jax.load_dataset(synthetic=SYNTHETIC, features=name) for name in ("real", "shuffled"))
    assert sorted(real.V[:, 0]) == sorted(shuffled.V[:, 0])
    assert not np.array_equal(real.V, shuffled.V)


# ---- the package


@pytest.mark.slow
def test_importing_the_package_loads_no_jax():
    code = "import sys, fedvlr_jax; assert not {'jax', 'numpy'} & set(sys.modules); fedvlr_jax.fit; import jax"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(fedvlr_jax.__file__).parents[1])


def test_every_public_name_is_there_and_known_to_type_checkers():
    tree = ast.parse(pathlib.Path(fedvlr_jax.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for line in block.body for alias in line.names}
    assert seen | {"__version__"} == set(fedvlr_jax.__all__)
    for name in fedvlr_jax.__all__:
        assert getattr(fedvlr_jax, name) is not None
    for line in block.body:
        for alias in line.names:
            module = __import__(line.module, fromlist=[alias.name])
            assert getattr(fedvlr_jax, alias.name) is getattr(module, alias.name)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        fedvlr_jax.fitt  # noqa: B018
