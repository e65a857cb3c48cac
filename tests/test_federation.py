"""A federation of a coordinator and silos that exchange messages against a simulation, and against every fault."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import (
    DATASET,
    SILOS,
    Federation,
    LocalTransport,
    cohorts,
    federation_settings,
    make_silo,
    simulated,
)
from problems import client_data, histories, relative_difference, spread

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.data.buckets import heldout_targets
from fedvlr_jax.data.heldout import place_rows
from fedvlr_jax.deploy.coordinator import Coordinator, Timing
from fedvlr_jax.deploy.export import flat
from fedvlr_jax.deploy.messages import JOIN, TRAIN, Message, pack, unpack
from fedvlr_jax.deploy.round_report import line_of, told
from fedvlr_jax.deploy.silo_programs import shared_settings, sizes_of
from fedvlr_jax.deploy.silos import Failure, new_tally
from fedvlr_jax.errors import ConfigError, TrainingError
from fedvlr_jax.evaluation.metrics import summarise, warm_items
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.io.files import json_ready
from fedvlr_jax.types import content_of

ROUNDS = 3


CASES = [("fcf", "fedvlr", ""), ("fedrap", "base", "clip,noise"), ("pfedrec", "vbpr", ""), ("fedncf", "mlp", "clip")]


@pytest.mark.slow
@pytest.mark.parametrize(("host", "variant", "transforms"), spread(CASES, CASES[:1]))
def test_a_federation_equals_a_simulation_also_where_a_silo_drops_out(tmp_path, host, variant, transforms):
    tree = federation_settings(
        host__name=host,
        variant=variant,
        aggregation__transforms=transforms,
        aggregation__clip_norm=0.2,
        aggregation__noise_multiplier=0.1,
    )

    def drops_out_once(node, question, content):
        gone = question.kind == TRAIN and question.fields["round"] == 1 and node == 33
        return [] if gone else [content]

    federation = Federation(tree, tmp_path, drops_out_once)
    coordinator, algorithm = federation.coordinator, federation.algorithm
    coordinator.wait_for_users()
    state, reports = coordinator.start(), []
    for _ in range(ROUNDS):
        state, report = coordinator.round(state)
        reports.append(report)

    asked = cohorts(algorithm, ROUNDS)
    lost = asked[1] & set(SILOS[33])
    assert lost  # else nothing is tested
    counted = [asked[0], asked[1] - lost, asked[2]]
    expected = simulated(algorithm, counted)
    assert relative_difference(flat(state.public), flat(expected.public)) <= 1e-6
    assert relative_difference(federation.private(state), flat(expected.private)) <= 1e-6
    assert relative_difference(flat(state.public.params), flat(coordinator.start().public.params)) > 1e-4
    assert [r.num_counted for r in reports] == [len(users) for users in counted]
    assert [dict(r.tally.faults) for r in reports] == [{}, {"late": len(lost)}, {}]

    metrics = coordinator.rank(state, test=True, tally=new_tally())
    data = client_data(DATASET)
    snapshot = algorithm.snapshot(expected, data.content)
    ranks = jax.device_get(rank_all(algorithm.rank_score, snapshot, data.buckets, heldout_targets(DATASET), chunk=6))
    summary = summarise(ranks, warm_items(DATASET.train_item, DATASET.num_items))
    for split in ("valid", "test"):
        assert metrics[split] == pytest.approx(summary[split], rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("with_several", [{0: (3, 1)}, {0: (3, 1), 5: (0, 2)}])
def test_several_held_out_rows_of_a_user_are_ranked_as_in_a_simulation(tmp_path, with_several):
    """Of validation and test; the silos differ in whether somebody has several."""
    rng, rows = np.random.default_rng(2), []
    for user, history in enumerate(histories(DATASET)):
        free = rng.permutation(np.setdiff1d(np.arange(DATASET.num_items), history))
        counts = with_several.get(user, (1, 1))
        rows += [(t, user, item) for t, n in enumerate(counts) for item in np.sort(free[4 * t : 4 * t + n])]
    t, user, item = np.array(sorted(rows)).T
    at, held_user = place_rows(t, user, DATASET.num_users)
    item_th = np.full((2, len(held_user)), -1, np.int32)
    item_th[t, at] = item
    dataset = dataclasses.replace(DATASET, valid_item=item_th[0], test_item=item_th[1], held_user=held_user)
    federation = Federation(federation_settings(host__name="fcf", variant="base"), tmp_path, dataset=dataset)
    coordinator, algorithm = federation.coordinator, federation.algorithm
    coordinator.wait_for_users()
    state = coordinator.start()
    data, start = client_data(DATASET), algorithm.init(jax.random.key(0))
    snapshot = algorithm.snapshot(start, data.content)
    ranks = jax.device_get(rank_all(algorithm.rank_score, snapshot, data.buckets, heldout_targets(dataset), chunk=6))
    summary = summarise(ranks, warm_items(dataset.train_item, dataset.num_items))
    metrics = coordinator.rank(state, test=True, tally=new_tally())
    assert metrics["test"] == pytest.approx(summary["test"], rel=1e-12)
    assert coordinator.rank(state, test=False, tally=new_tally()) == {
        "valid": pytest.approx(summary["valid"], rel=1e-12)
    }
    assert "MAP@50" in metrics["valid"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One federation for all faults; each test begins with a fresh state and silos that keep their programs."""
    return Federation(federation_settings(host__name="fcf", variant="base"), tmp_path_factory.mktemp("silos"))


