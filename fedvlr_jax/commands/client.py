"""Stay alive as the client of a federation: train and rank some users when a server asks, keep what is private.

    python experiments/client.py --config=configs/ku.py --users=0:51 --state=state/a

The settings are those of the server, or it is refused. --config.data names the users' own interactions; features are
not needed. Private states lie in --state and never leave it. A supernode hands messages over through --socket.
"""

import pathlib
import sys

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("state", None, "folder of private states, of this silo alone", flag_values=values)
    flags.DEFINE_string("socket", None, "where messages come in; default <state>/socket", flag_values=values)
    flags.DEFINE_string(
        "users", ":", "users of the data, FIRST:END, as in 0:51 for users 0 to 50; default all", flag_values=values
    )
    flags.DEFINE_integer("first_user", 0, "number in the federation of the data's user 0", 0, flag_values=values)
    flags.DEFINE_integer(
        "seed",
        None,
        "makes draws and first states those of a simulation with this seed; default: a secret of this silo",
        flag_values=values,
    )


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Read the users' data, then answer until stopped."""
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.deploy.people import people_of
    from fedvlr_jax.deploy.silo import Silo, silo_key
    from fedvlr_jax.deploy.states import States, silo_secret
    from fedvlr_jax.deploy.worker import work
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.io.files import prepare_workdir
    from fedvlr_jax.io.lock import hold
    from fedvlr_jax.settings import check_settings

    if not values.state:
        raise ConfigError("--state: expected a folder for private states, found none")
    settings = cli.plain_settings(values.config)
    check_settings(settings)
    require_backend()
    dataset = load_configured(settings["data"], settings["seed"])
    people = people_of(dataset, users_of(values.users, dataset.num_users), values.first_user)
    folder = prepare_workdir(pathlib.Path(values.state))
    socket = pathlib.Path(values.socket) if values.socket else folder / "socket"
    folder.chmod(0o700)
    with hold(folder):
        secret = silo_secret(folder)
        seed = secret.seed if values.seed is None else values.seed
        silo = Silo(settings, people, States(folder), key=silo_key(seed), name=secret.name)
        print(f"{len(people)} users of {dataset.name}, silo {secret.name}, at {socket}", file=sys.stderr, flush=True)
        work(silo, socket, interrupt)


def users_of(text: str, num_users: int) -> range:
    """The users that --users names.

    Raises:
      ConfigError: anything but FIRST:END within the data.
    """
    first, colon, end = text.partition(":")
    try:
        users = range(int(first or 0), int(end or num_users))
    except ValueError:
        users = range(0)
    if not colon or not users or users[0] < 0 or users[-1] >= num_users:
        raise ConfigError(f"--users={text}: expected FIRST:END with 0 <= FIRST < END <= {num_users}")
    return users


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
