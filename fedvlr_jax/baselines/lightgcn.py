"""LightGCN: graph convolution without weights and activations (He et al., "LightGCN: simplifying and powering graph
convolution network for recommendation", SIGIR 2020).

s_ui = p_u . q_i of the mean over all layers, with the BPR loss and L2 on the embeddings of layer 0.
"""

from __future__ import annotations

import jax
from flax import struct

from fedvlr_jax.baselines.batches import Triples
from fedvlr_jax.baselines.graph import Graph, interaction_graph, light_gcn
from fedvlr_jax.baselines.layers import bpr_loss, glorot_uniform, squared_norm, take
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.types import Array, Dataset, PyTree


@struct.dataclass(kw_only=True)
class Inputs:
    """The interactions [u, i], and how often they are propagated."""

    graph: Graph
    layers: int = struct.field(pytree_node=False)


def prepare(dataset: Dataset, *, layers: int) -> Inputs:
    """The graph on the device."""
    return Inputs(graph=interaction_graph(dataset), layers=layers)


def init(key: Array, inputs: Inputs, dim: int) -> dict[str, Array]:
    """Embeddings of layer 0, Glorot uniform."""
    key_p, key_q = jax.random.split(key)
    graph = inputs.graph
    return {
        "p_ud": glorot_uniform(key_p, (graph.num_targets, dim)),
        "q_id": glorot_uniform(key_q, (graph.num_sources, dim)),
    }


def loss(
    params: dict[str, Array], inputs: Inputs, epoch: PyTree, batch: Triples, key: Array, hyper: dict[str, Array]
) -> Array:
    """BPR plus ``hyper["reg"]`` times the mean squared norm of the layer 0 of the batch."""
    p_ud, q_id = represent(params, inputs)
    user, positive, negative, weight = batch
    first = take(params["p_ud"], user), take(params["q_id"], positive), take(params["q_id"], negative)
    ranking = bpr_loss(take(p_ud, user), take(q_id, positive), take(q_id, negative), weight)
    return ranking + hyper["reg"] * squared_norm(weight, *first)


def represent(params: dict[str, Array], inputs: Inputs) -> tuple[Array, Array]:
    """The mean over all layers."""
    return light_gcn(inputs.graph, params["p_ud"], params["q_id"], inputs.layers)


lightgcn = Learner(
    prepare=prepare,
    init=init,
    loss=loss,
    represent=represent,
    static=("layers",),
    grid=tuple(
        {"layers": layers, "lr": lr, "reg": reg} for layers in (2, 3) for lr in (1e-3, 5e-3) for reg in (1e-4, 1e-2)
    ),
)
