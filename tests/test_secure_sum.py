"""The protocol of a secure sum: sums, drop-outs at every step, and what the server gets to see."""

from __future__ import annotations

import random
import re

import hypothesis
import numpy as np
import pytest
from commands import ROOT
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("cryptography", reason="the protocol needs the extra secure: pip install cryptography")

from fedvlr_jax.secure_sum import client, server, shamir
from fedvlr_jax.secure_sum.messages import ProtocolError, Request, make_setup
from fedvlr_jax.secure_sum.primitives import agreed_key, key_pair, mask_words, seal, unseal
from fedvlr_jax.secure_sum.simulate import STEPS, secure_sum

NUM_WORDS = 500
RNG = np.random.default_rng(0)
WORDS = {u: RNG.integers(0, 2**32, NUM_WORDS, dtype=np.uint32) for u in range(30)}


def random_bytes(seed: int = 0):
    """A source of bytes that repeats itself, for tests alone."""
    return random.Random(seed).randbytes


def plain_sum(clients) -> np.ndarray:
    return np.sum([WORDS[u] for u in clients], axis=0, dtype=np.uint32)


# ---- secrets


@hypothesis.given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
@hypothesis.settings(deadline=None, max_examples=50)
def test_enough_shares_give_the_secret_and_fewer_do_not(secret, threshold, more, seed):
    order = random.Random(seed)
    points = order.sample(range(1, 10_000), threshold + more)
    shares = shamir.split(secret, threshold, points, order.randbytes)
    some = dict(order.sample(sorted(shares.items()), threshold))
    assert shamir.join(some, threshold) == secret
    if threshold > 1:
        fewer = dict(list(some.items())[1:])
        assert shamir.join(fewer, threshold) is None
        assert shamir.join(fewer, threshold - 1) != secret


def test_the_field_of_the_shares_is_one():
    """Miller and Rabin's test with twenty bases, and no prime between it and the secrets."""
    odd = (shamir.PRIME - 1) >> 3
    assert odd << 3 == shamir.PRIME - 1
    for base in range(2, 22):
        value = pow(base, odd, shamir.PRIME)
        chain = [value := value * value % shamir.PRIME if k else value for k in range(3)]
        assert chain[0] == 1 or shamir.PRIME - 1 in chain
    assert shamir.PRIME > 1 << (8 * shamir.SECRET_BYTES)


def test_one_share_says_nothing_of_a_secret():
    """Over random polynomials a share is uniform, whatever the secret."""
    for secret in (bytes(32), b"\xff" * 32):
        shares = [shamir.split(secret, 2, [5, 9], random_bytes(k))[5][-1] for k in range(2000)]
        assert stats.chisquare(np.bincount(shares, minlength=256)).pvalue > 1e-4


def test_keys_agree_for_one_purpose_and_seals_are_for_one_reader_and_context():
    alice, bob = (key_pair(random_bytes(k)(32)) for k in range(2))
    key = agreed_key(alice.private, bob.public, b"mask")
    assert key == agreed_key(bob.private, alice.public, b"mask")
    assert key != agreed_key(bob.private, alice.public, b"seal")
    sealed = seal(key, bytes(12), b"message", b"1 2 3")
    assert unseal(key, sealed, b"1 2 3") == b"message"
    assert unseal(key, sealed, b"1 3 2") is None
    assert unseal(bytes(32), sealed, b"1 2 3") is None
    changed = bytes([*sealed[:-1], sealed[-1] ^ 1])
    assert unseal(key, changed, b"1 2 3") is None


def test_masks_of_two_keys_differ_in_every_bit_position():
    """Also where the keys differ in one bit: each of the 32 positions is an even coin, and of the 256 bits of a key
    none is without effect."""
    first = mask_words(bytes(32), 4096)
    for bit in range(256):
        key = (1 << bit).to_bytes(32, "big")
        different = first ^ mask_words(key, 4096)
        share = np.mean((different[:, None] >> np.arange(32, dtype=np.uint32)) & 1, axis=0)
        assert (np.abs(share - 0.5) < 6 * 0.5 / np.sqrt(4096)).all(), bit


