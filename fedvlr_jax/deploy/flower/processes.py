"""Processes that are started together and end together, by their ids, whatever ends the program that started them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from fedvlr_jax.io.files import appended, read_lines

GRACE = 5.0  # seconds between asking a process to end and ending it


class Processes:
    """A context manager; each process is a group of its own with all that it starts, and has a log."""

    def __init__(self, logs: pathlib.Path, environment: Mapping[str, str]):
        """Nothing is started yet.

        Args:
          logs: folder for ``<name>.log``, is made if need be.
          environment: of all processes.
        """
        self._logs, self._environment, self.grace = logs, dict(environment), GRACE
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.end(*self._running)

    def log(self, name: str) -> pathlib.Path:
        """The file that a process writes to."""
        return self._logs / f"{name}.log"

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts a process; a log that is there is continued."""
        with appended(self.log(name)) as log:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._running[name] = process
        return process

    def kill(self, name: str) -> None:
        """Ends a process and all that it started, at once."""
        process = self._running.pop(name)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def end(self, *names: str) -> None:
        """Asks processes to end, and ends those that do not within `grace` seconds, with all that they started."""
        ending = [self._running.pop(name) for name in names]
        for process in ending:
            _signal_group(process.pid, signal.SIGTERM)
        limit = time.monotonic() + self.grace
        for process in ending:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(limit - time.monotonic(), 0.0))
        for process in ending:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()

    def cpu_seconds(self) -> float:
        """Seconds of processor time of all processes that run, without those that they started (Linux)."""
        ticks = os.sysconf("SC_CLK_TCK")
        return sum(_cpu_ticks(process.pid) for process in self._running.values()) / ticks

    def first_ended(self) -> str | None:
        """The name of a process that has ended by itself."""
        return next((name for name, process in self._running.items() if process.poll() is not None), None)


def environment_of(home: pathlib.Path, root: pathlib.Path) -> dict[str, str]:
    """The environment of Flower's processes.

    Args:
      home: $FLWR_HOME, the folder of its configuration.
      root: the folder that has this package and configs/, for processes that start in other folders.
    """
    path = [str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")]
    python = [str(root), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",  # seconds until a message that came in gets its process
        "PATH": os.pathsep.join(filter(None, path)),
        "PYTHONPATH": os.pathsep.join(filter(None, python)),
    }


def _cpu_ticks(pid: int) -> int:
    """Ticks of user and system time of a process."""
    fields = read_lines(pathlib.Path(f"/proc/{pid}/stat"))[0].rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _signal_group(pid: int, number: int) -> None:
    """Signals a group that this program started; the members of one that is gone are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
