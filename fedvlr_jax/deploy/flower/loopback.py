"""A whole federation on one machine: a superlink, and for each silo a supernode and a worker that stays alive."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.deploy.flower.app import write_app, write_connection
from fedvlr_jax.deploy.flower.processes import Processes, environment_of
from fedvlr_jax.errors import TrainingError
from fedvlr_jax.io.files import read_lines

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(sys.executable).parent
START_SECONDS = 120.0


class Loopback(NamedTuple):
    """A federation whose processes are running.

    Attributes:
      processes: "superlink", and "client0", "node0", ... for every silo.
      workdir: the folder of the server, and of everything else.
      ports: of the superlink, and of each supernode.
      sockets: where the workers listen.
    """

    processes: Processes
    workdir: pathlib.Path
    ports: tuple[int, ...]
    sockets: tuple[pathlib.Path, ...]

    def start_superlink(self) -> None:
        """Starts the superlink, which keeps what it knows in a file; also after it was killed."""
        database = self.workdir / "flower" / "superlink.db"
        self.processes.start(
            "superlink",
            [
                *(str(BIN / "flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"),
                *("--host", "127.0.0.1", "--port", str(self.ports[0]), "--database", str(database)),
            ],
        )
        _wait_for_port(self.ports[0], self.processes, "superlink")

    def start_node(self, number: int) -> None:
        """Starts a supernode, also after it was killed."""
        self.processes.start(
            f"node{number}",
            [
                *(str(BIN / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{self.ports[0]}"),
                *("--host", "127.0.0.1", "--port", str(self.ports[1 + number])),
                *("--node-config", f'socket="{self.sockets[number]}"'),
            ],
        )

    def start_client(self, number: int, words: Sequence[str]) -> None:
        """Starts a worker, with words of its command line beside the folder of its states and the socket."""
        folders = [f"--state={self.workdir / 'silos' / str(number)}", f"--socket={self.sockets[number]}"]
        code = (
            "import sys; from fedvlr_jax.commands.client import main; sys.argv[0] = 'fedvlr-client'; sys.exit(main())"
        )
        self.processes.start(f"client{number}", [sys.executable, "-c", code, *words, *folders])

    def submit(self) -> None:
        """Asks the superlink to start the server; what the server says is in the log "run"."""
        self.processes.start("run", [str(BIN / "flwr"), "run", str(self.workdir / "app"), "local", "--stream"])

    def watch(self, say: Callable[[str], Any], check: Callable[[], Any]) -> None:
        """Passes on what the server says until it has a result.

        Args:
          say: takes a line.
          check: called a few times a second; it may raise.

        Raises:
          TrainingError: a process ended before there was a result.
        """
        result, log, shown = self.workdir / "result.json", self.processes.log("run"), 0
        while True:
            check()
            ended, done = self.processes.first_ended(), result.is_file()
            lines = read_lines(log)
            for line in lines[shown:]:
                say(line)
            shown = len(lines)
            if done:
                return
            if ended is not None:
                raise TrainingError(f"process {ended} ended before there was a result: {self.processes.log(ended)}")
            time.sleep(0.2)


@contextlib.contextmanager
def loopback(workdir: pathlib.Path, num_silos: int) -> Iterator[Loopback]:
    """A federation in a folder that exists; nothing runs yet, and nothing is left running at the end."""
    home = workdir / "flower"
    ports = _free_ports(1 + num_silos)
    write_app(workdir / "app", workdir)
    write_connection(home, f"127.0.0.1:{ports[0]}")
    (workdir / "silos").mkdir(exist_ok=True)
    sockets = pathlib.Path(tempfile.mkdtemp(prefix="fedvlr-"))  # their paths are short, whatever the workdir's is
    try:
        with Processes(workdir / "logs", environment_of(home, ROOT)) as processes:
            names = tuple(sockets / str(number) for number in range(num_silos))
            yield Loopback(processes, workdir, ports, names)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def shares(num_users: int, num_silos: int) -> list[str]:
    """The users of each silo, as nearly equal in number as can be, as the flag --users takes them."""
    bounds = np.linspace(0, num_users, num_silos + 1).round().astype(int)
    return [f"{a}:{b}" for a, b in itertools.pairwise(bounds)]


def _free_ports(count: int) -> tuple[int, ...]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return tuple(found.getsockname()[1] for found in sockets)


def _wait_for_port(port: int, processes: Processes, name: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and processes.first_ended() != name:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.1)
    raise TrainingError(f"{name}: expected it to listen at port {port}; see {processes.log(name)}")
