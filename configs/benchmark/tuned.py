"""The points that the benchmark chose on validation NDCG@50 become the defaults of a data set's configuration.

Chosen from the grids of configs/benchmark/<set>.py, by the mean over its `search_seeds`; the whole table is in
docs/reproduction.md.
"""

import fnmatch

from ml_collections import ConfigDict


def tuned(benchmark: ConfigDict, chosen: dict[str, ConfigDict], method: str) -> ConfigDict:
    """The training configuration of a method as the benchmark trains it.

    Args:
      benchmark: as configs/benchmark/<set>.py gives it.
      chosen: the chosen point by method, fields of a training configuration.
      method: host+variant, as in "fcf+fedvlr", or with a change of the benchmark, as in "fcf+fedvlr, one weighting".

    Raises:
      ValueError: a method that was not tuned.
    """
    if method not in chosen:
        raise ValueError(f"expected one of {', '.join(chosen)} after the colon, found {method!r}")
    config = benchmark.train.copy_and_resolve_references()
    plain, _, change = method.partition(", ")
    config.host.name, config.variant = plain.split("+")
    for pattern in sorted(benchmark.settings):
        if fnmatch.fnmatchcase(plain, pattern):
            config.update(benchmark.settings[pattern])
    if change:
        config.update(benchmark.changed[change])
    config.update(chosen[method])
    config.baselines = True
    return config
