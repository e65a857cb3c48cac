"""MGCN: multi-view graph convolution (Yu et al., "Multi-view graph convolutional network for multimedia
recommendation", ACM MM 2023).

Users and items have

* a user-item view: LightGCN over ids;
* one embedding for each modality m: of an item, its id embedding behind a gate that reads its features (purifier),
  q_i * sigmoid(Linear(Linear(f_mi))), propagated once to the nearest items by features; of a user, the sum over the
  train items with the weights of LightGCN.

Attention over the modalities gives their common part. What is specific to a modality, the rest, passes a gate that
reads the user-item view (the fuser). With M modalities

    side = (common + sum_m sigmoid(Linear_m(view)) * (e_m - common)) / (M + 1)
    s_ui = (view + side)_u . (view + side)_i.

Loss: BPR + reg L2 + contrast [InfoNCE(side, view) over the users and over the positive items of the batch].

The published code, run on KU with its own grid, has 36.8/15.0 (test HR@50/NDCG@50 in percent). At that code's rate,
0.001, this one is there from epoch 20 to 80, on a plateau of validation, and gains when training goes on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from fedvlr_jax.baselines.batches import Triples
from fedvlr_jax.baselines.contrast import info_nce
from fedvlr_jax.baselines.graph import Graph, interaction_graph, item_graphs, light_gcn, propagate
from fedvlr_jax.baselines.layers import (
    bpr_loss,
    glorot_uniform,
    init_linear,
    linear,
    modalities,
    squared_norm,
    take,
)
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.types import Array, Dataset, PyTree

LAYERS = 2  # of LightGCN


@struct.dataclass(kw_only=True)
class Inputs:
    """The interaction graph [u, i] and, by modality, features [i, f] and the graph of the nearest items [i, i]."""

    graph: Graph
    features: dict[str, Array]
    neighbours: dict[str, Graph]


def prepare(dataset: Dataset) -> Inputs:
    """Graphs and features on the device.

    Raises:
      DataError: if the set has no features.
    """
    found = modalities(dataset)
    return Inputs(
        graph=interaction_graph(dataset),
        features={name: jnp.asarray(x_if, float) for name, x_if in found.items()},
        neighbours=item_graphs(dataset),
    )


def init(key: Array, inputs: Inputs, dim: int) -> PyTree:
    """Id embeddings; attention; of each modality the projection and the gates of purifier and fuser."""
    key_p, key_q, key_query, key_attend, key_modal = jax.random.split(key, 5)
    keys = jax.random.split(key_modal, (len(inputs.features), 3))
    return {
        "p_ud": glorot_uniform(key_p, (inputs.graph.num_targets, dim)),
        "q_id": glorot_uniform(key_q, (inputs.graph.num_sources, dim)),
        "query": init_linear(key_query, dim, dim),
        "attend_d1": glorot_uniform(key_attend, (dim, 1)),
        "modal": {
            name: {
                "project": init_linear(k[0], x_if.shape[1], dim),
                "purify": init_linear(k[1], dim, dim),
                "prefer": init_linear(k[2], dim, dim),
            }
            for k, (name, x_if) in zip(keys, sorted(inputs.features.items()), strict=True)
        },
    }


def loss(params: PyTree, inputs: Inputs, epoch: PyTree, batch: Triples, key: Array, hyper: dict[str, Array]) -> Array:
    """The loss of the module's head; ``hyper`` holds ``reg`` and ``contrast``."""
    (view_ud, side_ud), (view_id, side_id) = _embed(params, inputs)
    item_id = view_id + side_id
    user_bd = take(view_ud + side_ud, batch.user)
    item_bd, other_bd = take(item_id, batch.positive), take(item_id, batch.negative)
    penalty = squared_norm(batch.weight, user_bd, item_bd, other_bd)
    contrast = info_nce(side_ud, view_ud, batch.user, batch.weight)
    contrast += info_nce(side_id, view_id, batch.positive, batch.weight)
    ranking = bpr_loss(user_bd, item_bd, other_bd, batch.weight)
    return ranking + hyper["reg"] * penalty + hyper["contrast"] * contrast


def represent(params: PyTree, inputs: Inputs) -> tuple[Array, Array]:
    """view + side of the users and of the items."""
    (view_ud, side_ud), (view_id, side_id) = _embed(params, inputs)
    return view_ud + side_ud, view_id + side_id


def _embed(params: PyTree, inputs: Inputs) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(view, side) of the users, and of the items."""
    view_ud, view_id = light_gcn(inputs.graph, params["p_ud"], params["q_id"], LAYERS)
    modal_id = {name: _purify(params, inputs, name) for name in sorted(inputs.features)}
    modal_ud = {name: propagate(inputs.graph, e_id) for name, e_id in modal_id.items()}
    return (view_ud, _fuse(params, view_ud, modal_ud)), (view_id, _fuse(params, view_id, modal_id))


def _purify(params: PyTree, inputs: Inputs, name: str) -> Array:
    """The embeddings of the items in one modality, [i, d]."""
    own = params["modal"][name]
    gate_id = jax.nn.sigmoid(linear(own["purify"], linear(own["project"], inputs.features[name])))
    return propagate(inputs.neighbours[name], params["q_id"] * gate_id)


def _fuse(params: PyTree, view_nd: Array, modal_nd: dict[str, Array]) -> Array:
    """The side of nodes n (users or items) from their user-item view and their embeddings by modality; [n, d].

    Modalities are not stacked into one array: XLA then computed the gates anew for every reader, at 2.4 times the
    time on a CPU.
    """
    logits_n1 = [jnp.tanh(linear(params["query"], e_nd)) @ params["attend_d1"] for e_nd in modal_nd.values()]
    attention_nm = jax.nn.softmax(jnp.concatenate(logits_n1, axis=1), axis=1)
    common_nd = sum(attention_nm[:, m : m + 1] * e_nd for m, e_nd in enumerate(modal_nd.values()))
    total_nd = common_nd
    for name, e_nd in modal_nd.items():
        gate_nd = jax.nn.sigmoid(linear(params["modal"][name]["prefer"], view_nd))
        total_nd = total_nd + gate_nd * (e_nd - common_nd)
    return total_nd / (len(modal_nd) + 1)


mgcn = Learner(
    prepare=prepare,
    init=init,
    loss=loss,
    represent=represent,
    grid=tuple({"lr": lr, "reg": 1e-4, "contrast": c} for c in (0.001, 0.01, 0.1) for lr in (2e-3, 5e-3)),
    needs_features=True,
)