def changed(content, **arrays):
    message = unpack(content)
    return pack(
        message._replace(arrays=message.arrays | {name: f(message.arrays[name]) for name, f in arrays.items()})
    )


FAULTS = {
    "late": lambda content: [],
    "failed": lambda content: [Failure("failed", "no client worker listens")],
    "refused": lambda content: [pack(Message("refused", {"reason": "not today"}, {}))],
    "repeated": lambda content: [content, content],
    "nonfinite": lambda content: [changed(content, **{"rows/views": lambda x: np.full_like(x, np.nan)})],
    "misfit": lambda content: [changed(content, **{"rows/views": lambda x: x[..., :3]})],
}
MISFITS = {
    "another type": lambda content: [changed(content, loss=lambda x: x.astype(np.float64))],
    "a user of others": lambda content: [changed(content, user=lambda x: x + 2)],
    "an item twice": lambda content: [changed(content, ids=lambda x: np.zeros_like(x))],
    "an item that does not exist": lambda content: [changed(content, ids=lambda x: x + 100)],
    "counts that do not add up": lambda content: [changed(content, count=lambda x: x + 1)],
    "another version": lambda content: [content.replace(b'{"version": 1', b'{"version": 9')],
    "half a message": lambda content: [content[: len(content) // 2]],
    "another kind": lambda content: [pack(unpack(content)._replace(kind=JOIN))],
}
CASES_OF_FAULTS = [*FAULTS.items(), *(("misfit", spoil) for spoil in MISFITS.values())]


@pytest.mark.parametrize(("fault", "spoil"), CASES_OF_FAULTS, ids=[*FAULTS, *MISFITS])
def test_a_fault_costs_the_work_of_that_round_and_is_counted(shared, fault, spoil):
    shared.transport.spoil = lambda node, question, content: (
        spoil(content) if node == 11 and question.kind == TRAIN else [content]
    )
    coordinator = shared.coordinate()
    coordinator.wait_for_users()
    state, report = coordinator.round(coordinator.start())
    (asked,) = cohorts(shared.algorithm, 1)
    spoiled = asked & set(SILOS[11])
    assert report.tally.faults == {fault: len(spoiled)}
    counted = asked if fault == "repeated" else asked - spoiled
    assert set(np.flatnonzero(np.asarray(state.counted_u) == 0).tolist()) == counted
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.public.params))
    assert any(line.startswith(fault) for line in shared.lines)


@pytest.mark.parametrize(
    ("host", "transforms", "wrong", "said"),
    [
        ("fcf", "", {"alpha": 1.1}, "weight 1 at most, as the settings say, found 1.1"),
        ("fedavg", "", {"alpha": 1e30}, "weight 24 at most, as the settings say, found 1e+30"),
        ("fedavg", "clip,noise", {"alpha": 2.0}, "weight 1 at most, as the settings say, found 2"),
        ("fcf", "clip", {"rows/views": 1.0}, "norm 0.2 at most, as the settings say, found"),
    ],
)
def test_an_upload_that_no_honest_client_sends_is_left_out(tmp_path, host, transforms, wrong, said):
    """A weight without a bound would make one upload the mean, and one that is not clipped would move it at will."""
    changes = {"aggregation__transforms": transforms, "aggregation__clip_norm": 0.2}
    federation = Federation(federation_settings(host__name=host, variant="base", **changes), tmp_path)
    federation.transport.spoil = lambda node, question, content: [
        changed(content, **{name: lambda x, y=y: np.full_like(x, y) for name, y in wrong.items()})
        if node == 11 and question.kind == TRAIN
        else content
    ]
    federation.coordinator.wait_for_users()
    _, report = federation.coordinator.round(federation.coordinator.start())
    (asked,) = cohorts(federation.algorithm, 1)
    spoiled = asked & set(SILOS[11])
    assert spoiled
    assert report.tally.faults == {"misfit": len(spoiled)}
    assert set(report.missed) == spoiled
    assert any(said in line for line in federation.lines)


