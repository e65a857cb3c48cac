"""MGCN and PGL once more: dense forward passes and losses in NumPy float64, and edge sampling by enumeration."""

from __future__ import annotations

import itertools

import numpy as np

NEIGHBOURS = 10


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense_linear(params, x):
    return x @ np.asarray(params["kernel_df"]).T + np.asarray(params["bias_d"])


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def adjacency(dataset, pairs=None):
    """[u, i], 1 / sqrt(degree_u degree_i) for the given pairs (all train rows)."""
    matrix = np.zeros((dataset.num_users, dataset.num_items))
    for u, i in zip(dataset.train_user, dataset.train_item, strict=True) if pairs is None else pairs:
        matrix[u, i] = 1
    return matrix / np.sqrt(np.outer(np.maximum(matrix.sum(1), 1), np.maximum(matrix.sum(0), 1)))


def dense_light_gcn(adjacency_ui, p, q):
    """Mean of x, A x and A^2 x with the square adjacency of users and items."""
    u, i = adjacency_ui.shape
    square = np.block([[np.zeros((u, u)), adjacency_ui], [adjacency_ui.T, np.zeros((i, i))]])
    x = np.vstack([p, q])
    return (x + square @ x + square @ square @ x) / 3


def dense_neighbours(features):
    """The nearest items by cosine, themselves among them, symmetric-normalised."""
    cosine = unit(features) @ unit(features).T
    kept = np.zeros_like(cosine)
    for i, row in enumerate(cosine):
        for j in sorted(range(len(row)), key=lambda j: -row[j])[:NEIGHBOURS]:
            kept[i, j] = max(row[j], 0)
    total = kept.sum(axis=1)
    return kept / np.sqrt(np.outer(total, total))


def modalities_of(dataset):
    return {name: x for name, x in (("text", dataset.C), ("visual", dataset.V)) if x is not None}


def mgcn_oracle(params, dataset):
    """(view, side), users before items."""
    p, q = np.asarray(params["p_ud"]), np.asarray(params["q_id"])
    view, embedded, logits = dense_light_gcn(adjacency(dataset), p, q), {}, []
    for name, features in modalities_of(dataset).items():
        layers = params["modal"][name]
        gate = sigmoid(dense_linear(layers["purify"], dense_linear(layers["project"], features)))
        item = dense_neighbours(features) @ (q * gate)
        embedded[name] = np.vstack([adjacency(dataset) @ item, item])
        logits.append(np.tanh(dense_linear(params["query"], embedded[name])) @ np.asarray(params["attend_d1"])[:, 0])
    weight = np.exp(logits) / np.exp(logits).sum(axis=0)
    common = sum(w[:, None] * e for w, e in zip(weight, embedded.values(), strict=True))
    specific = [
        sigmoid(dense_linear(params["modal"][name]["prefer"], view)) * (e - common) for name, e in embedded.items()
    ]
    return view, (sum(specific) + common) / (len(embedded) + 1)


def pgl_oracle(params, dataset, adjacency_ui):
    """Users before items."""
    features = modalities_of(dataset)
    p = np.hstack([np.asarray(params["user"][name]) for name in features])
    moved = [dense_linear(params["project"][name], np.asarray(params["features"][name])) for name in features]
    q = np.hstack([unit(x) for x in moved])
    share = {"visual": 0.1, "text": 0.9} if len(features) == 2 else dict.fromkeys(features, 1.0)
    near = sum(share[name] * dense_neighbours(x) for name, x in features.items()) @ q
    found = dense_light_gcn(adjacency_ui, p, q)
    found[dataset.num_users :] += near
    return found


def info_nce_oracle(a, b, ids, weight):
    """Row by row of the batch, as it is written."""
    rows = [k for k, w in zip(np.asarray(ids).tolist(), weight, strict=True) if w]
    a, b = unit(a), unit(b)
    terms = [-np.log(np.exp(a[k] @ b[k] / 0.2) / sum(np.exp(a[k] @ b[l] / 0.2) for l in rows)) for k in rows]
    return np.mean(terms)


def rows_of(batch):
    return [tuple(map(int, row[:3])) for row in zip(*map(np.asarray, batch), strict=True) if row[3]]


def bpr_oracle(user, item, batch):
    return np.mean([-np.log(sigmoid(user[u] @ item[i] - user[u] @ item[j])) for u, i, j in rows_of(batch)])


def mgcn_loss_oracle(params, dataset, batch, hyper):
    view, side = mgcn_oracle(params, dataset)
    cut = dataset.num_users
    user, item = (view + side)[:cut], (view + side)[cut:]
    norm = np.mean([sum(x @ x for x in (user[u], item[i], item[j])) / 2 for u, i, j in rows_of(batch)])
    contrast = info_nce_oracle(side[:cut], view[:cut], batch.user, batch.weight)
    contrast += info_nce_oracle(side[cut:], view[cut:], batch.positive, batch.weight)
    return bpr_oracle(user, item, batch) + hyper["reg"] * norm + hyper["contrast"] * contrast


def pgl_loss_oracle(params, dataset, batch, hyper, adjacency_ui, masks):
    """`masks` are the dropout masks of the four views, in the order users, users, items, items."""
    found = pgl_oracle(params, dataset, adjacency_ui)
    user, item = found[: dataset.num_users], found[dataset.num_users :]
    contrast = info_nce_oracle(user * masks[0], user * masks[1], batch.user, batch.weight)
    contrast += info_nce_oracle(item * masks[2], item * masks[3], batch.positive, batch.weight)
    return bpr_oracle(user, item, batch) + hyper["contrast"] * contrast / 2


def inclusion_probabilities(weight, size):
    """Of drawing `size` items one by one without replacement, each with probabilities proportional to weight."""
    found = np.zeros(len(weight))
    for order in itertools.permutations(range(len(weight)), size):
        left, probability = weight.sum(), 1.0
        for k in order:
            probability *= weight[k] / left
            left -= weight[k]
        found[list(order)] += probability
    return found


def freedom_oracle(params, dataset, adjacency_ui):
    """p_u, then q_i with what the nearest items have."""
    p, q = np.asarray(params["p_ud"]), np.asarray(params["q_id"])
    share = {"text": 0.9, "visual": 0.1}
    found = modalities_of(dataset)
    total = sum(share[name] for name in found)
    near = sum(share[name] / total * dense_neighbours(x) @ q for name, x in found.items())
    both = dense_light_gcn(adjacency_ui, p, q)
    both[dataset.num_users :] += near
    return both


def multvae_oracle(params, history, noise):
    """Scores, and mean and log variance of z, for z = mean + noise * deviation."""
    length = np.sqrt(np.maximum((history**2).sum(axis=1, keepdims=True), 1e-12))
    hidden = np.tanh(dense_linear(params["read"], history / length))
    mean, log_var = np.split(dense_linear(params["encode"], hidden), 2, axis=1)
    z = mean + noise * np.exp(log_var / 2)
    return dense_linear(params["write"], np.tanh(dense_linear(params["decode"], z))), mean, log_var
