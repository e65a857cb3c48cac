"""The table of settings: what comes from it, and what it refuses."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from commands import ROOT, arguments, run_here
from problems import client_data, settings, tiny_dataset

from configs.base import get_config
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.synthetic import generate
from fedvlr_jax.errors import ConfigError, choose
from fedvlr_jax.federated.prior import PriorSettings
from fedvlr_jax.fields import NOT_NEGATIVE, Field, flatten, nest
from fedvlr_jax.models.hosts import HOSTS, HostFactory, fcf
from fedvlr_jax.settings import check_settings, default_settings, override, tidy, traceable_fields, upgrade
from fedvlr_jax.settings.page import choices_of, help_text, page
from fedvlr_jax.settings.table import RENAMED, all_fields

FIELDS = all_fields()
BOUNDED = [name for name, field in FIELDS.items() if field.bounds is not None]
NAMED = [name for name, field in FIELDS.items() if field.choices]


def test_defaults_pass_their_own_checks_and_are_the_base_configuration():
    check_settings(default_settings())
    assert get_config().to_dict() == default_settings()
    assert get_config().is_locked
    assert dict(flatten(default_settings())) == {name: field.default for name, field in FIELDS.items()}


def test_default_settings_belong_to_the_caller():
    default_settings()["host"]["name"] = "changed"
    assert default_settings()["host"]["name"] == "fcf"


def test_the_settings_need_no_jax():
    code = "import sys; from configs import base, ku; ku.get_config(); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_page_is_current():
    stored = (ROOT / "docs" / "settings.md").read_text()
    assert stored == page(), "write it anew: python -m fedvlr_jax.settings > docs/settings.md"


def test_help_names_every_field_with_its_default(monkeypatch, capsys):
    assert run_here(monkeypatch, "train", "--help") == 0
    out = capsys.readouterr().out
    assert help_text() in out
    assert all(f"--config.{name}={field.default}\n" in out for name, field in FIELDS.items())
    words = " ".join(out.split())
    assert "one of fedavg, fcf, fedncf, pfedrec, fedrap, fedprior" in words
    assert "unit rounds; at least 1" in words


@pytest.mark.parametrize("name", NAMED)
def test_the_default_is_among_the_choices(name):
    field = FIELDS[name]
    chosen = field.default.split(",") if field.is_list and field.default else [field.default]
    assert field.is_list or field.default
    assert not field.default or set(chosen) <= set(choices_of(field))


@pytest.mark.parametrize("name", list(FIELDS))
def test_every_field_says_what_it_is_and_only_numbers_have_bounds(name):
    field = FIELDS[name]
    assert field.about
    assert "\n" not in field.about
    assert field.bounds is None or type(field.default) in (int, float)
    assert not field.traceable or type(field.default) is float


def test_numbers_that_change_no_shape_are_traceable():
    rates = {"client.lr", "client.item_lr", "server.lr", "host.tune_lr", "host.table_lr"}
    weights = {"client.l2", "server.l2", "host.additive_weight", "host.model_weight", "host.sparsity_weight"}
    views = {"host.deviation"}
    others = {"client.holdout", "client.init_scale", "server.init_scale", "host.confidence", "host.ridge"}
    router = {"router.lr", "router.l2", "router.spread", "router.spread_rounds", "fusion.first_odds", "fusion.distil"}
    assert traceable_fields() == rates | weights | views | others | router


@pytest.mark.parametrize("name", BOUNDED)
def test_both_ends_of_every_range_are_checked(name):
    field, kind = FIELDS[name], type(FIELDS[name].default)
    low, below, above = field.bounds
    inside = [low + 1e-6 if above else low] if kind is float else [low, low + 7]
    outside = [low if above else low - 1]
    if below != math.inf:
        inside, outside = [*inside, below - 1e-6], [*outside, below]
    for value in map(kind, inside):
        field.check(name, value)
    for value in [*map(kind, outside), *([math.nan, math.inf] if kind is float else [])]:
        with pytest.raises(ConfigError, match=rf"^{name}: expected .*, found {value}$"):
            check_settings(nest({**dict(flatten(default_settings())), name: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client__move_items": True, "client__item_lr": 0.0}, "client.item_lr: expected a positive rate"),
        ({"compute__store": "disk", "compute__devices": 2}, "compute.devices: expected 1 with compute.store disk"),
        ({"compute__store": "dsik"}, "expected one of device, memory, disk, found 'dsik'; did you mean 'disk'?"),
        ({"rounds": "5"}, "rounds: expected type int, found '5'"),
        ({"seed": True}, "seed: expected type int, found True"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        check_settings(settings(**changes))
    assert message in str(error.value)


def test_a_missing_field_is_named():
    tree = default_settings()
    del tree["client"]["lr"]
    with pytest.raises(ConfigError, match=r"client\.lr: expected a value, found none"):
        check_settings(tree)


def test_changes_may_be_dotted_nested_or_both_and_keep_the_types_of_the_fields():
    before = default_settings()
    after = override(
        before,
        {
            "host.name": "fedrap",
            "client": {"lr": 1, "steps": np.int64(3)},
            "data": {"synthetic.seed": 4, "expect": {"users": 5}},
            "server.lr": np.float32(0.5),
            "fusion.operators": ["sum", "gate"],
            "fusion": {"modalities": "D, C"},
        },
    )
    assert before == default_settings()
    changed = dict(flatten(after))
    assert {name: value for name, value in changed.items() if value != FIELDS[name].default} == {
        "host.name": "fedrap",
        "client.lr": 1.0,
        "client.steps": 3,
        "data.synthetic.seed": 4,
        "data.expect.users": 5,
        "server.lr": 0.5,
        "fusion.operators": "sum,gate",
        "fusion.modalities": "D,C",
    }
    assert {type(changed[name]) for name in ("client.lr", "server.lr")} == {float}
    assert type(changed["client.steps"]) is int


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hst.name": "fcf"}, "unknown field hst.name; did you mean host.name?"),
        ({"lr": 0.1}, "unknown field lr; did you mean client.lr?"),
        ({"host": {"nme": "fcf"}}, "unknown field host.nme; did you mean host.name?"),
        ({"host": 3}, "host: expected fields with their values, found 3"),
        ({"rounds": 1.5}, "rounds: expected type int, found 1.5"),
        ({"rounds": True}, "rounds: expected type int, found True"),
        ({"client.lr": True}, "client.lr: expected a finite number, found True"),
        ({"client.lr": "fast"}, "client.lr: expected a finite number, found 'fast'"),
        ({"client.lr": math.nan}, "client.lr: expected a finite number, found nan"),
        ({"dry_run": 1}, "dry_run: expected type bool, found 1"),
        ({"variant": 1}, "variant: expected type str, found 1"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        override(default_settings(), changes)
    assert str(error.value) == message


@pytest.mark.parametrize("names", ["sum,mlp", " sum , mlp,", "('sum','mlp')", "['sum', 'mlp']", ("sum", "mlp")])
def test_lists_of_names_are_tidied(names):
    assert tidy({"fusion": {"operators": names}, "other": 1}) == {"fusion": {"operators": "sum,mlp"}, "other": 1}


def test_a_name_of_yesterday_goes_on_with_a_warning():
    with pytest.warns(FutureWarning, match='^compute.store: "host" is called "memory" now$'):
        changed = override(default_settings(), {"compute.store": "host"})
    assert changed["compute"]["store"] == "memory"
    with pytest.warns(FutureWarning):
        assert upgrade({"compute": {"store": "host"}}) == changed


def test_a_name_of_yesterday_goes_on_from_the_command_line_with_one_line(monkeypatch, capsys):
    flags = arguments(compute__store="host", dry_run=True)
    with pytest.warns(FutureWarning) as found:
        assert run_here(monkeypatch, "train", *flags) == 0
    assert [str(warning.message) for warning in found] == ['compute.store: "host" is called "memory" now']


def test_a_field_of_yesterday_names_the_new_one(monkeypatch, capsys):
    monkeypatch.setitem(RENAMED, "client.rate", "client.lr")
    with pytest.raises(ConfigError, match=r"^unknown field client\.rate; it is called client\.lr now$"):
        override(default_settings(), {"client.rate": 0.1})
    assert run_here(monkeypatch, "train", "--config.client.rate=0.1") == 2
    assert "--config.client.rate; it is called --config.client.lr now" in capsys.readouterr().err
    assert upgrade({"client": {"rate": 0.25}})["client"]["lr"] == 0.25


def test_what_an_older_version_stored_has_the_defaults_of_what_it_lacks():
    stored = override(default_settings(), {"rounds": 7})
    del stored["aggregation"], stored["fusion"]["router"]
    assert upgrade(stored) == override(default_settings(), {"rounds": 7})


def test_defaults_that_libraries_have_of_their_own_are_equal():
    assert PriorSettings() == PriorSettings(**default_settings()["prior"])
    assert set(inspect.signature(generate).parameters) == set(default_settings()["data"]["synthetic"])
    assert load_configured(default_settings()["data"]).num_users == FIELDS["data.synthetic.num_users"].default


def test_a_row_is_chosen_or_refused():
    assert choose({"a": 1, "b": 2}, "x.y", "b") == 2
    with pytest.raises(ConfigError, match=r"^x\.y: expected one of first, second, found 'secnod'; did you mean"):
        choose({"first": 1, "second": 2}, "x.y", "secnod")


def test_options_of_hosts_have_distinct_names():
    names = [name for row in HOSTS.values() for name in getattr(row, "options", {})]
    assert len(names) == len(set(names))
    assert "name" not in names


def test_a_plain_function_may_be_the_row_of_a_host_without_settings(monkeypatch):
    monkeypatch.setitem(HOSTS, "plain", fcf.make)
    assert default_settings() == nest({name: field.default for name, field in FIELDS.items()})
    make_algorithm(settings(host__name="plain"), tiny_dataset())


@pytest.fixture
def novel_host(monkeypatch):
    """A host that is one file and one row; yields the options with which it was made."""
    given = []

    def make(num_items, *, novelty, **options):
        given.append(novelty)
        return fcf.make(num_items, **options)

    monkeypatch.setitem(sys.modules, "novel_host", types.SimpleNamespace(make=make))
    row = HostFactory("novel_host", {"novelty": Field(0.5, "of the host", NOT_NEGATIVE, traceable=True)})
    monkeypatch.setitem(HOSTS, "novel", row)
    return given


def test_a_new_host_is_one_file_and_one_row(novel_host, monkeypatch, capsys):
    chosen = override(settings(), {"host.name": "novel", "host": {"novelty": 2}})
    dataset = tiny_dataset()
    algorithm = make_algorithm(chosen, dataset)
    assert set(novel_host) == {2.0}
    state, _ = algorithm.run(algorithm.init(jax.random.key(0)), client_data(dataset), 1)
    assert int(state.public.round) == 1
    assert get_config().host.novelty == 0.5
    assert "host.novelty" in traceable_fields()
    assert "--config.host.novelty=0.5" in help_text()
    with pytest.raises(ConfigError, match=r"^host\.novelty: expected a finite number, at least 0, found -1"):
        make_algorithm(override(chosen, {"host.novelty": -1}), dataset)
    flags = arguments(host__name="novel", host__novelty=3.0, dry_run=True)
    assert run_here(monkeypatch, "train", *flags) == 0
    assert novel_host[-1] == 3.0