def test_a_round_is_opened_again_until_somebody_answers(shared):
    misses = iter([True, True, False])
    shared.transport.spoil = lambda node, question, content: (
        [] if question.kind == TRAIN and misses_now() else [content]
    )
    state_of = {"round": None}

    def misses_now():
        if state_of["round"] is None or state_of["left"] == 0:
            state_of.update(round=next(misses), left=nodes_asked)
        state_of["left"] -= 1
        return state_of["round"]

    coordinator = shared.coordinate()
    coordinator.wait_for_users()
    (asked,) = cohorts(shared.algorithm, 1)
    nodes_asked = sum(bool(asked & set(users)) for users in SILOS.values())
    state, report = coordinator.round(coordinator.start())
    assert report.num_counted == len(asked)
    assert report.tally.faults == {"late": 2 * len(asked)}
    shared.transport.spoil = lambda node, question, content: [] if question.kind == TRAIN else [content]
    with pytest.raises(TrainingError, match="round 1: expected uploads, found none in 5 rounds in a row"):
        coordinator.round(state)


def test_a_silo_that_other_settings_or_users_is_refused_or_counted(shared, tmp_path):
    shared.transport.spoil = lambda node, question, content: [content]
    other = make_silo(federation_settings(host__name="fcf", variant="base", client__lr=0.5), tmp_path / "a", [0], "a")
    impostor = make_silo(shared.tree, tmp_path / "b", range(0, 1), "b")
    beyond = make_silo(shared.tree, tmp_path / "c", range(0, 1), "c")
    beyond._people = {6: beyond._people[0]}
    coordinator = shared.coordinate()
    coordinator.wait_for_users()
    tally, silos = new_tally(), dict(shared.silos)
    shared.transport.silos = silos | {44: other, 55: impostor, 66: beyond}
    coordinator.silos.refresh(1.0, tally)
    assert tally.faults == {"refused": 2, "claimed": 1}
    assert coordinator.silos._node_of[0] == 11
    assert any("client.lr: expected 0.5 as in this silo, found 0.3" in line for line in shared.lines)
    assert any("user 0: expected in silo silo11 alone, found in silo b as well" in line for line in shared.lines)
    # The same silo as another node takes its users with it.
    shared.transport.silos = {22: silos[22], 33: silos[33], 77: silos[11]}
    coordinator.silos.refresh(1.0, tally)
    assert coordinator.silos._node_of[0] == 77
    shared.transport.silos = silos


@pytest.mark.parametrize(("field", "found"), [("router__lr", 0.5), ("compute__precision", "bfloat16")])
def test_a_silo_that_would_train_otherwise_does_not_join(shared, tmp_path, field, found):
    servers, own = federation_settings(), federation_settings(**{field: found})
    silo = make_silo(own, tmp_path / "own", range(0, 2), "own")
    answer = silo.answer(Message(JOIN, {**sizes_of(DATASET)._asdict(), "settings": shared_settings(servers)}, {}))
    assert f"join: {field.replace('__', '.')}: expected {found!r} as in this silo" in answer.fields["reason"]


PRIVATE = {
    "host__name": "fcf",
    "variant": "base",
    "aggregation__transforms": "clip,local_noise",
    "privacy__target_epsilon": 8.0,
    "privacy__delta": 1e-3,
    "rounds": 100,
}


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("privacy__delta", 0.0),
        ("privacy__delta", 1e-2),
        ("privacy__target_epsilon", 1000.0),
        ("privacy__prior_share", 0.5),
        ("rounds", 1),
        ("server__sampling", "poisson"),
    ],
)
def test_a_silo_that_would_put_other_noise_on_its_uploads_does_not_join(shared, tmp_path, field, found):
    """It solves for the noise of its own: with other numbers it would send less, and nobody would see it."""
    servers, own = federation_settings(**PRIVATE), federation_settings(**PRIVATE | {field: found})
    silo = make_silo(own, tmp_path / "own", range(0, 2), "own")
    said = {**sizes_of(DATASET)._asdict(), "settings": shared_settings(servers)}
    for kind in (JOIN, TRAIN):  # every question says it, for silos start anew
        answer = silo.answer(Message(kind, said, {}))
        assert f"join: {field.replace('__', '.')}: expected {found!r} as in this silo" in answer.fields["reason"]


