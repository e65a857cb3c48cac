"""Every setting, its default, unit and source. A configuration file starts from these and changes a few.

Any field can be set on the command line: ``python experiments/train.py --config=configs/ku.py
--config.host.name=fedrap --config.rounds=100``. "Paper" is FedVLR (arXiv 2410.08478); symbols as in README.md.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The default configuration, locked: fields that do not exist here are refused."""
    config = ConfigDict()
    config.seed = 0  # of everything random in the run, >= 0
    config.rounds = 400  # T, communication rounds at most
    config.objective = "softmax"  # bce (paper) | bpr | softmax | squared (host fcf only: closed-form user factor)
    config.variant = "fedvlr"  # base | mlp | vbpr | fedvlr (paper, table 2: ablations of the fusion)
    config.dry_run = False  # print sizes and estimated memory, compile and train nothing
    config.baselines = True  # print simple baselines under the result

    config.host = ConfigDict()
    config.host.name = "fcf"  # fedavg | fcf | fedncf | pfedrec | fedrap | fedprior (our own)
    config.host.confidence = 1.0  # objective squared: extra weight of positives (FCF, equation 2)
    config.host.ridge = 0.1  # objective squared: lambda of the user factor (FCF, equation 5)
    config.host.tune_steps = 3  # pfedrec: local steps on the client's own item rows before scoring; 0 = off
    config.host.tune_lr = 0.1  # pfedrec: rate of these steps
    config.host.table_lr = 0.1  # fedrap: rate of the private item table
    config.host.additive_weight = 0.001  # fedrap: lambda, pushes private and public tables apart
    config.host.sparsity_weight = 0.0  # fedrap: mu, L1 weight of the public table
    config.host.model_weight = 0.3  # fedprior: weight of the trained logits beside the prior's, both standardised

    config.prior = ConfigDict()  # fedprior: the item-to-item prior, fedvlr_jax/federated/prior.py
    config.prior.reach = 0.5  # exponent of the co-occurrence kernel over the distance in a history; 0 = none
    config.prior.decay = 0.75  # exponent with which an older item counts less; 0 = not at all
    config.prior.ridge = 30.0  # penalty of the co-occurrence model
    config.prior.ridge_next = 300.0  # penalty of the next-item model
    config.prior.next_weight = 4.0  # weight of the next-item model; 0 = without it
    config.prior.shrinkage = 0.2  # train rows at which an item's own evidence weighs as much as its neighbours'
    config.prior.sharpness = 40.0  # inverse temperature of the softmax over cosines that makes the neighbours

    config.fusion = ConfigDict()
    config.fusion.operators = "sum,mlp,gate"  # G, comma list of sum, mlp, gate, attention, id, visual, text (paper)
    config.fusion.router = "mlp"  # how a client weighs the views: mlp (paper) | bias | uniform
    config.fusion.activation = "relu"  # of the router and operator mlp: relu (paper) | gelu | softplus (smooth)
    config.fusion.dim = 64  # d, latent dimensions (paper)
    config.fusion.heads = 4  # operator attention: heads, a divisor of dim
    config.fusion.modalities = "D,V,C"  # comma list: D item ids, V visual, C textual; leave one out to ablate it

    config.client = ConfigDict()
    config.client.steps = 5  # A, local steps a round
    config.client.lr = 0.1  # rate of the private parameters
    config.client.optimizer = "sgd"  # sgd (algorithm 1) | momentum | adam | adamw | adagrad | rmsprop | yogi
    config.client.negatives = 4  # bce, bpr: sampled negatives for each positive and step
    config.client.holdout = 0.5  # softmax: share of the history that is held out as target, [0, 1)
    config.client.l2 = 0.0  # weight of 0.5 ||private parameters||^2
    config.client.move_items = False  # item rows move during local steps (the hosts' papers) or stay (algorithm 1)
    config.client.item_lr = 0.1  # move_items: rate of these moves
    config.client.init_scale = 0.1  # standard deviation of initial private vectors

    config.server = ConfigDict()
    config.server.lr = 0.01  # eta, rate of D, gamma and public heads
    config.server.optimizer = "adam"  # as client.optimizer; algorithm 1 has sgd
    config.server.clients_per_round = 0  # n_s, drawn uniformly without replacement; 0 = all
    config.server.l2 = 0.0  # weight of 0.5 ||public parameters||^2
    config.server.init_scale = 0.1  # standard deviation of the initial D

    config.aggregation = ConfigDict()  # what happens to uploads: fedvlr_jax/federated/transforms.py, aggregation.py
    config.aggregation.transforms = ""  # comma list, in order: clip, noise; "" = none
    config.aggregation.aggregator = "weighted_mean"  # weighted_mean (paper) | median | trimmed_mean
    config.aggregation.clip_norm = 1.0  # clip: largest L2 norm of an upload
    config.aggregation.noise_multiplier = 0.0  # noise: standard deviation on the sum of uploads, over clip_norm
    config.aggregation.trim = 0.1  # trimmed_mean: share of the clients that is left out at either end, [0, 0.5)

    config.compute = ConfigDict()  # speed and memory; but for precision, the same results up to the order of sums
    config.compute.path = "auto"  # auto | fused | picked | gathered | uploads: fedvlr_jax/federated/paths.py
    config.compute.devices = 1  # devices that the clients are split over; 0 = all of all processes
    config.compute.store = "device"  # where private states of all clients lie: device | host | disk (in the workdir)
    config.compute.closed_form = True  # step the router in closed form where that is exact (client: sgd, l2 = 0)
    config.compute.precision = "float32"  # bfloat16: rounds views and factors of products, not sums and states
    config.compute.chunk = 0  # clients computed at a time; 0 = as many as stay in cache

    config.data = ConfigDict()
    config.data.name = "synthetic"  # synthetic, or a folder below the data root: KU, ML, ...
    config.data.dir = ""  # data root; "" = the environment variable FEDVLR_DATA, else ./data
    config.data.source = "folder"  # folder (inter.csv and .npy files) | tfds (a prepared tensorflow-datasets copy)
    config.data.features = "real"  # real | shuffled (rows permuted) | random (Gaussian): controls of a gain
    config.data.expect = ConfigDict()  # sizes to check the data against; 0 = unknown
    config.data.expect.users = 0
    config.data.expect.items = 0
    config.data.expect.ratings = 0  # interactions of all splits; a difference is reported, not refused
    config.data.synthetic = ConfigDict()  # fedvlr_jax/data/synthetic.py; sizes are those of KU
    config.data.synthetic.seed = 0  # of the generator; apart from config.seed, so that seeds share one data set
    config.data.synthetic.num_users = 204
    config.data.synthetic.num_items = 560
    config.data.synthetic.num_interactions = 3488  # rows of all splits
    config.data.synthetic.dim_visual = 64  # width of the visual features
    config.data.synthetic.dim_text = 64  # width of the textual features
    config.data.synthetic.latent_dim = 6  # dimensions of a taste; more are harder to learn
    config.data.synthetic.groups = 8  # groups of users who share a taste that only co-occurrence shows
    config.data.synthetic.concentration = 0.5  # Dirichlet of the preferences; small = one modality for each user
    config.data.synthetic.sharpness = 12.0  # inverse temperature of choices; 0 = random choices
    config.data.synthetic.skew = 0.9  # standard deviation of the log of the history length; 0 = equal lengths
    config.data.synthetic.noise = 0.3  # norm of the feature noise relative to the signal

    config.eval = ConfigDict()
    config.eval.every = 10  # rounds between two evaluations; the last round is evaluated too
    config.eval.patience = 10  # evaluations without better validation NDCG@50 before stopping; 0 = never
    config.eval.chunk = 256  # users scored at once: chunk x items x 4 bytes of scores
    config.eval.item_chunk = 0  # items scored at once (twice the work); 0 = all

    config.checkpoint = ConfigDict()
    config.checkpoint.seconds = 10.0  # least time between two periodic checkpoints
    return config.lock()
