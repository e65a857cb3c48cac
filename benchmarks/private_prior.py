"""The prior of one noised sum under several budgets, and under the noise that a larger population would need.

    python benchmarks/private_prior.py --set=KU [--epsilons=2,8,32] [--populations=1,10,100] [--seeds=5]

Test NDCG@50 in percent, mean and standard deviation over seeds of noise and choice; the prior ranks alone, so nothing
is trained. In a population m times as large, of clients like these, every sum is m times as large and the noise is
not: that is this data set with noise of a deviation of one m-th, and with values of mixtures times m in the choice.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
from tabulate import tabulate

from configs.base import get_config
from fedvlr_jax import load_dataset
from fedvlr_jax.federated.held_back import HeldBack, mean_ndcg
from fedvlr_jax.fields import with_fields
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.training.all_views import valid_targets
from fedvlr_jax.training.priors import NoisedPrior
from fedvlr_jax.types import Dataset, given

FIXED = {
    "host.name": "fedprior",
    "host.model_weight": 0.0,
    "aggregation.transforms": "clip,noise",
    "privacy.delta": 1e-5,
    "privacy.prior_share": 0.999,
}


def measure(dataset: Dataset, epsilon: float, population: int, seeds: int) -> dict[str, object]:
    """One row of the table."""
    settings = with_fields(get_config().to_dict(), FIXED | {"privacy.target_epsilon": epsilon})
    guarantee = given(guarantee_of(settings, population * dataset.num_users))
    noise, choice = given(guarantee.prior_noise) / population, guarantee.choice_epsilon * population
    made = NoisedPrior(settings, noise, choice, 0.0)
    test = HeldBack(dataset, valid_targets(dataclasses.replace(dataset, valid_item=dataset.test_item)))
    formed = [made.formed(dataset, seed) for seed in range(seeds)]
    found = 100 * np.array([mean_ndcg(blend.scores(dataset), test) for blend in formed])
    chosen = collections.Counter(" + ".join(f"{w:g} {name}" for name, w in x.mixture.items()) for x in formed)
    return {
        "epsilon": epsilon,
        "clients": population * dataset.num_users,
        "NDCG@50": f"{found.mean():.2f} ± {found.std(ddof=1) if seeds > 1 else 0:.2f}",
        "chosen": ", ".join(f"{name} ({times})" for name, times in chosen.most_common()),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="KU")
    parser.add_argument("--epsilons", default="2,8,32")
    parser.add_argument("--populations", default="1,10,100")
    parser.add_argument("--seeds", type=int, default=5)
    flags = parser.parse_args()
    dataset = load_dataset(flags.set)
    rows = [
        measure(dataset, float(epsilon), int(population), flags.seeds)
        for epsilon in flags.epsilons.split(",")
        for population in flags.populations.split(",")
    ]
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