def test_the_rounds_of_a_silo_without_noise_may_be_others(shared, tmp_path):
    tree = federation_settings(host__name="fcf", variant="base", rounds=shared.tree["rounds"] + 1)
    silo = make_silo(tree, tmp_path / "own", range(0, 2), "own")
    assert silo.answer(shared.coordinate().silos._join).kind == JOIN


@pytest.fixture(scope="module")
def noised(tmp_path_factory):
    """A federation whose silos put noise on uploads, with the answers to train of its first round by node."""
    answers = {}

    def record(node, question, content):
        if question.kind == TRAIN:
            answers[node] = question, content
        return [content]

    federation = Federation(federation_settings(**PRIVATE), tmp_path_factory.mktemp("noised"), record)
    federation.coordinator.wait_for_users()
    state, report = federation.coordinator.round(federation.coordinator.start())
    return federation, answers, state, report


def test_what_a_client_sends_under_its_noise_has_no_other_number_of_its_history(noised):
    _, answers, state, report = noised
    for _, content in answers.values():
        sent = unpack(content).arrays
        assert (sent["loss"] == 0).all()
        assert (sent["alpha"] == 1).all()
        assert (sent["count"] == DATASET.num_items).all()
        assert (np.abs(sent["rows/views"]) > 0).mean() > 0.99
    assert np.isnan(report.loss)
    assert json_ready(line_of(report))["loss"] is None
    assert told(line_of(report), 3).startswith("round 1 of 3: 4 of 4 clients in ")
    assert report.num_counted == 4
    assert int(state.public.round) == 1


def again(silo, question, **changes):
    return silo.answer(question._replace(**changes))


def test_noise_answers_one_question_also_after_a_start(noised):
    """Else the difference of two answers would be that of two uploads without noise."""
    federation, answers, _, _ = noised
    node, (question, content) = min(answers.items())
    folder = federation.silos[node]._states.folder
    for silo in (federation.silos[node], make_silo(federation.tree, folder, SILOS[node], f"silo{node}")):
        assert pack(again(silo, question)) == content  # as a server asks that was killed in the middle of a round
        other = {name: x + 1 if name == "rows/views" else x for name, x in question.arrays.items()}
        forgetful = make_silo(federation.tree, folder, SILOS[node], f"silo{node}")
        forgetful._people = {user: x._replace(history=x.history[1:]) for user, x in silo._people.items()}
        for changed in (
            again(silo, question, arrays=other),
            again(forgetful, question),
            again(silo, question, arrays=question.arrays | {"counted": question.arrays["counted"] - 1}),
        ):
            assert "expected a round after 0, or the same question about that one again" in changed.fields["reason"]
        assert pack(again(silo, question)) == content  # a refusal notes nothing
    late = again(silo, question, fields={**question.fields, "round": 100})
    assert "round: expected one below 100, found 100" in late.fields["reason"]
    later = again(silo, question, fields={**question.fields, "round": 5})
    assert later.kind == TRAIN
    assert "expected a round after 5" in again(silo, question).fields["reason"]


def test_notes_that_cannot_be_read_are_no_empty_ones(noised, tmp_path):
    (tmp_path / "answered.json").write_text("{")
    with pytest.raises(ConfigError, match="expected what this silo has answered, found no JSON object; a new fed"):
        make_silo(noised[0].tree, tmp_path, SILOS[11], "own")


def test_a_round_that_silos_refuse_to_answer_again_passes(noised):
    federation, _, state, _ = noised
    federation.transport.spoil = lambda node, question, content: [content]
    coordinator = federation.coordinate()
    coordinator.wait_for_users()
    start = coordinator.start()._replace(public=coordinator.start().public.replace(params=state.public.params))
    moved, report = coordinator.round(start)  # a server that lost its checkpoint: another question about round 0
    assert report.tally.faults == {"refused": 4}
    assert int(moved.public.round) == 1
    jax.tree.map(np.testing.assert_array_equal, moved.public.params, start.public.params)
    assert coordinator.round(moved)[1].num_counted > 0
    federation.transport.spoil = lambda node, question, content: [] if question.kind == TRAIN else [content]
    for number in range(10, 14):
        state = state._replace(public=state.public.replace(round=jnp.int32(number)))
        assert coordinator.round(state)[1].num_counted == 0
    with pytest.raises(TrainingError, match="round 13: expected uploads, found none in 5 rounds in a row"):
        coordinator.round(state)


