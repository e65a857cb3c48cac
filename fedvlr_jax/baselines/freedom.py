"""FREEDOM: frozen item graphs and pruned interactions (Zhou and Shen, "A tale of two graphs: freezing and denoising
graph structures for multimodal recommendation", ACM MM 2023).

Items have an embedding that is propagated over a graph of the nearest items by features, which stays as it is, and
added to what LightGCN gives. LightGCN trains on a part of the interactions that is drawn anew in every epoch, with
fewer edges at popular nodes, and scores with all of them:

    p, q = LightGCN(users, items),    s_ui = p_u . (q_i + (sum_m share_m A_m) items_i)

Loss: BPR of s, plus weight times the BPR of p_u . W_m f_mi for every modality m. As published, the graph weighs looks
.1 and words .9, and the features are trained, too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from fedvlr_jax.baselines.batches import Triples
from fedvlr_jax.baselines.graph import Graph, interaction_graph, item_graphs, light_gcn, sum_nearest
from fedvlr_jax.baselines.layers import bpr_loss, glorot_uniform, init_linear, linear, modalities, take
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.baselines.pruning import prune
from fedvlr_jax.types import Array, Dataset, PyTree

LAYERS = 2  # of LightGCN; the item graph is applied once
KEPT = 0.2  # share of the interactions in an epoch


@struct.dataclass(kw_only=True)
class Inputs:
    """All that the model reads beside the batches. Axis e is train rows, the edges of `graph` in their order.

    Attributes:
      graph: the interactions [u, i].
      user_e, item_e: int32 [e], the ends of its edges.
      features: [i, f] by modality, where training starts.
      neighbours: the graph [i, i] of the nearest items by modality.
    """

    graph: Graph
    user_e: Array
    item_e: Array
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
        user_e=jnp.asarray(dataset.train_user, jnp.int32),
        item_e=jnp.asarray(dataset.train_item, jnp.int32),
        features={name: jnp.asarray(x_if, float) for name, x_if in found.items()},
        neighbours=item_graphs(dataset),
    )


def init(key: Array, inputs: Inputs, dim: int) -> PyTree:
    """Embeddings of ids, the features, and their projections."""
    names, graph = sorted(inputs.features), inputs.graph
    key_p, key_q, *keys = jax.random.split(key, 2 + len(names))
    return {
        "p_ud": glorot_uniform(key_p, (graph.num_targets, dim)),
        "q_id": glorot_uniform(key_q, (graph.num_sources, dim)),
        "features": inputs.features,
        "project": {
            name: init_linear(k, inputs.features[name].shape[1], dim) for k, name in zip(keys, names, strict=True)
        },
    }


def start_epoch(key: Array, inputs: Inputs, hyper: dict[str, Array]) -> Graph:
    """The interactions of an epoch."""
    return prune(key, inputs.graph, inputs.user_e, inputs.item_e, KEPT)


def loss(params: PyTree, inputs: Inputs, epoch: Graph, batch: Triples, key: Array, hyper: dict[str, Array]) -> Array:
    """The loss of the module's head on the interactions `epoch`; ``hyper`` holds ``weight``."""
    p_ud, q_id = _embed(params, inputs, epoch)
    p_bd = take(p_ud, batch.user)
    total = bpr_loss(p_bd, take(q_id, batch.positive), take(q_id, batch.negative), batch.weight)
    for name, x_if in sorted(params["features"].items()):
        positive, negative = (
            linear(params["project"][name], take(x_if, ids)) for ids in (batch.positive, batch.negative)
        )
        total += hyper["weight"] * bpr_loss(p_bd, positive, negative, batch.weight)
    return total


def represent(params: PyTree, inputs: Inputs) -> tuple[Array, Array]:
    """p_u and q_i + near_i over all interactions."""
    return _embed(params, inputs, inputs.graph)


def _embed(params: PyTree, inputs: Inputs, graph: Graph) -> tuple[Array, Array]:
    """p_u and q_i + near_i with the interactions that `graph` has; [u, d] and [i, d]."""
    near_id = sum_nearest(inputs.neighbours, params["q_id"])
    p_ud, q_id = light_gcn(graph, params["p_ud"], params["q_id"], LAYERS)
    return p_ud, q_id + near_id


freedom = Learner(
    prepare=prepare,
    init=init,
    loss=loss,
    represent=represent,
    start_epoch=start_epoch,
    grid=tuple({"lr": lr, "weight": weight} for lr in (1e-3, 5e-3) for weight in (0.0, 1e-2, 1.0)),
    needs_features=True,
)
