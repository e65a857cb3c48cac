"""All settings of a run by dotted name. A host's own settings are in its row of ``HOSTS``, and join those here."""

from __future__ import annotations

from fedvlr_jax.fields import NOT_NEGATIVE, ONE_OR_MORE, POSITIVE, SHARE, Field
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.settings.data_fields import DATA, EXPECT, NEWCOMERS, SYNTHETIC
from fedvlr_jax.settings.table_run import RUN
from fedvlr_jax.settings.upload_fields import AGGREGATION, PRIVACY, SECURE

OPTIMIZERS = "assembly.OPTIMIZERS"


def _rate(default: float, about: str, source: str = "") -> Field:
    """A number of at least zero that a compiled program can take as an argument."""
    return Field(default, about, NOT_NEGATIVE, source=source, traceable=True)


HOST = {"name": Field("fcf", "federated framework; fedprior is our own", choices="models.hosts.HOSTS")}

PRIOR = {
    "reach": Field(
        0.5, "exponent of the co-occurrence kernel over the distance in a history; 0 = none", NOT_NEGATIVE
    ),
    "decay": Field(0.75, "exponent with which an older item counts less; 0 = not at all", NOT_NEGATIVE),
    "ridge": Field(30.0, "penalty of the co-occurrence model", POSITIVE, unit="squared counts"),
    "ridge_next": Field(300.0, "penalty of the next-item model", POSITIVE, unit="squared counts"),
    "next_weight": Field(4.0, "weight of the next-item model; 0 = without it", NOT_NEGATIVE),
    "shrinkage": Field(
        0.2,
        "train rows at which an item's own evidence weighs as much as its neighbours'; 0 = no item leans on others",
        NOT_NEGATIVE,
        unit="train rows",
    ),
    "sharpness": Field(
        40.0, "inverse temperature of the softmax over cosines that makes the neighbours", NOT_NEGATIVE
    ),
    "content": Field(
        0.0, "strength of features in the co-occurrence model, in units of ridge; 0 = without them", NOT_NEGATIVE
    ),
}

FUSION = {
    "operators": Field(
        "sum,mlp,gate", "G, the views", choices="models.fusion.FUSION_OPS", source="paper", is_list=True
    ),
    "activation": Field(
        "relu",
        "of the router and of operator mlp; all but relu are smooth",
        choices="models.router.ACTIVATIONS",
        source="paper",
    ),
    "dim": Field(64, "d, latent dimensions", ONE_OR_MORE, source="paper"),
    "heads": Field(4, "operator attention: heads, a divisor of dim", ONE_OR_MORE),
    "modalities": Field(
        "D,V,C",
        "D item ids, V visual, C textual; leave one out to ablate it",
        choices="models.fusion.MODALITIES",
        is_list=True,
    ),
    "router": Field(
        "mlp",
        "what turns a client's history into the weights of the views",
        choices="models.router.ROUTERS",
        source="paper",
    ),
    "first_odds": Field(
        1.0,
        "odds of the first of the operators over each other one, times what the router says; 1 = none",
        POSITIVE,
        traceable=True,
    ),
    "groups": Field(5, "variant gfmfr: groups of users, each with a fused teacher", ONE_OR_MORE),
    "distil": _rate(1.0, "variant gfmfr: weight of the divergence of a client's scores from its teacher's"),
}

ROUTER = {
    "lr": _rate(1.0, "rate of a client's own part of the router, relative to client.lr"),
    "l2": _rate(0.0, "weight of 0.5 ||own part of the router||^2: towards the public router, or equal weights"),
    "spread": _rate(0.0, "weight of KL(w_u || uniform), which keeps the weights apart from 0 and 1"),
    "spread_rounds": Field(
        0.0, "rounds in which that weight falls to zero; 0 = it stays", NOT_NEGATIVE, unit="rounds", traceable=True
    ),
}

CLIENT = {
    "steps": Field(5, "A, local steps a round", ONE_OR_MORE, unit="steps"),
    "lr": _rate(0.1, "rate of the private parameters"),
    "optimizer": Field("sgd", "of the private parameters", choices=OPTIMIZERS, source="algorithm 1"),
    "negatives": Field(4, "bce, bpr: sampled negatives for each positive and step", ONE_OR_MORE, unit="items"),
    "holdout": Field(0.5, "softmax: share of the history that is held out as target", SHARE, traceable=True),
    "l2": _rate(0.0, "weight of 0.5 ||private parameters||^2"),
    "move_items": Field(
        False, "item rows move during local steps (the hosts' papers) or stay (algorithm 1)", source="algorithm 1"
    ),
    "item_lr": _rate(0.1, "move_items: rate of these moves"),
    "init_scale": _rate(0.1, "standard deviation of initial private vectors"),
    "download_rows": Field(
        0,
        "federations with bce, bpr: rows of the broadcast that a client asks for in a round, the touched and others; "
        "0 = all",
        NOT_NEGATIVE,
        unit="rows",
    ),
    "new_rounds": Field(
        20,
        "local rounds with which a user who was not trained learns the private part before it is ranked",
        NOT_NEGATIVE,
        unit="rounds",
    ),
}

