"""Federated multimodal recommendation with personalised fusion (FedVLR), as pure functions on JAX.

>>> import fedvlr_jax
>>> dataset = fedvlr_jax.load_dataset("synthetic")
>>> fitted = fedvlr_jax.fit(dataset, {"variant": "base", "rounds": 20, "eval.every": 10})
>>> fitted.metrics["best_round"] in (10, 20)
True

Names are loaded when they are first used, so that ``import fedvlr_jax`` takes no time and loads no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from fedvlr_jax.algorithm import make_algorithm
    from fedvlr_jax.analysis.judging import judge_scores
    from fedvlr_jax.api import (
        Fitted,
        evaluate,
        fit,
        load_dataset,
        preferences,
        recommend,
        restore,
        train,
        write_recommendations,
    )
    from fedvlr_jax.baselines import BASELINES
    from fedvlr_jax.data.arrays import from_arrays, from_frame
    from fedvlr_jax.data.messages import DataWarning
    from fedvlr_jax.data.user_split import leave_users_out
    from fedvlr_jax.errors import CheckpointError, ConfigError, DataError, TrainingError, UserError
    from fedvlr_jax.evaluation.metrics import METRICS
    from fedvlr_jax.federated.aggregation import AGGREGATORS
    from fedvlr_jax.federated.objectives import OBJECTIVES
    from fedvlr_jax.federated.transforms import TRANSFORMS
    from fedvlr_jax.io.progress import ProgressDisplay, ProgressEvent
    from fedvlr_jax.models.fusion import FUSION_OPS
    from fedvlr_jax.models.hosts import HOSTS
    from fedvlr_jax.models.router import ROUTERS
    from fedvlr_jax.models.variants import VARIANTS
    from fedvlr_jax.newcomers import add_items, recommend_new
    from fedvlr_jax.settings import default_settings
    from fedvlr_jax.types import MODALITIES, Dataset

_HOMES = {
    "algorithm": ("make_algorithm",),
    "analysis.judging": ("judge_scores",),
    "api": (
        "Fitted",
        "evaluate",
        "fit",
        "load_dataset",
        "preferences",
        "recommend",
        "restore",
        "train",
        "write_recommendations",
    ),
    "baselines": ("BASELINES",),
    "data.arrays": ("from_arrays", "from_frame"),
    "data.messages": ("DataWarning",),
    "data.user_split": ("leave_users_out",),
    "errors": ("CheckpointError", "ConfigError", "DataError", "TrainingError", "UserError"),
    "evaluation.metrics": ("METRICS",),
    "federated.objectives": ("OBJECTIVES",),
    "io.progress": ("ProgressDisplay", "ProgressEvent"),
    "models.fusion": ("FUSION_OPS",),
    "models.hosts": ("HOSTS",),
    "models.router": ("ROUTERS",),
    "federated.transforms": ("TRANSFORMS",),
    "federated.aggregation": ("AGGREGATORS",),
    "models.variants": ("VARIANTS",),
    "newcomers": ("add_items", "recommend_new"),
    "settings": ("default_settings",),
    "types": ("MODALITIES", "Dataset"),
}
"""The public names by the module that has them, as the imports above."""

_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AGGREGATORS",
    "BASELINES",
    "FUSION_OPS",
    "HOSTS",
    "METRICS",
    "MODALITIES",
    "OBJECTIVES",
    "ROUTERS",
    "TRANSFORMS",
    "VARIANTS",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DataWarning",
    "Dataset",
    "Fitted",
    "ProgressDisplay",
    "ProgressEvent",
    "TrainingError",
    "UserError",
    "__version__",
    "add_items",
    "default_settings",
    "evaluate",
    "fit",
    "from_arrays",
    "from_frame",
    "judge_scores",
    "leave_users_out",
    "load_dataset",
    "make_algorithm",
    "preferences",
    "recommend",
    "recommend_new",
    "restore",
    "train",
    "write_recommendations",
]


def __getattr__(name: str) -> Any:
    """A public name, loaded on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
