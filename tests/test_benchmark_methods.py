"""Which methods a benchmark has: from patterns, settings, grids and the features at hand."""

from __future__ import annotations

import dataclasses

import pytest
from problems import tiny_dataset

from configs.benchmark import base, privacy_ku, privacy_ml
from configs.benchmark.base import fields
from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.benchmark.guarantees import ADD_UP
from fedvlr_jax.benchmark.methods import CONTROLS, left_open, list_methods, split_point
from fedvlr_jax.benchmark.published import PAPER_HOSTS, PAPER_VARIANTS, published
from fedvlr_jax.benchmark.records import CENTRALISED, FEDERATED
from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.privacy.accounting import epsilon_of
from fedvlr_jax.settings import traceable_fields
from fedvlr_jax.training.uncovered import EXACT_SUMS

DATASET = tiny_dataset()


def configured(**changes):
    config = base.get_config()
    for name, value in changes.items():
        config[name] = value
    return config.to_dict()


def names(**changes) -> list[str]:
    return [method.name for method in list_methods(configured(**changes), DATASET).methods]


def test_all_methods_are_hosts_by_variants_local_only_baselines_and_five_controls_of_each_fedvlr():
    found = names()
    assert len(found) == len(set(found)) == len(BASELINES) + 5 * 4 + 1 + 5 * len(CONTROLS)
    assert {"fcf+fedvlr", "local-only", "ease", "fedrap+fedvlr, without V"} <= set(found)


def test_a_new_baseline_is_a_method_of_the_family_that_its_row_says(monkeypatch):
    monkeypatch.setitem(BASELINES, "new", BASELINES["popularity"])
    monkeypatch.setitem(BASELINES, "new_federated", BASELINES["popularity"]._replace(megabytes=lambda dataset: 1.0))
    found = {m.name: m.family for m in list_methods(configured(methods="new*, fed_*, ease"), DATASET).methods}
    federated = {"new_federated", "fed_ease", "fed_content_ease", "fed_prior"}
    assert found == dict.fromkeys(federated, FEDERATED) | dict.fromkeys(("new", "ease"), CENTRALISED)


def test_without_names_hosts_and_variants_are_the_papers():
    found = names(methods="*+*", controls="")
    assert found == [f"{host}+{variant}" for host in PAPER_HOSTS for variant in PAPER_VARIANTS]


def test_patterns_choose_and_a_control_brings_the_method_it_follows():
    assert names(methods="ease, fcf+*") == ["ease", *(f"fcf+{v}" for v in ("base", "mlp", "vbpr", "fedvlr"))] + [
        f"fcf+fedvlr, {control}" for control in CONTROLS
    ]
    assert names(methods="*shuffled features", hosts="fcf") == ["fcf+fedvlr", "fcf+fedvlr, shuffled features"]


def test_settings_of_later_patterns_win_and_grids_are_products():
    config = configured(
        methods="fcf+base",
        settings={"*": fields(client__lr=1.0, client__steps=3), "fcf+base": fields(client__lr=2.0)},
        grid={"*+*": fields(client__lr=(5.0,)), "fcf+base": fields(server__lr=(0.1, 0.2), client__steps=(1, 2))},
    )
    (method,) = list_methods(config, DATASET).methods
    assert method.settings["client"]["lr"] == 2.0
    assert method.settings["client"]["steps"] == 3
    assert (method.settings["host"]["name"], method.settings["variant"]) == ("fcf", "base")
    assert len(method.grid) == 4
    assert {tuple(sorted(point.items())) for point in method.grid} == {
        (("client.steps", s), ("server.lr", r)) for s in (1, 2) for r in (0.1, 0.2)
    }
    assert split_point(method.grid[0], traceable_fields()) == ({"client.steps": 1}, {"server.lr": 0.1})


def test_local_only_has_no_server():
    (method,) = list_methods(configured(methods="local-only"), DATASET).methods
    assert method.settings["server"]["lr"] == method.settings["server"]["init_scale"] == 0


def test_controls_change_the_features_or_a_modality_and_nothing_else():
    methods = {m.name: m for m in list_methods(configured(hosts="fcf"), DATASET).methods}
    plain = methods["fcf+fedvlr"].settings
    shuffled = methods["fcf+fedvlr, shuffled features"].settings
    assert shuffled["data"]["features"] == "shuffled"
    assert shuffled | {"data": plain["data"]} == plain
    assert methods["fcf+fedvlr, without V"].settings["fusion"]["modalities"] == "D,C"


