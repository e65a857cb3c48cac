"""Seconds of a federation's round with clients that stay alive, without Flower.

python benchmarks/resident_clients.py [--silos=4] [--clients=16] [--rounds=10]

Four workers with 51 of 204 synthetic users each; the server asks them over their sockets, all at a time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import base
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.data import load_configured
from fedvlr_jax.deploy.coordinator import Coordinator, Timing
from fedvlr_jax.deploy.flower.loopback import loopback, shares
from fedvlr_jax.deploy.local_socket import ask
from fedvlr_jax.deploy.messages import Message, pack, unpack
from fedvlr_jax.deploy.silo_programs import sizes_of
from fedvlr_jax.deploy.silos import Failure
from fedvlr_jax.settings import override
from fedvlr_jax.types import content_of

ROOT = pathlib.Path(__file__).resolve().parents[1]


class SocketTransport:
    """Workers of this machine, asked directly; node k is the k-th of them."""

    def __init__(self, sockets: tuple[pathlib.Path, ...]):
        self._sockets = sockets

    def nodes(self) -> list[int]:
        return [number for number, path in enumerate(self._sockets) if path.exists()]

    def exchange(self, questions: dict[int, Message], seconds: float) -> list[tuple[int, Message | Failure]]:
        def one(node: int) -> tuple[int, Message | Failure]:
            try:
                return node, unpack(ask(str(self._sockets[node]), pack(questions[node]), seconds))
            except OSError as error:
                return node, Failure("failed", str(error))

        with concurrent.futures.ThreadPoolExecutor(len(self._sockets)) as threads:
            return list(threads.map(one, questions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("silos", 4), ("clients", 16), ("rounds", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    settings = override(base.get_config().to_dict(), {"server.clients_per_round": given.clients})
    dataset = load_configured(settings["data"], settings["seed"])
    words = [f"--config={ROOT}/configs/base.py", f"--config.server.clients_per_round={given.clients}", "--seed=0"]
    with tempfile.TemporaryDirectory() as workdir, loopback(pathlib.Path(workdir), given.silos) as federation:
        for number, users in enumerate(shares(dataset.num_users, given.silos)):
            federation.start_client(number, [*words, f"--users={users}"])
        coordinator = Coordinator(
            settings,
            make_algorithm(settings, dataset),
            content_of(dataset),
            sizes_of(dataset),
            SocketTransport(federation.sockets),
            timing=Timing(round_seconds=600.0, start_users=dataset.num_users),
            say=print,
        )
        coordinator.wait_for_users()
        state, seconds, sent, spent = coordinator.start(), [], [], []
        for _ in range(given.rounds):
            before = federation.processes.cpu_seconds() + time.process_time()
            state, report = coordinator.round(state)
            spent.append(federation.processes.cpu_seconds() + time.process_time() - before)
            seconds.append(report.seconds)
            sent.append((report.tally.size["down"] / given.silos, report.tally.size["up"] / report.num_counted))
        down, up = (statistics.mean(column) for column in zip(*sent, strict=True))
        print(f"first round {seconds[0]:.2f} s, which compiles; then, median of {len(seconds) - 1}:")
        print(f"a round of {given.clients} clients in {given.silos} workers: {statistics.median(seconds[1:]):.3f} s")
        print(f"of processors, workers and server together: {statistics.median(spent[1:]):.3f} s")
        print(f"bytes: {down:,.0f} down a silo, {up:,.0f} up a client")


if __name__ == "__main__":
    main()
