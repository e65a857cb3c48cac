"""What an audit looks at, on the synthetic set."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """All hosts in all variants, in the first round and after twenty."""
    return audited(base.get_config())


def audited(config: ConfigDict) -> ConfigDict:
    """A training configuration with the fields of an audit."""
    variants = ("base", "mlp", "vbpr", "fedvlr")
    hosts = ("fedavg", "fcf", "fedncf", "pfedrec", "fedrap", "fedprior")
    with config.unlocked():
        config.audit = ConfigDict()
        config.audit.kind = "uploads"
        config.audit.methods = ",".join(f"{host}+{variant}" for host in hosts for variant in variants)
        config.audit.objectives = "bce,softmax"
        config.audit.rounds = (0, 20)  # rounds before which is looked
        config.audit.noises = (0.1, 0.6)  # deviations of the noise on each upload, in units of the bound
        config.audit.sums = (10, 50, 1_000_000)  # clients of a secure sum; the last is all
        config.audit.epsilons = (8.0,)  # budgets of the noised sum of all, central, clipped at the median norm
        config.audit.delta = 1e-5
        config.audit.budget_rounds = 30  # that share such a budget
        config.audit.draws = 30  # of the noise on such a sum: one draw is off chance by its luck
        config.audit.masked = False  # the words of single clients to these sums too; needs the extra secure
        config.audit.clients = 0  # whose uploads are attacked, drawn by the seed; 0 = all
        config.audit.seed = 0  # of noise, groups and clients
    return config
