"""Table 4 of the paper again, with an accountant: utility on KU under noise and under budgets of privacy.

python experiments/benchmark.py --config=configs/benchmark/privacy_ku.py

The paper adds Gaussian noise to gradients and says no epsilon. "gradient noise" is of that kind, 0.15 C on each
upload of a norm of at most C. The other rows are budgets of all rounds together at delta 1e-5, for users, central.
The notes under the table say what each is worth. local-only is what a client has without any federation.
"""

from ml_collections import ConfigDict

from configs.benchmark import ku
from configs.benchmark.base import fields

EPSILONS = (1, 2, 4, 8, 32)


def get_config() -> ConfigDict:
    """The paper's hosts and two of the project's own, with FedVLR, without noise and under budgets."""
    return private(ku.get_config())


def private(config: ConfigDict) -> ConfigDict:
    """A benchmark whose methods come again with the paper's kind of noise and under each budget.

    Args:
      config: of a benchmark on one data set.
    """
    config = config.copy_and_resolve_references()
    config.unlock()
    config.methods = "popularity, ease, local-only, *+*"
    config.variants = "fedvlr"
    config.own = "fcf+base,fedprior+base"
    config.controls = ""
    config.search_seeds = 1
    # Noise adds up over rounds and over dimensions: few of both, and one length for all.
    config.train.rounds = 30
    config.train.fusion.dim = 8
    for patterns in (config.settings, config.grid):
        for method in ("fedblend+*", "*+gfmfr"):  # not among the methods
            del patterns[method]
    for settings in config.settings.values():
        # Noise on the mean of fewer clients is larger, and the accountant knows no cohort of a fixed size.
        server = settings.get("server", {})
        for group, name in ((settings, "rounds"), (settings, "eval"), (server, "clients_per_round")):
            if name in group:
                del group[name]
    # One noised sum has nearly all of a budget, and the prior alone ranks: there is no round to choose, and the grid
    # is about exact priors.
    config.settings["fedprior+*"].update(fields(host__model_weight=0.0))
    config.settings["fedprior+*, eps *"] = fields(privacy__prior_share=0.999)
    config.grid["fedprior+*"] = fields(prior__reach=(0.0, 0.5))
    config.changed, config.changed_of = ConfigDict(), "*"
    config.changed["gradient noise"] = fields(
        aggregation__transforms="clip,local_noise",
        aggregation__noise_multiplier=0.15,
        privacy__delta=1e-5,
    )
    for epsilon in EPSILONS:
        config.changed[f"eps {epsilon}"] = fields(
            aggregation__transforms="clip,noise", privacy__target_epsilon=float(epsilon), privacy__delta=1e-5
        )
    return config.lock()
