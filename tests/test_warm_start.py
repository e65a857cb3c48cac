"""A run that starts from another one has its parameters to the bit, or is refused; and exported ones are these."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings

import jax
import numpy as np
import pytest
from commands import ROOT, TINY, arguments, run_here

import fedvlr_jax
from fedvlr_jax.analysis.diagnosis import first_state
from fedvlr_jax.data import fingerprint, load_configured
from fedvlr_jax.data.user_split import leave_users_out
from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.training import sources
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.loop import restore_best
from fedvlr_jax.training.sources import require_same_ids
from fedvlr_jax.training.warm_start import refuse_warm_start, warm_start

READER = re.search(r"<!-- reader -->\n```python\n(.*?)```", (ROOT / "docs/guides/results.md").read_text(), re.DOTALL)[
    1
]


def experiment_of(**changes):
    """The tiny experiment on the synthetic set."""
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    settings = override(default_settings(), TINY | fields)
    return make_experiment(settings, load_configured(settings["data"], settings["seed"]))


def fresh(experiment):
    return experiment.algorithm.init(jax.random.key(7))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run."""
    workdir, patch = tmp_path_factory.mktemp("source"), pytest.MonkeyPatch()
    assert run_here(patch, "train", *arguments(workdir, rounds=20, writers="")) == 0
    patch.undo()
    return workdir


@pytest.fixture(scope="module")
def best(source):
    """The state of its best round."""
    return restore_best(experiment_of(rounds=20), source)[1]


def same(a, b):
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    )


@pytest.mark.parametrize(("parts", "from_there"), [("public", (1, 0)), ("private", (0, 1)), ("both", (1, 1))])
def test_the_parts_that_were_asked_for_come_from_there_and_nothing_else(source, best, parts, from_there):
    experiment = experiment_of(init_from=str(source), init_parts=parts)
    start = fresh(experiment)
    state, _ = warm_start(start, experiment.settings, experiment.dataset)
    for part, there in zip(("public", "private"), from_there, strict=True):
        found, expected = getattr(state, part), getattr(best if there else start, part)
        assert same(found.params, expected.params)
        assert same(found.opt_state, getattr(start, part).opt_state)
        assert not same(best.public.params, start.public.params)
    assert int(state.public.round) == 0
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, start)


def test_how_far_training_moved_is_measured_from_where_it_started(source, best):
    there = first_state(experiment_of(init_from=str(source)))
    assert same(there.public.params, best.public.params)
    assert same(there.private.params, best.private.params)
    assert first_state(experiment_of(init_from=str(source / "gone"))) is None


def test_without_it_nothing_changes(source):
    experiment = experiment_of()
    start = fresh(experiment)
    assert warm_start(start, experiment.settings, experiment.dataset)[0] is start


