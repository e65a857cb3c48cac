"""Every setting of a sweep. A sweep file starts from these and gives at least `fields`.

python experiments/sweep.py --config=configs/ku.py --sweep=configs/sweeps/rates.py [--workdir=runs/rates]

`fields` names any fields of the configuration, dotted, and their values: a list for a grid; for random and optuna a
list of choices or a uniform distribution {"low": 0.001, "high": 0.1, "log": True}. Points that differ only in seeds
and in fields marked traced in docs/settings.md share one compiled program.
"""

from ml_collections import ConfigDict


def get_sweep() -> ConfigDict:
    """The defaults, locked: fields that do not exist here are refused."""
    sweep = ConfigDict(convert_dict=False)  # so that `fields` keeps its dotted names
    sweep.kind = "grid"  # grid (all combinations) | random | optuna (needs the extra optuna)
    sweep.fields = {}  # dotted field -> values
    sweep.seeds = ()  # values of config.seed, each run at every point; () = config.seed alone
    sweep.samples = 16  # random, optuna: points
    sweep.seed = 0  # random, optuna: of the draws
    sweep.batch = 4  # optuna: points proposed before it learns how they did
    sweep.group = 0  # runs side by side in one program at most; 0 = all that share it
    return sweep.lock()
