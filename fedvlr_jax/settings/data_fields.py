"""The settings of what is trained on; a part of the table in ``settings/table.py``."""

from __future__ import annotations

from fedvlr_jax.fields import NOT_NEGATIVE, SEED, Bounds, Field


def _generator(default: float, about: str, unit: str = "") -> Field:
    """A number of the synthetic generator, which checks it."""
    return Field(default, about, unit=unit)


DATA = {
    "name": Field("synthetic", "synthetic, or a folder below the data root: KU, ML, ..."),
    "dir": Field("", "data root; empty = the environment variable FEDVLR_DATA, else ./data"),
    "source": Field(
        "folder",
        "folder reads inter.csv and .npy files, tfds a prepared tensorflow-datasets copy",
        choices="data.SOURCES",
    ),
    "features": Field(
        "real",
        "controls of a gain: shuffled permutes their rows, random draws them from a Gaussian",
        choices="data.FEATURE_SOURCES",
    ),
    "split": Field(
        "rows",
        "what is held out: rows of everybody; users as a whole; joined, a control of users: trained with the others",
        choices="data.USER_SPLITS",
    ),
}

NEWCOMERS = {
    "share": Field(
        0.2, "of the users who are left out; half of them are for validation", Bounds(0, below=1, above=True)
    ),
    "seed": Field(0, "of who they are; apart from seed, so that seeds share one split", SEED),
}

EXPECT = {
    "users": Field(0, "users", NOT_NEGATIVE, unit="users"),
    "items": Field(0, "items", NOT_NEGATIVE, unit="items"),
    "ratings": Field(0, "interactions of all splits", NOT_NEGATIVE, unit="rows"),
}

SYNTHETIC = {
    "seed": _generator(0, "of the generator; apart from seed, so that seeds share one data set"),
    "num_users": _generator(204, "users", "users"),
    "num_items": _generator(560, "items", "items"),
    "num_interactions": _generator(3488, "interactions of all splits", "rows"),
    "dim_visual": _generator(64, "width of the visual features"),
    "dim_text": _generator(64, "width of the textual features"),
    "latent_dim": _generator(6, "dimensions of a taste; more are harder to learn"),
    "groups": _generator(8, "groups of users who share a taste that only co-occurrence shows", "groups"),
    "concentration": _generator(0.5, "Dirichlet of the preferences; small = one modality for each user"),
    "sharpness": _generator(12.0, "inverse temperature of choices; 0 = random choices"),
    "skew": _generator(0.9, "standard deviation of the log of the history length; 0 = equal lengths"),
    "noise": _generator(0.3, "norm of the feature noise relative to the signal"),
}