def test_rows_of_padding_stay_zero(source, best):
    """As where the clients are split over several devices."""
    experiment = experiment_of(init_from=str(source))
    start = fresh(experiment)
    own = jax.device_get(start.private.params)
    padded = jax.tree.map(lambda x: np.pad(x, [(0, 3), *[(0, 0)] * (x.ndim - 1)]), own)
    start = start.replace(private=start.private.replace(params=jax.device_put(padded)))
    found = warm_start(start, experiment.settings, experiment.dataset)[0].private.params
    assert same(jax.tree.map(lambda x: x[:12], found), best.private.params)
    assert not any(np.asarray(x[12:]).any() for x in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion__dim": 8}, r"found\n  public/params/variant/D: there float32\[30, 4\], here float32\[30, 8\]\n"),
        ({"host__name": "fedncf"}, r"private/params/\S+: there float32\[12, 4\], here \(absent\)"),
        ({"data__synthetic__num_items": 33}, r"items: .* found 30 there and 33 here; only there 0, only here 3 \("),
        ({"data__synthetic__num_users": 14}, r"users: .* found 12 there and 14 here"),
        ({"compute__store": "memory"}, r"init_parts: expected public with compute.store memory, found both"),
        ({"init_parts": "all"}, r"init_parts: expected one of public, private, both, found 'all'"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(source, changes, message):
    start = fresh(experiment_of(**{k: v for k, v in changes.items() if k not in ("init_parts", "compute__store")}))
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    settings = override(default_settings(), TINY | {"init_from": str(source)} | fields)
    with pytest.raises(ConfigError, match=message):
        warm_start(start, settings, load_configured(settings["data"], settings["seed"]))


@pytest.mark.slow
def test_public_parameters_go_to_other_users(source, best):
    changes = {"data__synthetic__num_users": 14, "init_from": str(source), "init_parts": "public"}
    experiment = experiment_of(**changes)
    with pytest.warns(RunWarning, match="12 users of synthetic there and 14 of synthetic here have no ids"):
        state, progress = warm_start(fresh(experiment), experiment.settings, experiment.dataset)
    assert same(state.public.params, best.public.params)
    assert progress.origin["compared"][str(source)].startswith("not compared: 12 users")


def split_anew(dataset):
    """The same interactions; every user's test item and first train item change places."""
    first = np.unique(dataset.train_user, return_index=True)[1]
    train, test = dataset.train_item.copy(), dataset.test_item.copy()
    has = test >= 0
    train[first[has]], test[has] = dataset.test_item[has], dataset.train_item[first[has]]
    order = np.lexsort((train, dataset.train_user))
    return dataclasses.replace(dataset, train_item=train[order], test_item=test)


def named(dataset, first):
    """With ids of the users: "u0", "u1", ..., from some number on."""
    return dataclasses.replace(
        dataset, user_ids=np.array([f"u{number}" for number in range(first, first + dataset.num_users)])
    )


@pytest.mark.parametrize("parts", ["public", "both"])
def test_a_run_that_was_trained_on_what_is_held_out_here_is_refused(source, parts):
    experiment = experiment_of(init_from=str(source), init_parts=parts)
    start, other = fresh(experiment), split_anew(experiment.dataset)
    with pytest.raises(ConfigError, match=r"found 0 of 12 validation rows and 12 of 12 test rows .* as user 0 w"):
        warm_start(start, experiment.settings, other)
    mixed = dataclasses.replace(other, valid_item=other.test_item, test_item=other.valid_item)
    with pytest.raises(ConfigError, match=r"found 12 of 12 validation rows and 0 of 12 test rows"):
        warm_start(start, experiment.settings, mixed)


def test_users_are_compared_by_their_ids(monkeypatch, source):
    """Numbers say nothing where both data sets have ids."""
    experiment = experiment_of(init_from=str(source), init_parts="public")
    start, here = fresh(experiment), split_anew(experiment.dataset)
    monkeypatch.setattr(sources, "load_configured", lambda *_, **__: named(experiment.dataset, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        _, progress = warm_start(start, experiment.settings, named(here, 12))  # other people
    assert progress.origin["compared"][str(source)].startswith("0 of 12 users are there too")
    with pytest.raises(ConfigError, match=r"12 of 12 test rows .* such as user u0 with item"):
        warm_start(start, experiment.settings, named(here, 0))
    monkeypatch.setattr(sources, "load_configured", lambda *_, **__: experiment.dataset)
    with pytest.warns(RunWarning, match="have no ids that both data sets know them by, so nobody can tell"):
        warm_start(start, experiment.settings, named(here, 0))


def test_users_who_are_left_out_are_compared_too(source):
    """The histories of new users were trained there with everybody's, and their test rows were not."""
    experiment = experiment_of(init_from=str(source), init_parts="public")
    start, here = fresh(experiment), leave_users_out(experiment.dataset, 0.5)
    with pytest.warns(RunWarning, match="6 of 6 users who are left out of training here were trained there"):
        warm_start(start, experiment.settings, here)
    here = leave_users_out(split_anew(experiment.dataset), 0.5)
    with pytest.raises(ConfigError, match="3 of 3 validation rows and 3 of 3 test rows"):
        warm_start(start, experiment.settings, here)


def test_runs_further_back_are_compared_too(monkeypatch, tmp_path, source):
    """The first run trained on everything but its own held-out rows, the second one on what is trained here."""
    experiment = experiment_of(init_from=str(source), init_parts="public")
    here = split_anew(experiment.dataset)
    second = sources.source_at(source)
    second = second._replace(workdir=tmp_path, settings=second.settings | {"init_from": str(source)})
    second = second._replace(record=second.record | {"data": fingerprint(here)})
    with pytest.raises(ConfigError, match=rf"init_from={tmp_path}, which started from {source}: expected a run that"):
        sources.compare_sources(second, here, ("public",))
    gone = second._replace(settings=second.settings | {"init_from": str(tmp_path / "gone")})
    with pytest.warns(RunWarning, match="gone: it cannot be read"):
        assert len(sources.compare_sources(gone, here, ("public",))) == 2


def test_catalogues_are_compared_by_their_own_ids():
    ids = np.array(["a", "b", "c"])
    require_same_ids(ids, ids.copy(), (3, 3), "items")
    require_same_ids(None, None, (3, 3), "items")
    require_same_ids(None, np.array([0, 1, 2]), (3, 3), "items")  # the numbers are the ids
    with pytest.raises(ConfigError, match=r"items: .* the same ids in another order"):
        require_same_ids(ids, ids[[1, 0, 2]], (3, 3), "items")
    with pytest.raises(ConfigError, match=r"3 there and 4 here; only there 1 \(b\), only here 2 \(x, y\)"):
        require_same_ids(ids, np.array(["a", "c", "x", "y"]), (3, 4), "items")
    with pytest.raises(ConfigError, match=r"only there 5 \(1, 2, 3, ...\), only here 0"):
        require_same_ids(np.arange(6), np.array([0]), (6, 1), "items")


def test_numbers_of_another_data_set_are_no_ids(source):
    experiment = experiment_of(init_from=str(source))
    other = dataclasses.replace(
        experiment.dataset, name="mine", train_item=experiment.dataset.train_item[::-1].copy()
    )
    with pytest.raises(ConfigError, match="items: expected original ids, or the data set synthetic, found mine"):
        warm_start(fresh(experiment), experiment.settings, other)


def test_data_that_changed_since_is_refused(source):
    """Whose parameters they are is known from the data set alone."""
    experiment = experiment_of(init_from=str(source))
    stored = json.loads((source / "config.json").read_text())
    stored["data"]["synthetic"]["seed"] = 5
    kept = (source / "config.json").read_text()
    (source / "config.json").write_text(json.dumps(stored))
    other = dataclasses.replace(experiment.dataset, train_item=experiment.dataset.train_item[::-1].copy())
    try:
        with pytest.raises(ConfigError, match="data set synthetic with the content that it was trained on"):
            warm_start(fresh(experiment), experiment.settings, other)
    finally:
        (source / "config.json").write_text(kept)


def test_weights_of_score_views_stay_in_their_coordinates(tmp_path):
    """Another seed draws other items to learn from, and with them other coordinates."""
    changes = {"host__name": "fedblend", "rounds": 2, "eval__every": 2, "writers": "", "server__lr": 0.1}
    blend = experiment_of(**changes)
    there = fedvlr_jax.train(blend.dataset, blend.settings, tmp_path)
    again = override(there.settings, {"init_from": str(tmp_path), "server.lr": 0.3})
    state, _ = warm_start(fresh(blend), again, blend.dataset)
    assert same(state.public.params, there.state.public.params)
    with pytest.raises(
        ConfigError, match=r"fedblend learns .* found seed 0 there and 1 here; host\.order True there"
    ):
        warm_start(fresh(blend), override(again, {"seed": 1, "host.order": False}), blend.dataset)
    fewer = {name: getattr(blend.dataset, name)[1:] for name in ("train_user", "train_item")}
    with pytest.raises(ConfigError, match="found another data set or split"):
        warm_start(fresh(blend), again, dataclasses.replace(blend.dataset, **fewer))


def test_a_run_says_where_it_started_and_goes_on_from_there_alone(monkeypatch, capsys, tmp_path, source):
    flags = arguments(tmp_path / "run", rounds=10, writers="", init_from=source)
    assert run_here(monkeypatch, "train", *flags) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    compared = {str(source): "the same data set and split"}
    assert result["init_from"] == {"workdir": str(source), "parts": "both", "compared": compared}
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    cold = json.loads((source / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] < cold["loss"]
    capsys.readouterr()
    assert run_here(monkeypatch, "train", *arguments(tmp_path / "run", rounds=20, writers="")) == 2
    assert "init_from: checkpoint" in capsys.readouterr().err


NOISED = {"aggregation.transforms": "clip,noise", "privacy.target_epsilon": 4.0, "privacy.delta": 1e-3}


def test_a_start_from_another_run_is_not_covered_by_a_guarantee(tmp_path, source):
    """No part of a budget is for the parameters that a run starts from."""
    dataset, short = experiment_of().dataset, TINY | NOISED | {"rounds": 2, "eval.every": 2, "writers": ""}
    first = tmp_path / "first"
    with pytest.warns(RunWarning, match="init_from: the guarantee is about the rounds of this run alone"):
        found = fedvlr_jax.train(dataset, short | {"init_from": str(source)}, first).metrics
    said = f"parameters that the run started from ({source}, made without a guarantee)"
    assert said in found["privacy"]["not_covered"]
    assert found["init_from"]["privacy"] == {str(source): None}
    assert fedvlr_jax.evaluate(first, dataset)["privacy"] == found["privacy"]
    with pytest.warns(RunWarning, match=r"first, made with epsilon 3.999 at delta 0.001 in 2 rounds: both add up"):
        again = fedvlr_jax.fit(dataset, short | {"init_from": str(first), "seed": 1}).metrics
    assert again["init_from"]["privacy"][str(first)]["epsilon"] == pytest.approx(found["privacy"]["epsilon"])
    assert said in again["privacy"]["not_covered"]  # the run further back
    assert "started" not in str(fedvlr_jax.fit(dataset, short).metrics["privacy"]["not_covered"])


@pytest.mark.filterwarnings("ignore:init_from:fedvlr_jax.errors.RunWarning")
def test_a_guarantee_does_not_start_where_its_noise_was_made_before(tmp_path, source):
    """Noise goes by the seed and the round: both runs' first sums would differ by no noise, be it two runs back."""
    dataset, short = experiment_of().dataset, TINY | {"rounds": 1, "eval.every": 1, "writers": ""}
    first, second = tmp_path / "first", tmp_path / "second"
    noise = NOISED | {"privacy.target_epsilon": 0.0, "privacy.delta": 0.0, "aggregation.noise_multiplier": 0.5}
    fedvlr_jax.train(dataset, short | noise | {"init_from": str(source)}, first)
    fedvlr_jax.train(dataset, short | NOISED | {"init_from": str(first), "seed": 1}, second)
    for start in (first, second):
        with pytest.raises(ConfigError, match=rf"seed: expected another .* found 0 here and in {first}"):
            fedvlr_jax.fit(dataset, short | NOISED | {"init_from": str(start)})
    with pytest.raises(ConfigError, match=rf"found 1 here and in {second}"):
        fedvlr_jax.fit(dataset, short | NOISED | {"init_from": str(second), "seed": 1})


def test_where_runs_make_their_own_states_it_is_refused(monkeypatch, capsys, tmp_path):
    settings = default_settings()
    refuse_warm_start(settings, "a sweep")
    with pytest.raises(ConfigError, match="init_from: expected none in a sweep"):
        refuse_warm_start(override(settings, {"init_from": "runs/x"}), "a sweep")
    flags = [f"--config={ROOT}/configs/benchmark/quick.py", "--config.train.init_from=x", f"--workdir={tmp_path}/b"]
    assert run_here(monkeypatch, "benchmark", *flags) == 2
    assert "init_from: expected none in a benchmark" in capsys.readouterr().err


def test_a_workdir_without_a_run_is_refused(tmp_path):
    experiment = experiment_of(init_from=str(tmp_path))
    with pytest.raises(ValueError, match=r"no config\.json there"):
        warm_start(fresh(experiment), experiment.settings, experiment.dataset)


def test_exported_parameters_are_those_of_the_best_round_and_the_reader_of_the_guide_scores_with_them(
    monkeypatch, capsys, tmp_path, source, best
):
    pytest.importorskip("safetensors", reason='pip install "fedvlr_jax[features]"')
    from safetensors import safe_open

    out = tmp_path / "parameters"
    flags = (f"--workdir={source}", f"--out={out}", "--format=safetensors")
    assert run_here(monkeypatch, "export", *flags) == 0
    assert "those of 12 clients" in capsys.readouterr().out
    reader: dict = {}
    exec(READER, reader)
    public, clients = reader["read"](out)
    assert sorted(clients) == list(range(12))
    table, own = best.public.params["variant"]["D"], best.private.params["theta"]
    score_ui = np.stack([reader["scores"](public, clients[user]) for user in range(12)])
    np.testing.assert_allclose(score_ui, jax.tree.leaves(own)[0] @ np.asarray(table).T, atol=1e-7)
    with safe_open(out / "public.safetensors", "np") as file:
        assert file.metadata() | {"round": "?"} == {
            "dataset": "synthetic",
            "host": "fcf",
            "variant": "base",
            "round": "?",
        }
    with safe_open(out / "clients" / "3.safetensors", "np") as file:
        assert file.metadata() == {"user": "3"}
    assert run_here(monkeypatch, "export", *flags) == 2  # the folder has content
    assert "expected a free folder" in capsys.readouterr().err
