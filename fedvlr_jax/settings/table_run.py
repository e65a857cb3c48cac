"""The settings of a run that belong to no group; part of the table of all settings."""

from __future__ import annotations

from fedvlr_jax.fields import ONE_OR_MORE, SEED, Field

RUN = {
    "seed": Field(0, "of everything random in the run", SEED),
    "rounds": Field(400, "T, communication rounds at most", ONE_OR_MORE, unit="rounds"),
    "objective": Field(
        "softmax",
        "loss of a client; the paper has bce, and squared, the user factor in closed form, is for host fcf only",
        choices="federated.objectives.OBJECTIVES",
    ),
    "variant": Field(
        "fedvlr",
        "how a host gets its items: FedVLR, an ablation of its fusion, or a competitor",
        choices="models.variants.VARIANTS",
        source="paper, table 2",
    ),
    "dry_run": Field(False, "print sizes and estimated memory, compile and train nothing"),
    "baselines": Field(True, "print simple baselines under the result"),
    "init_from": Field("", "workdir of a run whose best round this one starts from; empty = random parameters"),
    "init_parts": Field(
        "both",
        "init_from: which parameters come from there, those of the server, those of the clients, or both",
        choices=("public", "private", "both"),
    ),
    "writers": Field(
        "tensorboard",
        "where a training run's numbers go beside metrics.jsonl; empty = nowhere",
        choices="io.trackers.WRITERS",
        is_list=True,
    ),
}
