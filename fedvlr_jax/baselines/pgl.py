"""PGL: principal graph learning (Yu et al., "Mind individual information! Principal graph learning for multimedia
recommendation", AAAI 2025).

An item is its projected features, one unit vector for each modality, side by side; a user has a free vector for each
of these parts. As in the published code, the features are trained, too; they start at what the set has. (On KU that
moves HR@50 on the test rows from 50 to 56 %, and NDCG@50 on validation from 37.1 to 37.3 %.) Both pass LightGCN, and
items add what the nearest items by the given features have:

    p, q = LightGCN(users, items),    near = sum_m share_m A_m items,    s_ui = p_u . (q_i + near_i)

with the graph A_m of the nearest items, share 0.1 of the visual and 0.9 of the textual one. Scoring uses the whole
interaction graph; training only a principal part of it, of one of two kinds:

* ``local``: in every epoch 30 % of the edges, drawn without replacement with probabilities proportional to
  1 / sqrt(degree_u degree_i), and weighted anew by the degrees that are left;
* ``global``: the part of the normalised adjacency in its largest singular values, without small entries.

Loss: BPR + contrast [InfoNCE between two dropout views, mean of that over users and that over positive items].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from flax import struct

from fedvlr_jax.baselines.batches import Triples
from fedvlr_jax.baselines.contrast import info_nce
from fedvlr_jax.baselines.graph import Graph, interaction_graph, item_graphs, light_gcn, make_graph, sum_nearest
from fedvlr_jax.baselines.layers import (
    bpr_loss,
    dropout,
    glorot_uniform,
    init_linear,
    linear,
    modalities,
    take,
    unit_rows,
)
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.baselines.pruning import prune
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.types import Array, Dataset, PyTree

KINDS = ("local", "global")
KEPT = 0.3  # share of the edges in a local subgraph
RANK = 16  # singular values of a global subgraph
DROPOUT = 0.3
LAYERS = 2  # of LightGCN


@struct.dataclass(kw_only=True)
class Inputs:
    """All that the model reads beside the batches. Axis e is train rows, the edges of `graph` in their order.

    Attributes:
      graph: the interactions [u, i].
      user_e, item_e: int32 [e], the ends of the edges of `graph`.
      principal: the global subgraph [u, i], or None where subgraphs are local.
      features: [i, f] by modality, where training starts.
      neighbours: the graph [i, i] of the nearest items by modality.
    """

    graph: Graph
    user_e: Array
    item_e: Array
    principal: Graph | None
    features: dict[str, Array]
    neighbours: dict[str, Graph]


def prepare(dataset: Dataset, *, kind: str) -> Inputs:
    """Graphs and features on the device.

    Args:
      dataset: its train rows and features are read.
      kind: of the principal subgraph, one of `KINDS`.

    Raises:
      ConfigError: for another kind.
      DataError: if the set has no features.
    """
    if kind not in KINDS:
        raise ConfigError(f"pgl.kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    found = modalities(dataset)
    return Inputs(
        graph=interaction_graph(dataset),
        user_e=jnp.asarray(dataset.train_user, jnp.int32),
        item_e=jnp.asarray(dataset.train_item, jnp.int32),
        principal=low_rank_graph(dataset, RANK) if kind == "global" else None,
        features={name: jnp.asarray(x_if, float) for name, x_if in found.items()},
        neighbours=item_graphs(dataset),
    )


def low_rank_graph(dataset: Dataset, rank: int) -> Graph:
    """The largest entries of the best approximation of rank `rank` to the normalised adjacency.

    As many as there are train rows are kept, by absolute value, and all that equal the smallest of these. They may
    join a user to an item that is not in the history. (The published code multiplies the largest singular values by
    small ones and drops entries below 0.001, which on KU leaves six times as many.)

    Args:
      dataset: its train rows are read.
      rank: singular values that are used, at least 1; more than there are means all.
    """
    degree_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    degree_i = np.bincount(dataset.train_item, minlength=dataset.num_items)
    weight_e = 1 / np.sqrt(degree_u[dataset.train_user] * degree_i[dataset.train_item].astype(np.float64))
    shape = (dataset.num_users, dataset.num_items)
    adjacency_ui = scipy.sparse.csr_array((weight_e, (dataset.train_user, dataset.train_item)), shape=shape)
    if rank < min(shape):
        left_ur, value_r, right_ri = scipy.sparse.linalg.svds(adjacency_ui, k=rank, v0=np.ones(min(shape)))
    else:
        left_ur, value_r, right_ri = np.linalg.svd(adjacency_ui.toarray(), full_matrices=False)
    entry_ui = ((left_ur * value_r[None]) @ right_ri).astype(np.float32)
    size_ui = np.abs(entry_ui)
    limit = np.partition(size_ui, -len(weight_e), axis=None)[-len(weight_e)]
    user_e, item_e = np.nonzero(size_ui >= limit)
    return make_graph(user_e, item_e, entry_ui[user_e, item_e], *shape)


def init(key: Array, inputs: Inputs, dim: int) -> PyTree:
    """The parts of the users, the features and their projections; every modality gets an equal part of `dim`."""
    names = sorted(inputs.features)
    width, num_users = dim // len(names), inputs.graph.num_targets
    key_user, key_project = (jax.random.split(k, len(names)) for k in jax.random.split(key))
    return {
        "user": {name: glorot_uniform(k, (num_users, width)) for name, k in zip(names, key_user, strict=True)},
        "features": inputs.features,
        "project": {
            name: init_linear(k, inputs.features[name].shape[1], width)
            for name, k in zip(names, key_project, strict=True)
        },
    }


def start_epoch(key: Array, inputs: Inputs, hyper: dict[str, Array]) -> Graph:
    """The principal subgraph of an epoch: another one each time (local), or always the same (global)."""
    return sample_graph(key, inputs) if inputs.principal is None else inputs.principal


def sample_graph(key: Array, inputs: Inputs) -> Graph:
    """A local subgraph: a share `KEPT` of the edges, see `pruning.prune`."""
    return prune(key, inputs.graph, inputs.user_e, inputs.item_e, KEPT)


def loss(params: PyTree, inputs: Inputs, epoch: Graph, batch: Triples, key: Array, hyper: dict[str, Array]) -> Array:
    """The loss of the module's head on the subgraph `epoch`; ``hyper`` holds ``contrast``.

    The dropout of a view is drawn once for each node, not once for each row of the batch.
    """
    p_ud, q_id = _embed(params, inputs, epoch)
    ranking = bpr_loss(take(p_ud, batch.user), take(q_id, batch.positive), take(q_id, batch.negative), batch.weight)
    key_user, key_item = (jax.random.split(k) for k in jax.random.split(key))
    views_u, views_i = ([dropout(k, x, DROPOUT) for k in keys] for keys, x in ((key_user, p_ud), (key_item, q_id)))
    contrast = info_nce(*views_u, batch.user, batch.weight) + info_nce(*views_i, batch.positive, batch.weight)
    return ranking + hyper["contrast"] * contrast / 2


def represent(params: PyTree, inputs: Inputs) -> tuple[Array, Array]:
    """p_u and q_i + near_i over the whole graph."""
    return _embed(params, inputs, inputs.graph)


def _embed(params: PyTree, inputs: Inputs, graph: Graph) -> tuple[Array, Array]:
    """p_u and q_i + near_i with the interactions that `graph` has; [u, d] and [i, d]."""
    names = sorted(params["features"])
    p_ud = jnp.concatenate([params["user"][name] for name in names], axis=1)
    q_id = jnp.concatenate(
        [unit_rows(linear(params["project"][name], params["features"][name])) for name in names], axis=1
    )
    near_id = sum_nearest(inputs.neighbours, q_id)
    p_ud, q_id = light_gcn(graph, p_ud, q_id, LAYERS)
    return p_ud, q_id + near_id


pgl = Learner(
    prepare=prepare,
    init=init,
    loss=loss,
    represent=represent,
    start_epoch=start_epoch,
    static=("kind",),
    grid=tuple(
        {"kind": kind, "lr": lr, "contrast": c}
        for kind in KINDS
        for lr, c in ((5e-3, 0.1), (5e-3, 0.03), (2e-3, 0.1))
    ),
    needs_features=True,
)
