"""Secret sums in a federation: those of the uploads to the bit, whoever is lost, and what the server gets to see."""

from __future__ import annotations

import secrets

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import DATASET, Federation, federation_settings, make_silo
from problems import client_data, relative_difference
from scipy import stats

pytest.importorskip("cryptography", reason="secret sums need the extra secure: pip install cryptography")

from fedvlr_jax.deploy.export import flat, unflat
from fedvlr_jax.deploy.messages import ADVERTISE, JOIN, MASK, REVEAL, SHARE, TRAIN, pack, unpack
from fedvlr_jax.errors import TrainingError
from fedvlr_jax.federated.server import Aggregate

USERS = {11: range(0, 2), 22: range(2, 3), 33: range(3, 4), 44: range(4, 5), 55: range(5, 6)}
NODE_OF = {user: node for node, users in USERS.items() for user in users}
NUM_USERS, BOUND, BITS = DATASET.num_users, 0.2, 22
TREE = federation_settings(
    host__name="fcf", aggregation__transforms="clip", aggregation__clip_norm=BOUND, secure__sum=True
)
TREE["server"]["clients_per_round"] = NUM_USERS
PLAIN = TREE | {"secure": TREE["secure"] | {"sum": False}}


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """One federation for all tests; each takes later rounds of its own, for a silo answers for one sum a round."""
    federation = Federation(TREE, tmp_path_factory.mktemp("secret"), users=USERS)
    federation.coordinator.wait_for_users()
    return federation


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same users with the same draws, whose silos send uploads."""
    federation = Federation(PLAIN, tmp_path_factory.mktemp("plain"), users=USERS)
    federation.coordinator.wait_for_users()
    return federation


def state_at(federation, number):
    state = federation.coordinator.start()
    return state._replace(public=state.public.replace(round=jnp.int32(number)))


def words_of(federation, number, users):
    """The sum of the uploads of some users in words, by their definition: tables and head as they are published."""
    state = state_at(federation, number)
    broadcast, _ = federation.algorithm.server.open_round(state.public, federation.coordinator._content)
    question = federation.coordinator._question(TRAIN, broadcast, state, {"round": number})
    total = {name: np.zeros(x.shape, np.int32) for name, x in flat(broadcast).items()}
    for user in users:
        sent = federation.silos[NODE_OF[user]].answer(question([user])).arrays
        for name in total:
            whole = np.trunc(sent[name] * np.float32((1 << (BITS - 1)) / BOUND)).astype(np.int32)
            if name.startswith("rows/"):
                np.add.at(total[name], sent["ids"], whole)
            else:
                total[name] += whole.sum(axis=0)
    return {name: x.view(np.uint32) for name, x in total.items()}


def closed(federation, number, words):
    """The public state after a round whose sum is known."""
    state = state_at(federation, number)
    broadcast, pull_back = federation.coordinator._open(state.public, federation.coordinator._content)
    total = Aggregate(unflat(broadcast, words), jnp.float32(1), jnp.float32(0), jnp.int32(0))
    return federation.coordinator._close(state.public, pull_back, total)[0]


def losing(lost):
    """Silos that answer neither the question of this kind nor a later one in the round."""
    steps = (ADVERTISE, SHARE, MASK, REVEAL)

    def spoil(node, question, content):
        gone = node in lost and question.kind in steps[steps.index(lost[node]) :]
        return [] if gone else [content]

    return spoil


CASES = {
    "nobody": ({}, USERS),
    "before keys": ({33: ADVERTISE}, USERS.keys() - {33}),
    "before sharing keys": ({33: SHARE}, USERS.keys() - {33}),
    "after sharing keys": ({33: MASK}, USERS.keys() - {33}),
    "after its words": ({33: REVEAL}, USERS),
}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)))
def test_a_round_is_that_of_the_words_of_the_survivors_to_the_bit(secret, plain, number, case):
    lost, survivors = CASES[case]
    secret.transport.spoil = losing(lost)
    state, report = secret.coordinator.round(state_at(secret, number))
    counted = {user for node in survivors for user in USERS[node]}
    expected = closed(secret, number, words_of(plain, number, counted))
    jax.tree.map(np.testing.assert_array_equal, state.public, expected)
    assert relative_difference(flat(state.public.params), flat(secret.coordinator.start().public.params)) > 1e-4
    assert set(np.flatnonzero(np.asarray(state.counted_u) == number).tolist()) == counted
    assert set(report.missed) == set(range(NUM_USERS)) - counted
    assert report.tally.faults == ({"late": sum(len(USERS[node]) for node in lost)} if lost else {})


@pytest.mark.slow
def test_rounds_are_those_of_a_simulation_with_secret_sums(secret):
    secret.transport.spoil = losing({})
    simulated = jax.jit(secret.algorithm.init)(jax.random.key(0))
    simulated = simulated.replace(public=simulated.public.replace(round=jnp.int32(20)))
    state, run, data = state_at(secret, 20), jax.jit(secret.algorithm.run_cohort), client_data(DATASET)
    for _ in range(2):
        state, report = secret.coordinator.round(state)
        simulated, info = run(simulated, data)
        assert report.loss == pytest.approx(float(info.loss), abs=2 * 64 / (1 << (BITS - 1)))
    assert relative_difference(flat(state.public), flat(simulated.public)) <= 1e-6
    assert relative_difference(secret.private(state), flat(simulated.private)) <= 1e-6


def test_too_few_survivors_let_the_round_pass_without_a_step_and_are_counted(secret):
    secret.transport.spoil = losing({33: MASK, 44: MASK})
    coordinator, state = secret.coordinate(), state_at(secret, 40)
    coordinator.wait_for_users()
    for number in range(40, 44):
        moved, report = coordinator.round(state)
        assert int(moved.public.round) == number + 1
        jax.tree.map(np.testing.assert_array_equal, moved.public.params, state.public.params)
        assert (np.asarray(moved.counted_u) == -1).all()
        assert report.tally.faults == {"late": 2, "refused": 4, "unsummed": 4}
        assert (report.num_counted, report.update_norm, np.isnan(report.loss)) == (0, 0.0, True)
        state = moved
    with pytest.raises(TrainingError, match="round 44: expected a sum, found none in 5 rounds in a row"):
        coordinator.round(state)
    assert any("unsummed: round 40: 0 of 5 silos were left" in line for line in secret.lines)


def test_a_client_that_is_not_finite_is_left_out_and_the_others_of_its_silo_are_not(secret, plain):
    secret.transport.spoil, silo = losing({}), secret.silos[11]
    programs, calls = silo._programs, []

    def first_is_broken(*arguments):
        moved, upload, loss = programs.train(*arguments)
        calls.append(loss)
        return moved, upload, jnp.where(len(calls) == 1, jnp.nan, loss)

    silo._programs = programs._replace(train=first_is_broken)
    state, report = secret.coordinator.round(state_at(secret, 55))
    silo._programs = programs
    assert report.missed == [0]
    assert np.isfinite(report.loss)
    jax.tree.map(np.testing.assert_array_equal, state.public, closed(secret, 55, words_of(plain, 55, range(1, 6))))


@pytest.mark.parametrize(("number", "bad"), [(58, "zeros"), (59, "twice")])
def test_a_silo_with_keys_that_nobody_can_use_is_left_out_alone(secret, number, bad):
    """Its neighbours would have refused to go on, and one silo would have ended every sum."""

    def spoil(node, question, content):
        if node != 33 or question.kind != ADVERTISE:
            return [content]
        answer = unpack(content)
        masking = answer.arrays["masking"]
        other = {"sealing": np.zeros_like(masking) if bad == "zeros" else masking}
        return [pack(answer._replace(arrays={**answer.arrays, **other}))]

    secret.transport.spoil = spoil
    _, report = secret.coordinator.round(state_at(secret, number))
    assert report.missed == [3]
    assert report.tally.faults == {"misfit": 1}
    assert any("node 33: " in line and "public key" in line for line in secret.lines)


def test_two_silos_give_no_sum(secret):
    coordinator, silos = secret.coordinate(), secret.transport.silos
    coordinator.wait_for_users()
    secret.transport.spoil, secret.transport.silos = losing({}), {node: silos[node] for node in (11, 22)}
    _, report = coordinator.round(state_at(secret, 50))
    secret.transport.silos = silos
    assert report.tally.faults == {"absent": 3, "unsummed": 3}
    assert any("expected clients in 3 silos or more, found 2" in line for line in secret.lines)


def test_a_cohort_of_nobody_is_a_sum_of_nothing(secret, monkeypatch):
    monkeypatch.setattr(secret.coordinator, "_drawn", lambda words: np.zeros(0, int))
    state, report = secret.coordinator.round(state_at(secret, 57))
    assert (report.tally.faults, report.num_clients, report.update_norm) == ({}, 0, 0.0)
    nothing = {name: np.zeros_like(x) for name, x in words_of(secret, 57, []).items()}
    jax.tree.map(np.testing.assert_array_equal, state.public, closed(secret, 57, nothing))


def test_the_server_gets_uniform_words_and_no_secret(secret, plain, tmp_path):
    drawn, contents, seen, rng = set(), [], {}, np.random.default_rng(0)

    def random_bytes(count):
        drawn.add(found := rng.bytes(count))
        return found

    def record(node, question, content):
        contents.append(content)
        if question.kind == MASK:
            seen.setdefault(node, []).append(unpack(content).arrays["words"])
        return [content]

    secret.transport.spoil = record
    for silo in secret.silos.values():
        silo._part._random = random_bytes
    for number in (60, 61, 62, 63):
        secret.coordinator.round(state_at(secret, number))
    for silo in secret.silos.values():
        silo._part._random = secrets.token_bytes
    own = np.concatenate([np.ravel(x) for x in words_of(plain, 63, USERS[33]).values()])
    assert own[own != 0].size > 100
    for words in seen.values():
        assert words[0].size == own.size + 1
    masked = seen[33][-1][:-1]
    assert np.mean(masked == own) < 0.01
    pair = np.corrcoef(masked.view(np.int32), own.view(np.int32))[0, 1]
    assert abs(pair) < 6 / np.sqrt(own.size)
    for node in USERS:
        low = np.concatenate(seen[node]).view(np.uint8)
        assert stats.chisquare(np.bincount(low, minlength=256)).pvalue > 1e-4
    hidden = [x for x in drawn if len(x) != 12]  # nonces are sent
    assert len(hidden) > 4 * 3 * len(USERS)
    files = [path for silo in secret.silos.values() for path in silo._states.folder.rglob("*") if path.is_file()]
    assert files
    everything = b"".join([*contents, *(path.read_bytes() for path in files)])
    assert not any(x in everything for x in hidden)


def test_a_silo_that_was_started_again_is_lost_for_the_round_alone(secret, tmp_path):
    folder = secret.silos[33]._states.folder

    def restarts(node, question, content):
        if node == 33 and question.kind == SHARE:
            secret.silos[33] = make_silo(TREE, folder, USERS[33], "silo33")
        return [content]

    secret.transport.spoil = restarts
    state, report = secret.coordinator.round(state_at(secret, 70))
    assert report.missed == list(USERS[33])
    assert report.tally.faults == {"refused": 1}
    assert any("was it started again in the middle of the round?" in line for line in secret.lines)
    secret.transport.spoil = losing({})
    assert secret.coordinator.round(state)[1].missed == []


def test_a_round_is_summed_once_and_uploads_are_not_sent(secret, plain):
    secret.transport.spoil = losing({})
    secret.coordinator.round(state_at(secret, 80))
    _, report = secret.coordinator.round(state_at(secret, 80))
    assert report.tally.faults == {"refused": NUM_USERS}
    assert any("expected a round after 80, for this silo is in one sum a round" in x for x in secret.lines)
    silo = secret.silos[33]
    question = plain.coordinator._question(TRAIN, {}, state_at(plain, 0), {"round": 0})([3])
    assert "found 'train'" in silo.answer(question).fields["reason"]
    join = plain.coordinator.silos._join
    assert join.kind == JOIN
    assert "secure.sum: expected True as in this silo, found False" in silo.answer(join).fields["reason"]


@pytest.mark.parametrize("last", [MASK, REVEAL])
def test_a_silo_that_was_started_again_is_in_no_second_sum_of_a_round(secret, last):
    """Two sums of one round that differ in a silo would give its words away, also if one was not revealed."""
    number = {MASK: 83, REVEAL: 86}[last]
    lost = USERS if last == MASK else {}
    secret.transport.spoil = losing(dict.fromkeys(lost, REVEAL))  # masked words arrived, and the server was killed
    secret.coordinator.round(state_at(secret, number))
    for node, users in USERS.items():
        secret.silos[node] = make_silo(TREE, secret.silos[node]._states.folder, users, f"silo{node}")
    secret.transport.spoil = losing({33: ADVERTISE})
    for asked in (number, number - 1):
        state, report = secret.coordinator.round(state_at(secret, asked))
        assert report.tally.faults == {"late": 1, "refused": NUM_USERS - 1}
        assert (report.num_counted, int(state.public.round)) == (0, asked + 1)
    secret.transport.spoil = losing({})
    assert secret.coordinator.round(state_at(secret, number + 1))[1].missed == []


def test_a_silo_refuses_a_graph_that_would_give_it_away(secret):
    silo, said = secret.silos[33], secret.coordinator._question(MASK, {}, state_at(secret, 90), {"round": 90})([3])
    for peers, threshold in (([1], 1), ([1, 2, 3, 4], 2), ([0, 1, 2], 2), ([1, 1, 2], 2), ([1, 2], 3)):
        arrays = {
            "client": np.array(0, np.int32),
            "threshold": np.array(threshold, np.int32),
            "neighbour": np.array(peers, np.int32),
        }
        answer = silo.answer(said._replace(kind=ADVERTISE, arrays=arrays))
        assert "expected two neighbours or more and a threshold of more than half" in answer.fields["reason"]


@pytest.mark.parametrize(("share", "expected"), [(0.5, 4), (2 / 3, 4), (0.9, 6)])
def test_the_threshold_of_the_settings_is_that_of_the_shares(secret, monkeypatch, share, expected):
    told = {}

    def ask(sent, kind, seconds, tally, weight):
        told.setdefault(kind, [int(question.arrays["threshold"]) for question in sent.values()])
        return {}

    seven = {number: [number % NUM_USERS] for number in range(7)}  # neighbours are the six others
    monkeypatch.setattr(secret.coordinator.silos, "by_node", lambda users, tally: seven)
    monkeypatch.setattr(secret.coordinator.silos, "ask", ask)
    monkeypatch.setattr(secret.coordinator, "_threshold", share)
    state, report = secret.coordinator.round(state_at(secret, 90))
    assert told[ADVERTISE] == [expected] * 7
    assert report.num_counted == 0
    assert int(state.public.round) == 91
