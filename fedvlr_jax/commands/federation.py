"""Run a whole federation on this machine: a superlink, and for every silo a supernode and a client that stays alive.

    python experiments/federation.py --config=configs/ku.py --workdir=runs/federation
    python experiments/federation.py --config=configs/ku.py --workdir=runs/federation --silos=0

With --silos=0 nothing is started: the workdir then has what a server on this machine needs, app/, which `flwr run`
submits, and flower/, the $FLWR_HOME that knows the superlink; docs/deployment.md goes on from there. A federation
that was stopped goes on after its last round.
"""

import pathlib
import sys

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("workdir", None, "folder of the federation; default runs/federation", flag_values=values)
    flags.DEFINE_integer(
        "silos", 4, "how many silos share the users; 0: write files, start nothing", 0, flag_values=values
    )
    flags.DEFINE_string(
        "superlink", "127.0.0.1:8000", "with --silos=0: host:port of the superlink", flag_values=values
    )
    flags.DEFINE_string(
        "certificate",
        None,
        "with --silos=0: who signed the superlink's certificate; none: no TLS",
        flag_values=values,
    )
    flags.DEFINE_float("round_seconds", 60.0, "seconds that a round waits for uploads", 0.0, flag_values=values)
    flags.DEFINE_float("start_seconds", 600.0, "seconds that the server waits for users", 0.0, flag_values=values)
    flags.DEFINE_integer("start_users", 0, "users that have to be there; 0: all of the data", 0, flag_values=values)
    flags.DEFINE_bool(
        "secret", False, "silos draw with secrets of theirs, not with the run's seed", flag_values=values
    )


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Write what the server reads, start everything, show what it says, end everything."""
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.data.histories import split_by_user
    from fedvlr_jax.deploy.coordinator import Timing
    from fedvlr_jax.deploy.flower.app import write_app, write_connection
    from fedvlr_jax.deploy.flower.loopback import loopback, shares
    from fedvlr_jax.deploy.partial_rows import require_enough
    from fedvlr_jax.deploy.server_run import prepare_server
    from fedvlr_jax.extras import require_extra
    from fedvlr_jax.io.files import prepare_workdir, read_json
    from fedvlr_jax.training.schedule import make_plan
    from fedvlr_jax.training.warm_start import refuse_warm_start

    settings = cli.plain_settings(values.config)
    make_plan(settings)
    refuse_warm_start(settings, "a federation")
    dataset = load_configured(settings["data"], settings["seed"])
    num_users = dataset.num_users
    workdir = prepare_workdir(pathlib.Path(values.workdir or "runs/federation"))
    timing = Timing(values.round_seconds, values.start_seconds, values.start_users or num_users)
    prepare_server(workdir, settings, timing, dataset)
    if not values.silos:
        write_app(workdir / "app", workdir)
        write_connection(workdir / "flower", values.superlink, certificate=values.certificate)
        print(f"{workdir} is ready; with a superlink and supernodes: flwr run {workdir / 'app'} local --stream")
        return
    # Every silo would refuse, and all would wait.
    require_enough(settings["client"], split_by_user(dataset, dataset.train_item), dataset.num_items)
    with require_extra("flower", "a federation"):
        import flwr  # noqa: F401
    (workdir / "result.json").unlink(missing_ok=True)
    words = [argument for argument in sys.argv[1:] if argument.startswith(("--config", "-config"))]
    seed = [] if values.secret else [f"--seed={settings['seed']}"]
    with loopback(workdir, values.silos) as federation:
        federation.start_superlink()
        for number, users in enumerate(shares(num_users, values.silos)):
            federation.start_client(number, [*words, f"--users={users}", *seed])
            federation.start_node(number)
        federation.submit()
        stop = "stopped; silos and server go on after the last round that is saved"
        federation.watch(
            lambda line: print(line, file=sys.stderr, flush=True), lambda: interrupt.stop_if_signalled(stop)
        )
    result = read_json(workdir / "result.json") or {}
    for split in ("valid", "test"):
        print(
            f"{split}: "
            + ", ".join(f"{name} {value:.4f}" for name, value in result[split].items() if value is not None)
        )


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