def test_a_set_without_one_modality_runs_without_it_and_says_so():
    dataset = dataclasses.replace(DATASET, V=None)
    found = list_methods(configured(hosts="fcf"), dataset)
    kept = {m.name for m in found.methods}
    assert "fcf+fedvlr, without V" not in kept
    assert {"fcf+vbpr", "fcf+fedvlr, without C", "fcf+fedvlr, shuffled features"} <= kept
    assert any("fcf+fedvlr, without V" in note and "does not have that modality" in note for note in found.notes)


def test_a_set_without_features_has_no_feature_methods():
    found = list_methods(configured(hosts="fcf", own="fedblend+base"), dataclasses.replace(DATASET, V=None, C=None))
    kept = {m.name for m in found.methods}
    assert {"fcf+base", "fcf+mlp", "fcf+fedvlr", "ease", "fedblend+base, swapped deviations"} <= kept
    assert "fedblend+base, best view alone" in kept
    assert not any("vbpr" in name or "shuffled" in name or "content" in name for name in kept)
    assert any("neither visual nor textual" in note for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "eese"}, "'eese' fits no method; did you mean 'ease'?"),
        ({"methods": "fcf+fedvrl"}, "did you mean 'fcf+fedvlr'?"),
        ({"controls": "shuffeled"}, "controls: expected some of shuffled features"),
        ({"grid": {"*+*": fields(client__lr=())}}, "grid: client.lr of fedavg+base has no values"),
        ({"grid": {"*+*": fields(client__rate=(1.0,))}}, "configs/base.py has no field 'client.rate'"),
        ({"settings": {"*+*": fields(clint__lr=1.0)}}, "configs/base.py has no field 'clint.lr'"),
        ({"settings": {"fcv+*": fields(client__lr=1.0)}}, "'fcv+*' fits no method"),
    ],
)
def test_misspelled_names_are_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        list_methods(configured(**changes), DATASET)
    assert message in str(error.value)


def test_methods_come_again_with_changed_settings_and_what_their_noise_is_worth():
    budget = fields(
        aggregation__transforms="clip,noise", privacy__target_epsilon=8.0, privacy__delta=1e-3, rounds=20
    ).to_dict()
    listed = list_methods(configured(hosts="fcf", methods="*+*", changed={"eps 8": budget}), DATASET)
    found = {method.name: method for method in listed.methods}
    plain, private = found["fcf+fedvlr"], found["fcf+fedvlr, eps 8"]
    assert private.grid == plain.grid
    assert private.family == plain.family == FEDERATED
    assert private.settings["privacy"]["target_epsilon"] == 8.0
    assert plain.settings["privacy"]["target_epsilon"] == 0.0
    assert not any("eps 8, " in name for name in found)  # no controls of its own
    note, together = listed.notes
    assert note.startswith("eps 8: epsilon 7.99")
    assert together == ADD_UP
    with pytest.raises(ConfigError, match=r"fcf\+base, eps: configs/base.py has no field"):
        names(hosts="fcf", changed={"eps": {"privacy": {"epsilon": 1.0}}})


def test_what_makes_a_method_is_no_axis_of_its_grid():
    grid = {"*": fields(server__lr=(0.01, 0.03), client__lr=(1.0, 2.0)).to_dict()}
    changed = {"no server": {"server": {"lr": 0.0}}}
    listed = list_methods(configured(hosts="fcf", own="fedblend+base", changed=changed, grid=grid), DATASET)
    found = {method.name: method for method in listed.methods}
    assert len(found["fcf+base"].grid) == 4
    for name in ("fcf+base, no server", "local-only"):
        assert found[name].grid == ({"client.lr": 1.0}, {"client.lr": 2.0})
        assert found[name].settings["server"]["lr"] == 0.0
    alone = found["fedblend+base, best view alone"]
    assert alone.grid == found["fedblend+base"].grid  # among which it finds the point that it follows
    assert left_open(alone.grid[0], alone.fixed) == {}


