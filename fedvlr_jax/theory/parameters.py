"""The paper's Table 3, client-side parameters: closed forms, counts of actual pytrees, and the published cells.

The table's convention, found from its numbers: a client of FedAvg, FCF and PFedRec holds one item table; +MLP holds
the three inputs of the operator; +FedVLR holds three views and the router. FedRAP adds a private item table. FedNCF
counts the tables of all users and its layers; its +MLP adds an ID table as wide as the features (512), three
projections and the operator, its +FedVLR also the router and the gate. FedAvg+VBPR is three tables of the features'
width, two of them over users. Private linear heads (d + 1 numbers) are not counted.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.io.files import read_csv
from fedvlr_jax.theory.messages import at_host
from fedvlr_jax.types import Content, Dataset, PyTree

NAME_OF_HOST = {"FedAvg": "fedavg", "FCF": "fcf", "FedNCF": "fedncf", "PFedRec": "pfedrec", "FedRAP": "fedrap"}
DIM = 64  # d, the width the paper states
FEATURES = 512  # width of CLIP ViT-B/32 features
VIEWS = 3  # |G|
WIDTHS = (16, 32, 64, 128, 256, 512)
_FOLDER = pathlib.Path(__file__).parent


class Cell(NamedTuple):
    """One cell of Table 3.

    Attributes:
      model, dataset: row and column.
      published: thousands, as printed.
      closed_form, counted: parameters at d = 64.
      width: the width at which the closed form gives the published number; None if none of `WIDTHS` does.
    """

    model: str
    dataset: str
    published: int
    closed_form: int
    counted: int
    width: int | None

    @property
    def agrees(self) -> bool:
        """Whether the published number is the closed form at d = 64, to the thousand."""
        return same_thousand(self.closed_form, self.published)


def same_thousand(parameters: int, thousands: int) -> bool:
    """Whether `parameters` may be printed as `thousands`, rounded or cut."""
    return abs(parameters / 1000 - thousands) < 1


def table3(settings: Mapping[str, Any]) -> list[Cell]:
    """All 112 cells; `settings` are the defaults from which the counted models are built."""
    sizes = {
        row["dataset"]: (int(row["users"]), int(row["items"])) for row in read_csv(_FOLDER / "published_table1.csv")
    }
    cells = []
    for row in read_csv(_FOLDER / "published_table3.csv"):
        host, _, variant = row["model"].partition("+")
        for dataset, (users, items) in sizes.items():
            published = int(row[dataset])
            stated = stated_width(row["model"])
            form = closed_form(host, variant, users, items, stated)
            count = counted(settings, host, variant, users, items)
            tried = (stated, *WIDTHS)
            fits = (w for w in tried if same_thousand(closed_form(host, variant, users, items, w), published))
            cells.append(Cell(row["model"], dataset, published, form, count, next(fits, None)))
    return cells


def stated_width(model: str) -> int:
    """The width of a model's tables as the paper states it: d, but of VBPR's tables the features' width."""
    return FEATURES if model.endswith("+VBPR") else DIM


def router_parameters(dim: int, views: int = VIEWS) -> int:
    """Linear(|G| d -> d), Linear(d -> |G|): 12,547 at |G| = 3, d = 64."""
    return views * dim * dim + dim + dim * views + views


def mlp_parameters(dim: int) -> int:
    """Linear(3d -> 2d), Linear(2d -> d)."""
    return 3 * dim * 2 * dim + 2 * dim + 2 * dim * dim + dim


def gate_parameters(dim: int) -> int:
    """Three Linear(d -> d), one Linear(3d -> d): 24,832 at d = 64."""
    return 3 * (dim * dim + dim) + 3 * dim * dim + dim


def ncf_parameters(dim: int) -> int:
    """Layers 2d -> d -> d/2 -> d/4 and an output d/4 + d -> 1: 10,945 at d = 64."""
    half, quarter = dim // 2, dim // 4
    return 2 * dim * dim + dim + dim * half + half + half * quarter + quarter + quarter + dim + 1


def closed_form(host: str, variant: str, users: int, items: int, dim: int) -> int:
    """Client-side parameters by the table's convention.

    Args:
      host, variant: as in the table: "FedAvg", ... and "", "VBPR", "MLP" or "FedVLR".
      users, items: |U|, |I|.
      dim: the width; d, but of VBPR's tables the features' width.
    """
    if variant == "VBPR":
        return dim * (2 * users + items)
    router = router_parameters(dim) if variant == "FedVLR" else 0
    if host == "FedNCF":
        base = 2 * dim * (users + items) + ncf_parameters(dim)
        fused = FEATURES * items + 3 * (FEATURES * dim + dim) + mlp_parameters(dim)
        gate = gate_parameters(dim) if variant == "FedVLR" else 0
        return base + (fused if variant else 0) + router + gate
    tables = (VIEWS if variant else 1) + (host == "FedRAP")
    return tables * items * dim + router


def counted(settings: Mapping[str, Any], host: str, variant: str, users: int, items: int) -> int:
    """The same number from the shapes of this code base's pytrees, at d = 64 and features of width 512."""
    features = np.ones((items, FEATURES), np.float32)
    if variant == "VBPR":
        return features.size + 2 * users * features.shape[1]
    # The three inputs of operator mlp are the views of the three single-modality operators.
    operators = "id,visual,text" if variant == "MLP" else "sum,mlp,gate"
    public, private, rows, head = _shapes(settings, NAME_OF_HOST[host], variant, operators, features)
    router = _size(private["variant"].get("phi")) if variant == "FedVLR" else 0
    if host == "FedNCF":
        everyone = _size((public["host"]["tables"], head)) + users * _size(private["theta"])
        gamma, project = public["variant"].get("gamma", {}), public["variant"].get("project", {})
        if not variant:
            return everyone
        operator = _shapes(settings, NAME_OF_HOST[host], "FedVLR", "mlp", features)[0]["variant"]["gamma"]["mlp"]
        # Three projections of equal shape; here the ID table has width d and needs none.
        fused = features.size + 3 * _size(project["V"]) + _size(operator)
        return everyone + fused + router + _size(gamma.get("gate"))
    return _size(rows["views"]) + _size(private.get("item_table")) + router


def _shapes(
    settings: Mapping[str, Any], host: str, variant: str, operators: str, features: np.ndarray
) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """(public, one client's private, rows and head of the broadcast), shapes only."""
    chosen = at_host(settings, host, "fedvlr" if variant else "base")
    chosen["fusion"] = chosen["fusion"] | {"operators": operators, "dim": DIM}
    algorithm = make_algorithm(chosen, _empty(features))
    content = Content(features, features)
    broadcast = jax.eval_shape(algorithm.model.publish, algorithm.cost.public, content)
    return algorithm.cost.public, algorithm.cost.private, broadcast.rows, broadcast.head


def _empty(features: np.ndarray) -> Dataset:
    """A data set of one user, for its shapes."""
    none = np.full(1, -1, np.int32)
    one = np.zeros(1, np.int32)
    return Dataset(
        name="shapes",
        num_users=1,
        num_items=len(features),
        train_user=one,
        train_item=one,
        valid_item=none,
        test_item=none,
        V=features,
        C=features,
    )


def _size(tree: PyTree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))
