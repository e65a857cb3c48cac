"""What a run of each method costs, in units that make methods comparable: from settings and sizes alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.benchmark.forecast import CLOSED, LEARNED, TRAINED, Job
from fedvlr_jax.benchmark.methods import Method, split_point
from fedvlr_jax.settings import traceable_fields
from fedvlr_jax.types import Dataset

EVERY_RUN = {CLOSED: 0.5, LEARNED: 3e5, TRAINED: 5e8}
"""Work that does not depend on the sizes of a set."""


def job_of(method: Method, config: Mapping[str, Any], dataset: Dataset) -> Job:
    """The job of one run.

    Its work is for federated methods the scores of a run, those of local steps (clients x steps x items) and of
    evaluations (users x items), in all rounds; for gradient-trained baselines train rows x epochs; for closed forms
    points x items^2. What every run takes however small it is, is part of the work too.
    """
    name = method.follows or method.name
    if method.settings:
        return Job(name, TRAINED, method.host, method.variant, EVERY_RUN[TRAINED] + _scores(method.settings, dataset))
    if is_learned(method):
        return Job(name, LEARNED, "", "", EVERY_RUN[LEARNED] + config["epochs"] * len(dataset.train_item))
    return Job(name, CLOSED, "", "", EVERY_RUN[CLOSED] + 2e-8 * len(BASELINES[name].grid) * dataset.num_items**2)


def num_points(method: Method, config: Mapping[str, Any]) -> int:
    """Among how many points validation chooses where seeds make a difference; 1 for a control and closed forms."""
    if method.follows:
        return 1
    if not is_learned(method):
        return max(1, len(method.grid))
    points, asked = len(BASELINES[method.name].grid), config["baseline_points"]
    return min(config["baseline_points_of"].get(method.name, asked) or points, points)


def num_programs(method: Method) -> int:
    """How many programs a method compiles apart from its runs; controls with other features have them already."""
    if not method.settings or (method.follows and method.settings["data"]["features"] != "real"):
        return 0
    traced = traceable_fields()
    return max(1, len({json.dumps(split_point(point, traced)[0], sort_keys=True) for point in method.grid}))


def is_learned(method: Method) -> bool:
    """Whether it is a baseline trained by gradients."""
    return isinstance(BASELINES.get(method.name), Learner)


def is_random(method: Method) -> bool:
    """Whether seeds make a difference."""
    return bool(method.settings) or is_learned(method)


def _scores(settings: Mapping[str, Any], dataset: Dataset) -> int:
    rounds, users = settings["rounds"], dataset.num_users
    clients = settings["server"]["clients_per_round"] or users
    evaluations = rounds // settings["eval"]["every"] + 1
    return (rounds * clients * settings["client"]["steps"] + evaluations * users) * dataset.num_items