# ---- sums


def test_the_sum_is_that_of_the_words():
    outcome = secure_sum(WORDS, degree=8)
    assert outcome.survivors == tuple(WORDS)
    np.testing.assert_array_equal(outcome.total, plain_sum(WORDS))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("degree", [18, 100])
def test_a_fifth_is_lost_at_any_step_and_the_sum_is_that_of_the_others(step, degree):
    lost = set(range(0, 30, 5))
    outcome = secure_sum(WORDS, degree=degree, lost={step: lost}, share=0.5)
    arrived = set(WORDS) if step == "reveal" else set(WORDS) - lost
    assert set(outcome.survivors) == arrived
    np.testing.assert_array_equal(outcome.total, plain_sum(arrived))


def test_some_are_lost_at_every_step():
    lost = {"advertise": [0], "share": [7, 8], "mask": [3, 15], "reveal": [20, 21]}
    outcome = secure_sum(WORDS, degree=14, lost=lost, share=0.5)
    arrived = set(WORDS) - {0, 7, 8, 3, 15}
    assert set(outcome.survivors) == arrived
    np.testing.assert_array_equal(outcome.total, plain_sum(arrived))


@pytest.mark.parametrize("lost", [{"mask": range(20)}, {"reveal": range(20)}, {"share": range(30)}])
def test_too_few_survivors_give_no_sum(lost):
    outcome = secure_sum(WORDS, degree=10, lost=lost)
    assert outcome.total is None


def test_what_the_server_sees_is_uniform_whatever_the_words_are():
    """Bytes of the masked words of clients that all send zeros, by chi-square; and two runs share no word."""
    runs = []
    for seed in range(2):
        setup = make_setup(range(12), round_=0, degree=6, num_words=4000, order=random.Random(0))
        begun = [client.advertise(u, setup, random_bytes(100 * seed + u)) for u in range(12)]
        known = server.route_adverts(setup, [advert for _, advert in begun])
        shared = {u: client.share(begun[u][0], known[u], random_bytes(900 + 100 * seed + u)) for u in range(12)}
        arrived = server.route_shares({u: sealed for u, (_, sealed) in shared.items()})
        zeros = np.zeros(4000, np.uint32)
        runs.append([client.mask(shared[u][0], arrived[u], zeros)[1].words for u in range(12)])
    seen = np.concatenate([*runs[0], *runs[1]])
    for shift in (0, 8, 16, 24):
        count = np.bincount((seen >> np.uint32(shift)) & 255, minlength=256)
        assert stats.chisquare(count).pvalue > 1e-4
    pairs = np.corrcoef(np.array([*runs[0], *runs[1]], np.float64)) - np.eye(24)
    assert np.abs(pairs).max() < 6 / np.sqrt(4000)


def test_the_example_of_the_page_runs(capsys):
    """Its fence is `py`, so that pages can be checked where the extra is missing."""
    (code,) = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs" / "privacy.md").read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/privacy.md", "exec"), {})
    survivors, _, numbers = capsys.readouterr().out.partition(")")
    assert survivors == "(0, 1, 2, 4, 5, 6, 7"
    np.testing.assert_allclose(np.fromstring(numbers.strip(" []\n"), sep=" "), np.linspace(-1.25, 1.25, 4), atol=1e-5)


# ---- the graph, and requests that nobody answers


@pytest.mark.parametrize(("size", "degree"), [(3, 1), (10, 4), (11, 4), (30, 29), (30, 100), (200, 13)])
def test_neighbours_are_mutual_and_the_graph_is_connected(size, degree):
    setup = make_setup(range(size), round_=0, degree=degree, num_words=1, order=random.Random(5))
    for u, peers in setup.neighbours.items():
        assert u not in peers
        assert len(set(peers)) == len(peers) >= min(degree, size - 1)
        assert all(u in setup.neighbours[v] for v in peers)
        assert len(peers) >= setup.threshold > len(peers) / 2
    reached, left = {0}, [0]
    while left:
        new = set(setup.neighbours[left.pop()]) - reached
        reached |= new
        left += new
    assert len(reached) == size


