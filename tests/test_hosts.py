"""Every host in every variant: one round against Algorithm 1 written naively, client by client, in float64."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import clients_of, drawn_negatives, late_state
from problems import (
    HOST_NAMES,
    VARIANT_NAMES,
    client_data,
    histories,
    relative_difference,
    settings,
    spread,
    tiny_dataset,
)

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.federated import sampling

ROUND, STEPS, NEGATIVES, LR, TABLE_LR, SERVER_LR = 5, 2, 3, 0.3, 0.2, 0.05
L2, SERVER_L2, ADDITIVE, SPARSITY, DISTIL = 0.02, 0.03, 0.4, 0.01, 0.7
QKV = ("query", "key", "value")
THREE = {"num_users": 3, "num_items": 20, "dtype": np.float64, "longest": 2}
"""Three clients with two lengths of history: the naive formulas are compiled once for each length."""


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def naive_views(variant, public, V, C):
    """List of [i, d] views of a variant."""
    if variant in ("base", "vbpr", "gfmfr"):
        return [public["D"]] if "D" in public else []
    tokens = (public["D"], dense(public["project"]["V"]["params"], V), dense(public["project"]["C"]["params"], C))
    if variant == "attention":
        return [naive_attention(tokens, public["gamma"]["attention"]["params"]["attention"])]
    joint, gamma = jnp.hstack(tokens), {name: layers.get("params") for name, layers in public["gamma"].items()}
    mlp = dense(gamma["mlp"]["out"], relu(dense(gamma["mlp"]["hidden"], joint)))
    if variant == "mlp":
        return [mlp]
    gated = [
        x * jax.nn.sigmoid(dense(gamma["gate"][f"gate_{name}"], x)) for name, x in zip("DVC", tokens, strict=True)
    ]
    return [sum(tokens), mlp, dense(gamma["gate"]["out"], jnp.hstack(gated))]


def naive_attention(tokens, layers):
    """The mean over an item's three tokens of what each of them attends to, [i, d]."""
    projected = [[jnp.einsum("id,dhk->ihk", x, layers[n]["kernel"]) + layers[n]["bias"] for x in tokens] for n in QKV]
    attended = 0
    for query in projected[0]:
        logits = jnp.stack([(query * key).sum(axis=-1) / np.sqrt(key.shape[-1]) for key in projected[1]])
        weights = jax.nn.softmax(logits, axis=0)
        attended += sum(w[..., None] * value for w, value in zip(weights, projected[2], strict=True)) / 3
    return jnp.einsum("ihk,hkd->id", attended, layers["out"]["kernel"]) + layers["out"]["bias"]


def naive_teacher(groups, private, V, C):
    """What the groups of a client say of all items, t_ui [i]."""
    layers, t = groups["params"], 0
    tokens = [dense(layers["visual"], V), dense(layers["textual"], C)]
    for k, share in enumerate(jax.nn.softmax(private["group"])):
        x = jnp.hstack([jnp.tile(layers["embedding"][k], (len(V), 1)), *tokens])
        fused = dense(layers["fusion"]["out"], relu(dense(layers["fusion"]["hidden"], x)))
        t += share * (fused @ layers["head"][k] + layers["bias"][k])
    return t


def naive_items(variant, public, private, V, C, history):
    """g_i of all items, [i, d], or 0 where the variant adds nothing; and the bonus on the score, [i]."""
    views = naive_views(variant, public, V, C)
    if variant == "fedvlr":
        layers = private["phi"]["params"]
        h = jnp.concatenate([view[history].mean(axis=0) for view in views])
        w = jax.nn.softmax(dense(layers["out"], relu(dense(layers["hidden"], h))))
        views = [sum(w[j] * view for j, view in enumerate(views))]
    bonus = jnp.hstack([V, C]) @ public["project_E"]["params"]["kernel"] @ private["psi"] if variant == "vbpr" else 0
    return (views[0] if views else 0), bonus


def relu(x):
    """max(x, 0) with slope 0 at 0, where a layer stands whose inputs are all switched off and whose bias is 0."""
    return jnp.where(x > 0, x, 0)


def naive_score(host, g, public, private):
    """s_ui of all items, [i], by the formulas of the papers."""
    theta = private["theta"]
    if host in ("fcf", "fedprior"):
        return g @ theta["w"]
    if host in ("fedavg", "pfedrec"):
        return g @ theta["w"] + theta["b"]
    if host == "fedrap":
        return (g + private["item_table"]) @ theta["w"] + theta["b"]
    P, Q, layers = public["tables"]["P"] + g, public["tables"]["Q"] + g, public["head"]
    x = jnp.hstack([jnp.tile(theta["q"], (len(Q), 1)), Q])
    for depth in range(3):
        x = relu(dense(layers[f"layer_{depth}"], x))
    return dense(layers["out"], jnp.hstack([x, theta["p"] * P]))[:, 0]


