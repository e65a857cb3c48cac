"""What the rounds between two evaluations add to the progress of a run. Pure."""

from __future__ import annotations

import dataclasses

import numpy as np

from fedvlr_jax.privacy.accounting import Guarantee
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.types import RoundInfo


def diverged_round(info: RoundInfo) -> int:
    """The first round (from 1) in which every client was left out, so that nothing could be aggregated; else 0.

    Args:
      info: of consecutive rounds, [rounds].
    """
    trained = np.asarray(info.num_clients) - info.num_lost
    diverged = np.flatnonzero((info.num_dropped >= trained) & (info.num_dropped > 0))
    return int(diverged[0]) + 1 if diverged.size else 0


def count_rounds(
    progress: RunProgress, info: RoundInfo, seconds: float, guarantee: Guarantee | None = None
) -> RunProgress:
    """The progress after the rounds of `info`, [rounds], which took `seconds` and were made under a guarantee."""
    round_ = progress.round + len(info.loss)
    return dataclasses.replace(
        progress,
        round=round_,
        epsilon=None if guarantee is None else guarantee.epsilon(round_),
        client_updates=progress.client_updates + int(info.num_clients.sum()),
        num_dropped=progress.num_dropped + int(info.num_dropped.sum()),
        num_lost=progress.num_lost + int(np.sum(info.num_lost)),
        failed_rounds=progress.failed_rounds + int(np.sum(info.failed)),
        seconds_train=progress.seconds_train + seconds,
    )
