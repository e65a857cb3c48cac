"""What to say when memory runs out: which arrays are the largest, and which settings make them smaller."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import jax

from fedvlr_jax.errors import TrainingError
from fedvlr_jax.training.experiment import Experiment

OPTIONS = (
    "compute fewer clients at a time with --config.compute.chunk or --config.eval.chunk, score fewer items at a time "
    "with --config.eval.item_chunk; make rows smaller with --config.fusion.dim or --config.fusion.operators; keep "
    "private states outside with --config.compute.store=disk and a cohort in --config.server.clients_per_round; or "
    "split clients with --config.compute.devices"
)


@contextlib.contextmanager
def explained_memory(experiment: Experiment, kept: str) -> Iterator[None]:
    """Turns running out of memory into an error with a message that ends with what is `kept` of the run.

    Raises:
      TrainingError: naming the largest arrays of the run and the options that reduce them.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"out of memory ({reason}). The largest arrays are {', '.join(largest_arrays(experiment))}. To need "
            f"less: {OPTIONS}{kept}"
        ) from error


def largest_arrays(experiment: Experiment, count: int = 4) -> list[str]:
    """The largest arrays of a run as "name [shape] n MB", from shapes alone."""
    cost, dataset = experiment.algorithm.cost, experiment.dataset
    chunk = min(experiment.settings["eval"]["chunk"], dataset.num_users)
    shapes = [("scores of an evaluation", (chunk, dataset.num_items), 4)]
    for group, tree, lead in (("public", cost.public, ()), ("private", cost.private, (dataset.num_users,))):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = f"{group}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
            shapes.append((name, (*lead, *leaf.shape), leaf.dtype.itemsize))
    sized = [(name, shape, size * math.prod(shape)) for name, shape, size in shapes]
    sized.sort(key=lambda row: -row[2])
    return [f"{name} {list(shape)} {num_bytes / 1e6:,.1f} MB" for name, shape, num_bytes in sized[:count]]
