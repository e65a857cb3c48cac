"""Settings of what happens to uploads: transforms, aggregators, secure sums, and budgets of privacy."""

from __future__ import annotations

from fedvlr_jax.fields import NOT_NEGATIVE, POSITIVE, SHARE, Bounds, Field

AGGREGATION = {
    "aggregator": Field(
        "weighted_mean",
        "how the server joins the uploads of a round",
        choices="federated.aggregation.AGGREGATORS",
        source="algorithm 1",
    ),
    "transforms": Field(
        "",
        "what happens to each upload before, in this order; empty = nothing",
        choices="federated.transforms.TRANSFORMS",
        is_list=True,
    ),
    "clip_norm": Field(1.0, "clip: largest L2 norm of an upload", POSITIVE),
    "clip_quantile": Field(
        0.0,
        "clip: share of the uploads that should stay as they are; clip_norm then is where the bound starts",
        SHARE,
    ),
    "clip_rate": Field(0.2, "clip_quantile: rate of the logarithm of the bound", NOT_NEGATIVE),
    "count_share": Field(
        0.1, "clip_quantile: share of the squared mu that the noised count of such uploads takes", Bounds(0, 1, True)
    ),
    "keep_rows": Field(0.25, "top_rows: share of the rows of an upload that is sent", Bounds(0, below=1, above=True)),
    "noise_multiplier": Field(
        0.0,
        "standard deviation of Gaussian noise: noise, on the sum of the uploads; local_noise, on each of them",
        NOT_NEGATIVE,
        unit="clip_norm",
    ),
    "trim": Field(0.1, "trimmed_mean, trimmed_rows: share of the uploads left out at each end", Bounds(0, below=0.5)),
    "byzantine": Field(0.1, "krum, multi_krum: share of the clients that may send anything", Bounds(0, below=0.5)),
}

SECURE = {
    "sum": Field(
        False,
        "uploads are added in words of 32 bits; in a federation by the protocol of a secure sum, without any upload",
    ),
    "bits": Field(
        22,
        "of one number with its sign; those left of 32 are for the sum over clients",
        Bounds(2, below=31),
        unit="bits",
    ),
    "dropout": Field(
        0.0, "probability with which a client of a simulated cohort is lost on the way, in every round", SHARE
    ),
    "threshold": Field(
        2 / 3,
        "least share of a cohort, in a federation of a silo's neighbours, that has to survive; with fewer a round "
        "changes nothing",
        Bounds(0.5, below=1),
    ),
}

PRIVACY = {
    "target_epsilon": Field(
        0.0, "budget of all rounds together, for which the noise is solved before the run; 0 = none", NOT_NEGATIVE
    ),
    "prior_share": Field(
        0.0, "fedprior: share of the budget for one noised sum, its prior's; 0 = an exact one, not covered", SHARE
    ),
    "delta": Field(0.0, "probability of the guarantee's exception; 0 = no accounting", SHARE),
}
