"""FCF's client in plain NumPy, as a Python loop over clients would run it; gradients by hand, objective bce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.types import ClientData, Dataset, FedState


def covers(settings: dict[str, Any]) -> bool:
    """Whether `make_loop` knows this method."""
    known = settings["host"]["name"] == "fcf" and settings["variant"] in ("base", "fedvlr")
    return known and settings["objective"] == "bce" and settings["client"]["optimizer"] == "sgd"


def make_loop(
    settings: dict[str, Any], algorithm: Algorithm, dataset: Dataset, data: ClientData, state: FedState, clients: int
) -> Callable[[], None]:
    """The local update of `clients` clients, one after the other, negatives drawn with NumPy."""
    broadcast = algorithm.model.publish(state.public.params, data.content)
    views_ijd = np.asarray(broadcast.rows["views"])
    private = jax.tree.map(np.array, state.private.params)
    histories = split_by_user(dataset, dataset.train_item)
    chosen = np.linspace(0, dataset.num_users - 1, clients).round().astype(int)
    client, rng = settings["client"], np.random.default_rng(0)
    steps, lr, n = client["steps"], client["lr"], client["negatives"]

    def run() -> None:
        for u in chosen:
            history = histories[u]
            allowed = np.setdiff1d(np.arange(dataset.num_items), history)
            negatives_aln = rng.choice(allowed, (steps, history.size, n))
            w_d = private["theta"]["w"][u]
            phi = private["variant"].get("phi")
            layers = None if phi is None else jax.tree.map(lambda x, u=u: x[u], phi["params"])
            local_update(views_ijd, w_d, layers, history, negatives_aln, lr)

    return run


def local_update(
    views_ijd: np.ndarray,
    w_d: np.ndarray,
    layers: dict[str, Any] | None,
    history: np.ndarray,
    negatives_aln: np.ndarray,
    lr: float,
) -> tuple[np.ndarray, dict[str, Any] | None, np.ndarray]:
    """The steps of one client with plain SGD.

    Args:
      views_ijd: the broadcast views, [i, j, d].
      w_d: theta_u; layers: the router's parameters, or None for a single view.
      history: positives [l]; negatives_aln: [a, l, n].
      lr: rate.

    Returns:
      theta_u and the router after the steps, and the cotangent of the views [i, j, d] summed over the steps.
    """
    pooled_jd, total_ijd = views_ijd[history].mean(axis=0), np.zeros_like(views_ijd)
    h = pooled_jd.reshape(-1)
    pooled_ct = np.zeros_like(h)
    for negatives_ln in negatives_aln:
        ids = np.concatenate([history, negatives_ln.reshape(-1)])
        sign = np.concatenate([-np.ones(history.size), np.ones(negatives_ln.size)]).astype(w_d.dtype)
        rows_bjd = views_ijd[ids]
        z_d = None if layers is None else h @ layers["hidden"]["kernel"] + layers["hidden"]["bias"]
        w_j = np.ones(1, w_d.dtype) if layers is None else _router(layers, z_d)
        g_bd = np.einsum("j,bjd->bd", w_j, rows_bjd)
        slope_b = sign / (1 + np.exp(-sign * (g_bd @ w_d))) / ids.size
        np.add.at(total_ijd, ids, slope_b[:, None, None] * (w_j[:, None] * w_d))
        if layers is not None:
            layers, back = _router_step(layers, h, z_d, w_j, np.einsum("b,bjd,d->j", slope_b, rows_bjd, w_d), lr)
            pooled_ct += back
        w_d = w_d - lr * (slope_b @ g_bd)
    np.add.at(total_ijd, history, pooled_ct.reshape(pooled_jd.shape) / history.size)
    return w_d, layers, total_ijd


def _router(layers: dict[str, Any], z_d: np.ndarray) -> np.ndarray:
    logits_j = np.maximum(z_d, 0) @ layers["out"]["kernel"] + layers["out"]["bias"]
    e_j = np.exp(logits_j - logits_j.max())
    return e_j / e_j.sum()


def _router_step(
    layers: dict[str, Any], h: np.ndarray, z_d: np.ndarray, w_j: np.ndarray, ct_j: np.ndarray, lr: float
) -> tuple[dict[str, Any], np.ndarray]:
    """One SGD step of the router for the cotangent of its weights, and the cotangent of h."""
    logit_j = w_j * (ct_j - w_j @ ct_j)
    delta_d = (layers["out"]["kernel"] @ logit_j) * (z_d > 0)
    back = layers["hidden"]["kernel"] @ delta_d
    hidden = {
        "kernel": layers["hidden"]["kernel"] - lr * np.outer(h, delta_d),
        "bias": layers["hidden"]["bias"] - lr * delta_d,
    }
    out = {
        "kernel": layers["out"]["kernel"] - lr * np.outer(np.maximum(z_d, 0), logit_j),
        "bias": layers["out"]["bias"] - lr * logit_j,
    }
    return {"hidden": hidden, "out": out}, back