def naive_bce(s, history, negatives):
    """Mean over the positives and negatives of a step."""
    losses = jnp.concatenate([jnp.log(jax.nn.sigmoid(s[history])), jnp.log(jax.nn.sigmoid(-s[negatives]))])
    return -losses.mean()


def naive_loss(host, variant, public, private, V, C, history, negatives):
    """Objective bce of one client in one step, with all regularisers."""
    g, bonus = naive_items(variant, public["variant"], private["variant"], V, C, history)
    s = naive_score(host, g, public["host"], private) + bonus
    used = jnp.concatenate([history, negatives])
    loss = naive_bce(s, history, negatives)
    if variant == "gfmfr":
        t = naive_teacher(public["variant"]["groups"], private["variant"], V, C)
        p = jax.lax.stop_gradient(jax.nn.softmax(t[used]))
        loss += naive_bce(t, history, negatives) + DISTIL * (p * jnp.log(p / jax.nn.softmax(s[used]))).sum()
    small = {k: v for k, v in private.items() if k != "item_table"}
    loss += L2 / 2 * sum(jnp.sum(x**2) for x in jax.tree.leaves(small))
    if host == "fedrap":
        own = private["item_table"]
        distance = ((own - public["variant"]["D"]) ** 2).sum(axis=1)
        loss += -ADDITIVE * jnp.tanh(ROUND / 10) * distance[used].mean() + L2 / 2 * (own**2).sum(axis=1)[used].mean()
    return loss


def naive_penalty(host, public):
    """What the server adds to the clients' losses."""
    value = SERVER_L2 / 2 * sum(jnp.sum(x**2) for x in jax.tree.leaves(public))
    if host == "fedrap":
        value += SPARSITY * jnp.tanh(ROUND / 10) * jnp.abs(public["variant"]["D"]).sum()
    return value


def moved(tree, step, direction):
    """``tree + step direction``, in NumPy."""
    return jax.tree.map(lambda x, of: np.asarray(x) + step * np.asarray(of), tree, direction)


def naive_round(host, variant, public, privates, dataset, draws, item_lr):
    """Algorithm 1: public parameters after the round, private ones of every client, mean loss, and update norm."""
    gradient = jax.jit(jax.value_and_grad(lambda *args: naive_loss(host, variant, *args), (0, 1)))
    rows = histories(dataset)

    def client(public, private, *inputs, draws):
        """The private parameters and the summed upload of one client, and its mean loss."""
        upload, losses = jax.tree.map(np.zeros_like, public), []
        for drawn in draws:
            at = moved(public, -item_lr, upload)
            loss, (g_public, g_private) = gradient(at, private, *inputs, drawn)
            private = {
                name: moved(x, -TABLE_LR if name == "item_table" else -LR, g_private[name])
                for name, x in private.items()
            }
            if host == "pfedrec":
                _, (g_public, _) = gradient(at, private, *inputs, drawn)
            upload, losses = moved(upload, 1, g_public), [*losses, loss]
        return private, upload, sum(losses) / STEPS

    def server(public, uploads):
        total = jax.jit(jax.grad(lambda p: naive_penalty(host, p)))(public)
        for share, upload in zip(alpha / alpha.sum(), uploads, strict=True):
            total = moved(total, share, upload)
        norm = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(total)))
        return moved(public, -SERVER_LR, total), norm

    alpha = np.array([len(row) if host == "fedavg" else 1 for row in rows], float)
    features = (jnp.asarray(dataset.V), jnp.asarray(dataset.C))
    ends = [client(public, p, *features, rows[u], draws=draws[u]) for u, p in enumerate(privates)]
    stepped, uploads, losses = zip(*ends, strict=True)
    new_public, norm = server(public, uploads)
    return new_public, stepped, np.dot(alpha, losses) / alpha.sum(), norm


def set_up(dataset, host, variant, **overrides):
    """The algorithm and a state in round `ROUND`, with private item tables that are not zero."""
    common = {"client__l2": L2, "server__l2": SERVER_L2, "host__table_lr": TABLE_LR}
    common |= {"fusion__groups": 2, "fusion__distil": DISTIL}
    common |= {"host__additive_weight": ADDITIVE, "host__sparsity_weight": SPARSITY}
    algorithm = make_algorithm(settings(host__name=host, variant=variant, **common, **overrides), dataset)
    return algorithm, late_state(algorithm, ROUND)


def check_round(host, variant, *, item_lr=0.0, **overrides):
    """Runs one round and its naive counterpart from one state, and compares how everything moved."""
    dataset = tiny_dataset(**THREE)
    algorithm, start = set_up(dataset, host, variant, **overrides)
    private, data = start.private.params, client_data(dataset)
    end, info = jax.jit(algorithm.run, static_argnums=2)(start, data, 1)

    privates = clients_of(private, dataset)
    draws = drawn_negatives(dataset, data, start.key, ROUND, steps=STEPS, negatives=NEGATIVES)
    with jax.numpy_rank_promotion("allow"):
        new_public, stepped, loss, norm = naive_round(
            host, variant, start.public.params, privates, dataset, draws, item_lr
        )
    expected = (new_public, jax.tree.map(lambda *x: np.stack(x), *stepped))
    before, after = (start.public.params, private), (end.public.params, end.private.params)
    for now, naive, old in zip(after, expected, before, strict=True):
        assert relative_difference(moved(now, -1, old), moved(naive, -1, old)) <= 1e-11
    np.testing.assert_allclose([info.loss[0], info.update_norm[0]], [loss, norm], rtol=1e-11)
    assert (int(end.public.round), int(info.num_clients[0]), int(info.num_dropped[0])) == (ROUND + 1, 3, 0)


