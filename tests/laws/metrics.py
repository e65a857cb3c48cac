"""Laws of METRICS: exact expectations under random tie-breaking that reward better ranks."""

from __future__ import annotations

import numpy as np

from fedvlr_jax.evaluation.metrics import METRICS

RANKS = np.arange(1, 61)
CUTOFFS = (1, 10, 50)


def untied(name: str, k: int) -> np.ndarray:
    """The metric of the ranks 1, 2, ... without ties."""
    return METRICS[name](RANKS - 1, np.ones_like(RANKS), k)


def values_are_shares(name: str) -> None:
    for k in CUTOFFS:
        value_r = untied(name, k)
        assert value_r.shape == RANKS.shape, f"metric {name}: expected a value a row, found {value_r.shape}"
        assert value_r.dtype == np.float64, f"metric {name}: expected float64, found {value_r.dtype}"
        assert ((value_r >= 0) & (value_r <= 1)).all(), f"metric {name}: values outside of [0, 1] at {k}"


def better_ranks_are_never_worse(name: str) -> None:
    for k in CUTOFFS:
        value_r = untied(name, k)
        assert (np.diff(value_r) <= 0).all(), f"metric {name}: a worse rank has a better value at {k}"
        assert value_r[0] > value_r[-1], f"metric {name}: the first rank is not better than the last at {k}"
        assert (value_r[k:] == 0).all(), f"metric {name}: ranks behind the cut-off {k} count"


def ties_are_broken_at_random(name: str) -> None:
    """The value of e tied items is the mean over the e ranks that each may have."""
    for k in CUTOFFS:
        value_r = untied(name, k)
        for greater in (0, 3, 9, 40):
            for tied in (2, 5, 20):
                found = METRICS[name](np.array([greater]), np.array([tied]), k)
                expected = value_r[greater : greater + tied].mean()
                message = f"metric {name}: ties are not broken at random at {k}"
                np.testing.assert_allclose(found, [expected], rtol=1e-13, atol=0, err_msg=message)


LAWS = {
    values_are_shares: (),
    better_ranks_are_never_worse: (),
    ties_are_broken_at_random: (),
}
