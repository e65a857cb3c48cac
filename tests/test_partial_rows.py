"""Broadcasts of which only some rows travel: the same results, the bytes of the cost report, a set that hides."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
from federations import COHORT, DATASET, SILOS, Federation, cohorts, federation_settings, make_silo, simulated
from problems import relative_difference, spread

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.commands import federation as federation_command
from fedvlr_jax.deploy.export import flat
from fedvlr_jax.deploy.messages import CLIENT_BYTES, ID_BYTES, ROWS, TRAIN, Message, num_bytes, pack, unpack
from fedvlr_jax.deploy.partial_rows import make_order, rows_to_ask, with_rows
from fedvlr_jax.deploy.silo_programs import shared_settings, sizes_of
from fedvlr_jax.errors import ConfigError, TrainingError
from fedvlr_jax.types import content_of

EACH, ROUNDS = 20, 2
FEW = {"client__download_rows": EACH, "client__steps": 1, "client__negatives": 1}
SMALL = {"host__name": "fcf", "variant": "base", **FEW}


def trained(tree, folder, spoil=None):
    """A federation, its state after some rounds, and their reports."""
    federation = Federation(tree, folder, spoil)
    coordinator = federation.coordinator
    coordinator.wait_for_users()
    state, reports = coordinator.start(), []
    for _ in range(ROUNDS):
        state, report = coordinator.round(state)
        reports.append(report)
    return federation, state, reports


CASES = [("fcf", "fedvlr", "bce"), ("fedrap", "vbpr", "bpr"), ("pfedrec", "base", "bce"), ("fedncf", "mlp", "bpr")]


@pytest.mark.parametrize(("host", "variant", "objective"), spread(CASES, CASES[2:3]))
def test_rows_that_nobody_asked_for_change_nothing(tmp_path, host, variant, objective):
    tree = federation_settings(**{**FEW, "host__name": host, "variant": variant, "objective": objective})
    sent = {}

    def notice(node, question, content):
        sent.setdefault(question.kind, []).append((question.arrays, unpack(content).arrays))
        return [content]

    federation, state, reports = trained(tree, tmp_path, notice)
    expected = simulated(federation.algorithm, cohorts(federation.algorithm, ROUNDS))
    assert relative_difference(flat(state.public), flat(expected.public)) <= 1e-6
    assert relative_difference(federation.private(state), flat(expected.private)) <= 1e-6
    assert [r.num_counted for r in reports] == [COHORT] * ROUNDS
    cost = federation.algorithm.cost
    assert cost.bytes_down_per_client == EACH * cost.bytes_per_row + cost.bytes_head
    for arrays, upload in sent[TRAIN]:
        clients = len(arrays["user"])
        rows = min(clients * EACH, DATASET.num_items)
        assert num_bytes(arrays) == rows * (cost.bytes_per_row + ID_BYTES) + cost.bytes_head + 8 * clients
        up = len(upload["ids"]) * (cost.bytes_per_row + ID_BYTES) + clients * (cost.bytes_head + CLIENT_BYTES)
        assert num_bytes(upload) == up
        assert set(upload["ids"]) <= set(arrays["ids"])
    assert [num_bytes(answer) for _, answer in sent[ROWS]] == [ID_BYTES * len(x["ids"]) for x, _ in sent[TRAIN]]
    assert len({len(arrays["ids"]) for arrays, _ in sent[TRAIN]}) <= 2  # whatever the histories, by the users asked


def test_what_is_asked_for_again_and_again_is_not_the_history_alone(tmp_path):
    silo = make_silo(federation_settings(**SMALL), tmp_path / "silo", range(0, 1), "silo")
    fields = {**sizes_of(DATASET)._asdict(), "settings": shared_settings(silo._settings)}
    user = {"user": np.int32([0]), "counted": np.int32([-1])}

    def asked(round_):
        return set(silo.answer(Message(ROWS, {**fields, "round": round_}, user)).arrays["ids"].tolist())

    assert asked(0) == asked(0)  # else those that stay would be the touched ones
    always, history = set.intersection(*map(asked, range(6))), set(silo._people[0].history.tolist())
    assert asked(0) != asked(1)
    assert history < always
    assert len(always) >= 2 * len(history)


def test_rows_are_asked_for_in_ascending_order_whoever_needs_them():
    order = make_order(jax.random.key(5), 30)
    assert sorted(order) == list(range(30))
    assert not np.array_equal(order, make_order(jax.random.key(6), 30))
    ids = rows_to_ask([np.array([7, 3]), np.array([3, 29])], 9, order)
    others = [item for item in order if item not in {3, 7, 29}][:6]
    assert ids.dtype == np.int32
    assert ids.tolist() == sorted([3, 7, 29, *others])
    assert rows_to_ask([np.arange(30)], 30, order).tolist() == list(range(30))


FAULTS = {
    "fewer rows than agreed": lambda ids: ids[:-1],
    "an item twice": lambda ids: np.r_[ids[:1], ids[:-1]],
    "an item that does not exist": lambda ids: np.r_[ids[:-1], np.int32(DATASET.num_items)],
    "items out of order": lambda ids: ids[::-1].copy(),
    "an item below zero": lambda ids: np.r_[np.int32(-1), ids[1:]],
    "numbers of another type": lambda ids: ids.astype(np.int64),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return Federation(federation_settings(**SMALL), tmp_path_factory.mktemp("silos"))


def round_with(shared, kind, spoil):
    """The report of a first round in which node 11 answers questions of a kind otherwise."""
    shared.transport.spoil = lambda node, question, content: (
        [spoil(content)] if node == 11 and question.kind == kind else [content]
    )
    coordinator = shared.coordinate()
    coordinator.wait_for_users()
    return coordinator.round(coordinator.start())[1]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_is_not_as_agreed_is_counted_once(shared, fault):
    def spoil(content):
        message = unpack(content)
        return pack(message._replace(arrays={"ids": FAULTS[fault](message.arrays["ids"])}))

    report = round_with(shared, ROWS, spoil)
    assert 0 < len(report.missed) < COHORT
    assert report.tally.faults == {"misfit": len(report.missed)}
    assert set(report.missed) <= set(SILOS[11])


def test_an_upload_of_rows_that_were_not_sent_is_a_misfit(shared):
    def spoil(content):
        message = unpack(content)
        return pack(message._replace(arrays={**message.arrays, "ids": message.arrays["ids"] + np.int32(1)}))

    report = round_with(shared, TRAIN, spoil)
    assert report.tally.faults == {"misfit": len(report.missed)}
    assert any("expected distinct items that were sent, ascending" in line for line in shared.lines)


def test_a_row_that_is_needed_and_did_not_travel_is_found(shared, tmp_path):
    silo = make_silo(shared.tree, tmp_path / "own", range(0, 1), "own")
    coordinator = shared.coordinate()
    state = coordinator.start()
    broadcast, _ = shared.algorithm.server.open_round(state.public, content_of(DATASET))
    others = np.setdiff1d(np.arange(DATASET.num_items), silo._people[0].history).astype(np.int32)
    question = with_rows(coordinator._question(TRAIN, broadcast, state, {"round": 0}), {0: others})([0])
    assert not np.isfinite(silo.answer(question).arrays["loss"]).any()
    fresh, kept = silo._state(silo._programs, 0, -1), silo._state(silo._programs, 0, 0)
    assert all(np.array_equal(fresh[name], kept[name]) for name in fresh)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "softmax"},
        {"objective": "squared"},
        {"secure__sum": True, "aggregation__transforms": "clip"},
        {"aggregation__transforms": "clip,local_noise"},
    ],
)
def test_what_needs_all_rows_is_refused(changes):
    with pytest.raises(
        ConfigError, match=r"client.download_rows: expected 0 \(all\) where every row is read or sent"
    ):
        make_algorithm(federation_settings(**{**SMALL, **changes}), DATASET)


def test_a_number_that_some_history_may_outgrow_is_refused_when_a_silo_joins(tmp_path):
    tree = federation_settings(**{**SMALL, "client__download_rows": 15})
    silo = make_silo(tree, tmp_path / "silo", range(0, 2), "silo")
    fields = {**sizes_of(DATASET)._asdict(), "settings": shared_settings(tree)}
    answer = silo.answer(Message("join", fields, {}))
    assert "client.download_rows: expected 0 (all), or 16 or more" in answer.fields["reason"]


def test_a_server_that_waits_says_once_why_a_silo_refuses_and_again_in_the_end(tmp_path):
    federation = Federation(federation_settings(**{**SMALL, "client__download_rows": 15}), tmp_path)
    coordinator, asked = federation.coordinate(start_seconds=1), []
    federation.transport.spoil = lambda node, question, content: [asked.append(node), content][1:]
    reason = r"client.download_rows: expected 0 \(all\), or 16 or more"
    with pytest.raises(TrainingError, match=f"expected 6 users within 1 s, found 0; node 11: {reason}.*node 33: "):
        coordinator.wait_for_users()
    assert len(asked) > len(SILOS)  # each was asked again
    assert sorted(line.split(": ")[1] for line in federation.lines) == [f"node {node}" for node in SILOS]


@pytest.mark.filterwarnings("ignore:the load_module")
def test_a_federation_on_one_machine_is_not_started_with_too_few_rows(tmp_path, monkeypatch, capsys):
    words = ["--config=configs/federation.py", "--config.client.download_rows=7", f"--workdir={tmp_path / 'w'}"]
    monkeypatch.setattr(sys, "argv", ["federation", *words])
    assert federation_command.main() == 2
    assert "client.download_rows: expected 0 (all), or " in capsys.readouterr().err