def test_a_silo_answers_twice_alike_and_goes_on_from_its_folder(shared, tmp_path):
    silo = make_silo(shared.tree, tmp_path / "own", range(0, 2), "own")
    shared.transport.spoil = lambda node, question, content: [content]
    coordinator = shared.coordinate()
    state = coordinator.start()
    join = coordinator.silos._join
    silo.answer(join)
    broadcast, _ = shared.algorithm.server.open_round(state.public, coordinator._content)

    def train(silo, round_, counted):
        state_ = state._replace(counted_u=jnp.full(6, counted))
        return pack(silo.answer(coordinator._question(TRAIN, broadcast, state_, {"round": round_})([0, 1])))

    first = train(silo, 0, -1)
    assert train(silo, 0, -1) == first
    second = train(silo, 1, 0)
    assert second != train(silo, 1, -1)  # round 0 did not count
    train(silo, 0, -1)
    again = make_silo(shared.tree, tmp_path / "own", range(0, 2), "own")
    assert train(again, 1, 0) == second  # its states are in the folder, and it needs no other message before
    lost = unpack(train(make_joined(shared, tmp_path / "empty", join), 1, 0))
    assert "expected the private state after round 0, found those after rounds []" in lost.fields["reason"]
    assert sorted(p.name for p in (tmp_path / "own" / "user-0").iterdir()) == ["round-0.npz", "round-1.npz"]


def make_joined(shared, folder, join):
    silo = make_silo(shared.tree, folder, range(0, 2), "own")
    silo.answer(join)
    return silo


def test_an_upload_that_is_not_finite_moves_nothing(shared, tmp_path):
    silo = make_joined(shared, tmp_path / "own", shared.coordinate().silos._join)
    state = shared.coordinate().start()
    broadcast, _ = shared.algorithm.server.open_round(state.public, shared.coordinator._content)
    question = shared.coordinator._question(TRAIN, broadcast, state, {"round": 0})([0])
    broken = question.arrays | {"rows/views": np.full_like(question.arrays["rows/views"], np.nan)}
    answer = silo.answer(question._replace(arrays=broken))
    assert not np.isfinite(answer.arrays["loss"]).all()
    fresh, kept = silo._state(silo._programs, 0, -1), silo._state(silo._programs, 0, 0)
    assert all(np.array_equal(fresh[name], kept[name]) for name in fresh)


CENTRAL = PRIVATE | {"aggregation__transforms": "clip,noise"}


def test_poisson_cohorts_are_those_of_a_simulation_also_empty_ones(tmp_path):
    """Each client with a probability of its own, as the accountant assumes; nobody's sum has noise as well."""
    tree = federation_settings(**CENTRAL | {"server__sampling": "poisson"})
    tree["server"]["clients_per_round"] = 1
    federation = Federation(tree, tmp_path)
    coordinator, algorithm = federation.coordinator, federation.algorithm
    coordinator.wait_for_users()
    state, reports = coordinator.start(), []
    for _ in range(ROUNDS + 3):
        state, report = coordinator.round(state)
        reports.append(report)
    start = jax.jit(algorithm.init)(jax.random.key(0))
    expected, info = jax.jit(algorithm.run, static_argnums=2)(start, client_data(DATASET), ROUNDS + 3)
    sizes = [report.num_clients for report in reports]
    assert sizes == info.num_clients.tolist()
    assert len(set(sizes)) > 1
    assert 0 in sizes
    assert not any(report.missed or report.tally.faults for report in reports)
    assert relative_difference(flat(state.public), flat(expected.public)) <= 1e-6
    assert relative_difference(federation.private(state), flat(expected.private)) <= 1e-6
    assert all(report.update_norm > 0 for report in reports)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"aggregation__transforms": "clip,noise", "aggregation__clip_quantile": 0.5},
            r"clip_quantile: expected 0 in a federation of processes .its messages carry no bound., found 0.5",
        ),
        (
            {"secure__sum": True, "aggregation__transforms": "clip", "secure__dropout": 0.2},
            r"secure.dropout: expected 0 in a federation of processes .its silos are lost by themselves., found 0.2",
        ),
        (
            CENTRAL | {"server__sampling": "poisson", "privacy__prior_share": 0.5},
            r"privacy.prior_share: expected 0 in a federation of processes .no prior is formed in it., found 0.5",
        ),
    ],
)
def test_what_is_simulated_alone_is_refused(changes, message):
    tree, parts = federation_settings(**changes), (content_of(DATASET), sizes_of(DATASET), LocalTransport({}))
    with pytest.raises(ConfigError, match=message):
        Coordinator(tree, make_algorithm(tree, DATASET), *parts, timing=Timing(), say=print)