TRAINED = [host for host in HOST_NAMES if host != "fedblend"]  # which learns from evidence, see test_fedblend.py
COVERING = [("fcf", "fedvlr"), ("fedncf", "base")]


@pytest.mark.parametrize(("host", "variant"), spread(itertools.product(TRAINED, VARIANT_NAMES), COVERING))
def test_a_round_equals_algorithm_1_in_float64(host, variant):
    with jax.enable_x64(True):
        check_round(host, variant, compute__path="uploads")


@pytest.mark.slow
def test_a_teacher_learns_in_one_backward_pass_of_all_clients():
    with jax.enable_x64(True):
        check_round("fcf", "gfmfr", compute__path="fused")


@pytest.mark.parametrize("host", spread(["fedavg", "pfedrec"], ["pfedrec"]))
def test_items_that_move_between_local_steps(host):
    with jax.enable_x64(True):
        check_round(host, "base", item_lr=0.7, client__move_items=True, client__item_lr=0.7)


@pytest.mark.parametrize(("host", "variant"), spread(itertools.product(TRAINED, VARIANT_NAMES), COVERING))
def test_scores_equal_the_formulas_in_float64(host, variant):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        dataset = tiny_dataset(**THREE)
        algorithm, state = set_up(dataset, host, variant, host__tune_steps=0)
        data, public = client_data(dataset), state.public.params
        score = jax.jit(lambda state, bucket: algorithm.score(algorithm.snapshot(state, data.content), bucket))

        @jax.jit
        def naive(public, private, V, C, history):
            g, bonus = naive_items(variant, public["variant"], private["variant"], V, C, history)
            return naive_score(host, g, public["host"], private) + bonus

        for u, private in enumerate(clients_of(state.private.params, dataset)):
            history = histories(dataset)[u]
            expected = naive(public, private, *data.content, history)
            found = score(state, data.buckets[0])[data.buckets[0].user.tolist().index(u)]
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["bce", "softmax"])
def test_pfedrec_scores_after_gradient_steps_on_its_own_rows(objective):
    with jax.enable_x64(True):
        dataset = tiny_dataset(num_users=3, num_items=20, dtype=np.float64)
        tuning = {"host__tune_steps": 2, "host__tune_lr": 0.7, "objective": objective, "client__holdout": 0.0}
        algorithm, state = set_up(dataset, "pfedrec", "base", **tuning)
        data, D = client_data(dataset), state.public.params["variant"]["D"]
        (bucket,) = data.buckets
        found = jax.jit(lambda state: algorithm.score(algorithm.snapshot(state, data.content), bucket))(state)
        for u, private in enumerate(clients_of(state.private.params, dataset)):
            history, (w, b) = histories(dataset)[u], (private["theta"]["w"], private["theta"]["b"])
            client = jax.random.fold_in(sampling.stream(state.key, sampling.TUNE), u)
            drawn = sampling.sample_negatives(client, bucket.history[u], dataset.num_items, 2, NEGATIVES)

            def loss(rows, negatives, history=history, w=w, b=b):
                s = rows @ w + b
                if objective == "softmax":
                    return (jnp.log(jnp.exp(s).sum()) - s[history]).mean()
                signed = jnp.concatenate([s[history], -s[negatives]])
                return -jnp.log(jax.nn.sigmoid(signed)).mean()

            rows = D
            for a in range(2):
                rows = rows - 0.7 * jax.jit(jax.grad(loss))(rows, drawn[a, : len(history)].reshape(-1))
            np.testing.assert_allclose(found[u], rows @ w + b, rtol=1e-10, atol=1e-12)


def test_fcf_solves_its_user_factor_before_scoring():
    with jax.enable_x64(True):
        dataset = tiny_dataset(num_users=3, num_items=20, dtype=np.float64)
        weights = {"host__confidence": 3.0, "host__ridge": 0.5}
        algorithm, state = set_up(dataset, "fcf", "base", objective="squared", **weights)
        data, D = client_data(dataset), np.asarray(state.public.params["variant"]["D"])
        (bucket,) = data.buckets
        found = jax.jit(lambda state: algorithm.score(algorithm.snapshot(state, data.content), bucket))(state)
        for u, history in enumerate(histories(dataset)):
            r = np.isin(np.arange(20), history).astype(float)
            C = np.diag(1 + 3 * r)
            np.testing.assert_allclose(found[u], D @ np.linalg.solve(D.T @ C @ D + 0.5 * np.eye(8), D.T @ C @ r))
