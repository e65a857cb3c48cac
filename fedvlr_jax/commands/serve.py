"""Look at a trained run in a browser, or ask it over HTTP.

    python experiments/serve.py --workdir=runs/KU-fcf-fedvlr-s0 [--port=8000]

/                                a page: a user's history, preferences and ten best items (?user=ID)
/recommend?user=ID&k=10          the k best items outside of the history, as JSON
POST /recommend                  of {"history": [ids of items, the oldest first], "k": 10}: the same for a new user
/preferences?user=ID             shares of item identity, looks and words
/health                          what is served

Ids are those of the data set. The service listens on this machine alone unless --address says otherwise; it has no
log-in, and every caller can ask about every user.
"""

import pathlib
import signal
import sys

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import SIGNALS, Interrupt


def define(values: flags.FlagValues) -> None:
    """All flags."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("data_dir", None, "data root, if it is no longer where it was", flag_values=values)
    flags.DEFINE_string("address", "127.0.0.1", "address to listen on", flag_values=values)
    flags.DEFINE_integer("port", 8000, "port to listen on; 0 = a free one", 0, 65535, flag_values=values)
    flags.DEFINE_integer(
        "most_requests", 256, "requests at a time; more are answered with 503", 1, flag_values=values
    )
    flags.DEFINE_integer("timeout", 10, "seconds after which an idle connection is closed", 1, flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Restore, rank once, answer until stopped."""
    from fedvlr_jax.api import restored
    from fedvlr_jax.deploy.serving import make_app, prepare_answers
    from fedvlr_jax.extras import require_extra
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.training.job import stored_experiment

    if not values.workdir:
        raise ConfigError("--workdir is missing: give the folder of a training run")
    with require_extra("serve", "serving"):
        import uvicorn
    require_backend()
    workdir = pathlib.Path(values.workdir)
    answers = prepare_answers(restored(stored_experiment(workdir, values.data_dir), workdir))
    interrupt.stop_if_signalled("stopped")
    for number in SIGNALS:  # nothing is left to save: the server ends by itself when it sees one
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        make_app(answers),
        host=values.address,
        port=values.port,
        limit_concurrency=values.most_requests,
        timeout_keep_alive=values.timeout,
        log_level="warning",
    )
    print(f"http://{values.address}:{values.port}/ (Ctrl-C stops it)", file=sys.stderr, flush=True)
    uvicorn.Server(config).run()


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=False)
