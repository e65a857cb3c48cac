"""What an audit looks at, on the synthetic set."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """All hosts, base and fedvlr, in the first round and after twenty."""
    return audited(base.get_config())


def audited(config: ConfigDict) -> ConfigDict:
    """A training configuration with the fields of an audit."""
    hosts = ("fedavg", "fcf", "fedncf", "pfedrec", "fedrap", "fedprior")
    with config.unlocked():
        config.audit = ConfigDict()
        config.audit.methods = ",".join(f"{host}+{variant}" for host in hosts for variant in ("base", "fedvlr"))
        config.audit.objectives = "bce,softmax"
        config.audit.rounds = (0, 20)  # rounds before which is looked
        config.audit.noises = (0.1, 0.6)  # deviations of the noise on each upload, in units of the bound
        config.audit.sums = (10, 50, 1_000_000)  # clients of a secure sum; the last is all
        config.audit.seed = 0  # of noise and groups
    return config
