"""Parameter counts against the paper's Table 3, messages, and exponents of operations."""

from __future__ import annotations

import csv

import pytest

from configs.theory.complexity import get_config
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.theory import complexity, growth, parameters
from fedvlr_jax.theory.messages import messages
from tests.commands import ROOT, run_here
from tests.problems import tiny_dataset

OTHER_WIDTHS = {
    ("FedAvg", "KU"): 512,
    ("PFedRec", "KU"): 512,
    ("FCF", "Dance"): 512,
    ("FCF", "Food"): 512,
    ("FedAvg+VBPR", "Food"): 64,
    ("FedNCF", "Movie"): 32,
}


@pytest.fixture(scope="module")
def settings():
    return get_config().to_dict()


@pytest.fixture(scope="module")
def cells(settings):
    return parameters.table3(settings)


@pytest.mark.slow
def test_106_of_112_cells_agree_and_a_width_explains_the_others(cells):
    assert len(cells) == 112
    assert {(c.model, c.dataset): c.width for c in cells if not c.agrees} == OTHER_WIDTHS
    assert complexity.as_described(cells)


@pytest.mark.slow
def test_closed_forms_equal_the_counted_pytrees_in_every_cell(cells):
    assert [(c.model, c.dataset) for c in cells if c.closed_form != c.counted] == []


@pytest.mark.slow
def test_a_wrong_count_is_not_as_described(cells):
    assert not complexity.as_described([cells[0]._replace(counted=cells[0].counted + 1), *cells[1:]])
    assert not complexity.as_described([cells[0]._replace(width=None), *cells[1:]])


def test_the_parts_of_the_closed_forms():
    assert parameters.router_parameters(64) == 12_547
    assert parameters.gate_parameters(64) == 24_832
    assert parameters.ncf_parameters(64) == 10_945


@pytest.mark.slow
def test_messages_count_views_and_touched_rows(settings):
    dataset = tiny_dataset()
    found = {(m.host, m.variant): m for m in messages(settings, dataset)}
    dim = settings["fusion"]["dim"]
    assert found["fcf", "base"].bytes_whole == dataset.num_items * dim * 4
    assert found["fcf", "fedvlr"].bytes_whole == 3 * found["fcf", "base"].bytes_whole
    assert found["fcf", "fedvlr"].num_private == 12_547 + dim
    for message in found.values():
        assert 0 < message.bytes_touched <= message.bytes_whole


@pytest.mark.slow
def test_the_command_without_measuring(monkeypatch, tmp_path, capsys):
    config = f"--config={ROOT}/configs/theory/complexity.py"
    flags = (config, f"--workdir={tmp_path}", "--config.measure=False")
    assert run_here(monkeypatch, "check_complexity", *flags) == 0
    printed = capsys.readouterr().out
    assert "106 of 112" in printed
    with (tmp_path / "parameters.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 112
    assert not (tmp_path / "growth.csv").exists()


def small_growth(settings, **grow):
    """The settings with small sizes and nothing timed twice."""
    base = {"G": 2, "I": 256, "d": 16, "n_s": 8, "A": 2, "U": 16}
    return settings | {"growth": settings["growth"] | {"base": base, "grow": grow, "repeats": 3}}


@pytest.mark.slow
def test_operations_grow_as_counted(settings):
    grid = small_growth(settings, I=(256, 512, 1024), A=(2, 4, 8), n_s=(4, 8, 16))
    found = {e.name: e for e in growth.fit_growth(list(growth.measure_growth(grid)))}
    for name, expected in (
        ("server, operations against |I|", 1),
        ("server, operations against A", 0),
        ("server, operations against n_s", 0),
        ("clients, operations against n_s", 1),
    ):
        assert abs(found[name].value - expected) < 0.05, name
    assert 0.8 < found["clients, operations against A"].value < 1.02
    assert {"round, seconds against |I|", "one client, memory against |I|"} <= set(found)
    assert not any(name.startswith("one client, seconds") for name in found)


@pytest.mark.parametrize(
    ("grow", "message"),
    [({"x": (1, 2, 3)}, "expected G, I"), ({"I": (256, 512)}, "three values"), ({"n_s": (4, 8, 32)}, "n_s")],
)
def test_growth_that_cannot_be_measured_is_refused(settings, grow, message):
    with pytest.raises(ConfigError, match=message):
        list(growth.measure_growth(small_growth(settings, **grow)))
