"""The check of the convergence analysis (docs/theory.md): a small model with smooth operators, a grid, 20 seeds.

python experiments/check_convergence.py --config=configs/theory/convergence.py [--config.data.name=ku]
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """FCF + FedVLR as Algorithm 1 has it: plain SGD everywhere, one rate, bce with fresh negatives in every step."""
    config = base.get_config()
    config.unlock()
    config.objective = "bce"
    config.fusion.dim = 8
    config.fusion.activation = "softplus"
    config.client.l2 = 0.03  # keeps L within the run small, so that rates are large enough to see descent
    config.client.optimizer = "sgd"
    config.server.l2 = 0.003
    config.server.optimizer = "sgd"
    config.client.negatives = 4
    config.data.synthetic.num_users = 32
    config.data.synthetic.num_items = 64
    config.data.synthetic.num_interactions = 300
    config.data.synthetic.dim_visual = 16
    config.data.synthetic.dim_text = 16

    config.check = ConfigDict()
    config.check.precision = "float64"  # float32 | float64
    config.check.seeds = 20  # runs of every setting, seeds 0, 1, ...
    config.check.steps = (1, 2, 4)  # A
    config.check.cohorts = (4, 12, 32)  # n_s, at most the number of clients
    config.check.rounds = (32, 128, 512)  # T; every rate runs for the longest
    config.check.rate = 0.05  # eta at the shortest T; the others follow 1 / sqrt(T)
    config.check.probes = 4  # rounds of a run at which both sides of the lemmas are measured, evenly spaced
    config.check.draws = 8  # cohorts drawn at each of them
    config.check.curvature_seeds = 2  # seeds whose Hessians are measured, at every probe
    config.check.curvature_clients = 6  # clients of each such state
    return config.lock()