SERVER = {
    "lr": _rate(0.01, "eta, rate of D, gamma and public heads"),
    "optimizer": Field("adam", "of D, gamma and public heads; algorithm 1 has sgd", choices=OPTIMIZERS),
    "clients_per_round": Field(
        0, "n_s, clients drawn for a round, with poisson on average; 0 = all", NOT_NEGATIVE, unit="clients"
    ),
    "sampling": Field(
        "fixed",
        "how they are drawn: n_s of them uniformly without replacement; or each with probability n_s / n",
        choices=("fixed", "poisson"),
    ),
    "l2": _rate(0.0, "weight of 0.5 ||public parameters||^2"),
    "init_scale": _rate(0.1, "standard deviation of the initial D"),
}

COMPUTE = {
    "path": Field("auto", "how a round is computed, fedvlr_jax/federated/paths.py", choices="assembly.PATH_NAMES"),
    "devices": Field(
        1, "devices that the clients are split over; 0 = all of all processes", NOT_NEGATIVE, unit="devices"
    ),
    "store": Field(
        "device",
        "where all private states are: device; or files in the workdir, memory keeping what is newer in memory",
        choices=("device", "memory", "disk"),
    ),
    "closed_form": Field(True, "step the router in closed form where that is exact (client: sgd, l2 = 0)"),
    "precision": Field(
        "float32",
        "bfloat16 rounds views and factors of products, not sums and states",
        choices="assembly.PRECISIONS",
    ),
    "chunk": Field(0, "clients computed at a time; 0 = as many as stay in cache", NOT_NEGATIVE, unit="clients"),
    "bucket_worth": Field(
        1_536,
        "padding that a bucket of clients must save, else it joins the next wider one; fewer buckets compile faster",
        NOT_NEGATIVE,
        unit="items of a history",
    ),
}

EVAL = {
    "every": Field(10, "rounds between two evaluations; the last round is evaluated too", ONE_OR_MORE, unit="rounds"),
    "patience": Field(
        10,
        "evaluations without better validation NDCG@50 before stopping; 0 = never",
        NOT_NEGATIVE,
        unit="evaluations",
    ),
    "chunk": Field(256, "users scored at once: chunk x items x 4 bytes of scores", ONE_OR_MORE, unit="users"),
    "lists": Field(
        False,
        "judge whole lists at the best round too: coverage, Gini, popularity, novelty, diversity; one more program",
    ),
    "item_chunk": Field(0, "items scored at once (twice the work); 0 = all", NOT_NEGATIVE, unit="items"),
}

CHECKPOINT = {
    "seconds": Field(10.0, "least time between two periodic checkpoints", NOT_NEGATIVE, unit="seconds"),
}

GROUPS: dict[str, tuple[str, dict[str, Field]]] = {
    "": ("the run", RUN),
    "host": ("the federated framework", HOST),
    "prior": ("host fedprior: the item-to-item prior, fedvlr_jax/federated/prior.py", PRIOR),
    "fusion": ("the views and who weighs them", FUSION),
    "client": ("what a client does in a round", CLIENT),
    "server": ("what the server does in a round", SERVER),
    "router": ("how a client trains its own part of the router", ROUTER),
    "aggregation": ("what happens to uploads on their way into the public parameters", AGGREGATION),
    "secure": ("secure sums of clipped uploads, fedvlr_jax/secure_sum/", SECURE),
    "privacy": ("differential privacy of transforms clip,noise, fedvlr_jax/privacy/accounting.py", PRIVACY),
    "compute": ("speed and memory; but for precision, the same results up to the order of sums", COMPUTE),
    "data": ("what is trained on", DATA),
    "data.newcomers": ("data.split users and joined: users who are ranked without having been trained", NEWCOMERS),
    "data.expect": ("sizes to check the data against, 0 = unknown; a difference is reported, not refused", EXPECT),
    "data.synthetic": ("data set synthetic, fedvlr_jax/data/synthetic.py; its sizes are those of KU", SYNTHETIC),
    "eval": ("evaluation on the way", EVAL),
    "checkpoint": ("what a run can go on from", CHECKPOINT),
}
"""By the prefix of their dotted names: what a group of fields is about, and the fields, in their order."""

RENAMED: dict[str, str] = {}
"""Fields of earlier versions: the name of today by the old one. None was renamed so far."""

RENAMED_VALUES: dict[str, dict[str, str]] = {"compute.store": {"host": "memory"}}
"""Names of earlier versions among the choices of a field: the name of today by the old one. They go on working."""


def group_fields(group: str) -> dict[str, Field]:
    """The fields of a group by dotted name."""
    fields = GROUPS[group][1]
    if group == "host":
        own = (getattr(row, "options", {}) for row in HOSTS.values())  # a plain function brings none
        fields = fields | {name: field for options in own for name, field in options.items()}
    return {f"{group}.{name}" if group else name: field for name, field in fields.items()}


def all_fields() -> dict[str, Field]:
    """Every field by dotted name."""
    return {name: field for group in GROUPS for name, field in group_fields(group).items()}
