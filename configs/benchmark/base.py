"""Every setting of a benchmark: which methods, on what, and how much each may be tuned.

python experiments/benchmark.py --config=configs/benchmark/ku.py [--config.methods="ease,fcf+*"] [--workdir=runs/b]

Budget: every federated method has a grid of the same number of points, searched with the same seeds and judged by
the best validation NDCG@50; every gradient-trained baseline has a grid of its own in fedvlr_jax/baselines/, of six to
eight points. Rounds and epochs are chosen on validation too.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The default benchmark: all methods on the synthetic set."""
    config = ConfigDict()
    config.methods = ""  # comma list of names or patterns, as in "ease,fcf+*"; "" = all
    config.hosts = ""  # comma list; "" = the paper's hosts
    config.variants = ""  # comma list; "" = the paper's
    config.own = ""  # further federated methods, host+variant: own hosts, and competitors of the paper's variants
    config.controls = "shuffled features, random features, without D, without V, without C"  # of every fedvlr
    config.seeds = 5  # runs of the chosen point; seeds 0, 1, ...
    config.search_seeds = 1  # runs of every point: seeds 0, 1, ...; one alone picks among close points by luck
    config.minutes = 0.0  # at most about so long, over all calls; cuts points, seeds, then methods; 0 = no limit
    config.priority = ""  # comma list of names or patterns: what is run first, and cut last, under a budget
    config.group = 0  # runs trained side by side in one program; 0 = one on CPUs, all on accelerators
    config.bucket_growth = 4.0  # width of neighbouring history buckets; fewer buckets compile faster
    config.baseline_points = 0  # gradient-trained baselines: points of their grids, evenly spread; 0 = all
    config.baseline_points_of = ConfigDict()  # the same for single ones: {"bpr_mf": 0}
    config.epochs = 400  # gradient-trained baselines: at most so many
    config.epochs_every = 5  # epochs between two evaluations
    config.epochs_patience = 10  # evaluations without better validation NDCG@50 before stopping

    # Settings and grids by pattern of method names; patterns apply in alphabetical order ("*" first), later ones win.
    # Settings with a label, as "fedprior+*, eps *", are for changed methods alone.
    config.settings = ConfigDict()
    config.grid = ConfigDict()
    config.changed = ConfigDict()  # federated methods once more with these fields: {"eps 8": fields(...)}
    config.changed_of = "*"  # which of them: comma list of names or patterns

    config.train = base.get_config()  # what all federated methods share
    config.train.eval.every = 5
    config.train.baselines = False
    return config


def fields(**dotted: object) -> ConfigDict:
    """Dotted fields as a nested ConfigDict: ``fields(client__lr=1.0)`` is ``client.lr = 1.0``."""
    nested: dict = {}
    for name, value in dotted.items():
        *groups, leaf = name.split("__")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = value
    return ConfigDict(nested)


# FedVLR's router without private parameters: one weight for each view and all users, an id view among them.
ONE_WEIGHTING = fields(fusion__router="common", fusion__operators="id,sum,mlp,gate")

# FedBlend learns a few weights in coordinates in which all matter alike: few rounds, and one rate for all sets.
BLEND = fields(
    client__lr=0.5,
    client__l2=0.0,
    client__steps=1,
    server__lr=0.1,
    server__l2=0.01,
    rounds=30,
    eval__every=3,
    eval__patience=0,
    compute__bucket_worth=1 << 18,  # a client learns from its evidence, whatever the length of its history
)