def test_what_noise_is_worth_is_said_of_each_method_where_they_differ():
    noisy = fields(aggregation__transforms="clip,noise", aggregation__noise_multiplier=5.0, privacy__delta=1e-3)
    config = configured(
        hosts="fcf,fedavg",
        variants="base",
        methods="*+base*",
        changed={"noisy": noisy.to_dict()},
        settings={"fedavg+*": {"rounds": 10}, "fcf+*": {"rounds": 200}},
        grid={"fcf+*": {"client": {"lr": (0.1, 0.2)}}, "fedavg+*": {"rounds": (10, 40)}},
    )
    *notes, _ = list_methods(config, DATASET).notes
    worth = {note.partition(": epsilon")[0]: float(note.split("epsilon ")[1].split()[0]) for note in notes}
    assert worth == {
        "fcf+base, noisy": pytest.approx(epsilon_of(5.0, 1.0, 200, 1e-3), rel=1e-3),
        "fedavg+base, noisy at rounds=10": pytest.approx(epsilon_of(5.0, 1.0, 10, 1e-3), rel=1e-3),
        "fedavg+base, noisy at rounds=40": pytest.approx(epsilon_of(5.0, 1.0, 40, 1e-3), rel=1e-3),
    }


def test_no_epsilon_of_exact_sums_is_said_without_a_word_about_them():
    budget = fields(aggregation__transforms="clip,noise", privacy__target_epsilon=8.0, privacy__delta=1e-3)
    config = configured(hosts="fcf,fedprior", own="fedblend+base", variants="base", methods="*+base*", controls="")
    config["changed"] = {"eps 8": budget.to_dict()}
    with pytest.warns(RunWarning, match="hosts fedblend and fedprior form exact sums") as warned:
        *notes, _ = list_methods(config, DATASET).notes
    exact, noised = sorted(notes, key=lambda note: EXACT_SUMS not in note)
    assert len(warned) == 1
    assert exact.startswith("fedprior+base, eps 8; fedblend+base, eps 8: epsilon 7.99")
    assert noised.startswith("fcf+base, eps 8: epsilon 7.99")
    assert EXACT_SUMS not in noised


def test_some_methods_alone_come_again_with_changed_settings():
    changed = {"one": {"fusion": {"router": "common"}}}
    found = names(hosts="fcf,fedavg", methods="*+*", changed=changed, changed_of="fcf+fed*, fedavg+mlp")
    assert {name for name in found if ", one" in name} == {"fcf+fedvlr, one", "fedavg+mlp, one"}
    said = r"changed_of: 'fcf\+fedvrl' fits no federated method; did you mean 'fcf\+fedvlr'"
    with pytest.raises(ConfigError, match=said):
        names(changed=changed, changed_of="fcf+fedvrl")
    assert names(changed_of="fcf+fedvrl") == names()  # nothing comes again, so nothing is asked for


@pytest.mark.filterwarnings("ignore:privacy.prior_share")
@pytest.mark.parametrize("module", [privacy_ku, privacy_ml])
def test_the_benchmark_of_privacy_has_each_method_under_each_budget(module):
    listed = list_methods(module.get_config().to_dict(), DATASET)
    federated = [method for method in listed.methods if "+" in method.name]
    assert {(m.settings["rounds"], m.settings["server"]["clients_per_round"]) for m in federated} == {(30, 0)}
    found = [method.name for method in listed.methods]
    labels = ["", ", gradient noise", *(f", eps {epsilon}" for epsilon in privacy_ku.EPSILONS)]
    methods = [*(f"{host}+fedvlr" for host in PAPER_HOSTS), "fcf+base", "fedprior+base"]
    assert {f"{method}{label}" for method in methods for label in labels} < set(found)
    assert {"local-only", "popularity"} < set(found)
    assert [name for name in found if name.startswith("fcf+base")] == [
        f"fcf+base{label}"
        for label in (*("", *(f", eps {epsilon}" for epsilon in privacy_ku.EPSILONS)), ", gradient noise")
    ]
    shares = {method.name: method.settings["privacy"]["prior_share"] for method in federated}
    assert {name for name, share in shares.items() if share} == {
        f"fedprior+base, eps {epsilon}" for epsilon in privacy_ku.EPSILONS
    }
    assert listed.notes[-1] == ADD_UP
    assert len(listed.notes) == len(labels) + 1  # under gradient noise the sums of fedprior are exact
    assert [note.partition(":")[0] for note in listed.notes if EXACT_SUMS in note] == [
        "fedprior+base, gradient noise"
    ]
    assert published("KU", "fcf+fedvlr, gradient noise") == {"HR@50": 0.5378, "NDCG@50": 0.1402}