@pytest.mark.parametrize(("share", "expected"), [(2 / 3, 4), (0.9, 5), (0.6, 3), (0.61, 4), (0.5, 3), (1.0, 5)])
def test_no_fewer_neighbours_than_the_share_give_a_secret(share, expected):
    """Rounded down, fewer of them than was asked for could give a client's words away together."""
    setup = make_setup(range(6), round_=0, degree=5, num_words=1, order=random.Random(0), share=share)
    assert setup.threshold == expected
    assert expected >= share * 5 - 1e-9


def uploaded():
    """A client that has uploaded, and its neighbours."""
    setup = make_setup(range(5), round_=0, degree=4, num_words=3, order=random.Random(0))
    begun = {u: client.advertise(u, setup, random_bytes(u)) for u in range(5)}
    known = server.route_adverts(setup, [advert for _, advert in begun.values()])
    shared = {u: client.share(begun[u][0], known[u], random_bytes(50 + u)) for u in range(5)}
    arrived = server.route_shares({u: sealed for u, (_, sealed) in shared.items()})
    return begun, known, shared, arrived


def test_a_client_never_gives_both_secrets_of_another():
    *_, shared, arrived = uploaded()
    state, _ = client.mask(shared[0][0], arrived[0], np.zeros(3, np.uint32))
    revealed = client.reveal(state, Request((1, 2, 3), (4,)))
    assert not set(revealed.own_masks) & set(revealed.keys)
    for request in (Request((1, 2, 3), (3, 4)), Request((1, 2, 3, 9), (4,)), Request((1,), (2, 3, 4))):
        with pytest.raises(ProtocolError, match="client 0: expected"):
            client.reveal(state, request)


def test_messages_that_do_not_belong_are_refused():
    begun, known, shared, arrived = uploaded()
    with pytest.raises(ProtocolError, match="expected keys of its neighbours alone"):
        client.share(begun[0][0], [begun[0][1]], random_bytes())
    twice = [known[0][0]._replace(sealing=known[0][1].sealing), *known[0][1:]]
    with pytest.raises(ProtocolError, match="found one twice"):
        client.share(begun[0][0], twice, random_bytes())
    with pytest.raises(ProtocolError, match="expected 3 neighbours or more, found 2"):
        client.share(begun[0][0], known[0][:2], random_bytes())
    for public in (bytes(32), b"\x01" + bytes(31), bytes(31)):  # two of small order, and one that is cut short
        small = [known[0][0]._replace(sealing=public), *known[0][1:]]
        with pytest.raises(ProtocolError, match=f"not of small order, found {public.hex()}"):
            client.share(begun[0][0], small, random_bytes())
        with pytest.raises(ProtocolError, match="not of small order"):
            server.usable(known[0][0]._replace(masking=public))
    with pytest.raises(ProtocolError, match="client 1: expected two public keys, found one twice"):
        server.usable(known[0][0]._replace(masking=known[0][0].sealing))
    assert server.usable(known[0][0]) == known[0][0]
    words = np.zeros(3, np.uint32)
    short = arrived[0][0]._replace(sealed=b"short")
    with pytest.raises(ProtocolError, match="changed on their way"):
        client.mask(shared[0][0], [short, *arrived[0][1:]], words)
    with pytest.raises(ProtocolError, match="shares of its neighbours for itself"):
        client.mask(shared[0][0], arrived[1], words)
    broken = arrived[0][0]._replace(sealed=arrived[0][0].sealed[:-1] + b"?")
    with pytest.raises(ProtocolError, match="changed on their way"):
        client.mask(shared[0][0], [broken, *arrived[0][1:]], words)
    with pytest.raises(ProtocolError, match="expected 3 words"):
        client.mask(shared[0][0], arrived[0], np.zeros(3))
    with pytest.raises(ProtocolError, match="three clients or more"):
        make_setup(range(2), round_=0, degree=2, num_words=1, order=random.Random(0))
