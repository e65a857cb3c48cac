"""Private states of a silo on its own disk: a file for each user and round, never changed once it is there.

After a round there are two: the state that the round began with, and the one that it ended with. Which of them is the
user's state is not decided before the server says whether the round counted.
"""

from __future__ import annotations

import pathlib
import re
import secrets
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fedvlr_jax.io.files import read_arrays, read_json, write_arrays, write_json

Arrays = Mapping[str, np.ndarray]


class Secret(NamedTuple):
    """What a silo drew from the operating system when it was new.

    Attributes:
      name: by which a server knows it again; it is told.
      seed: 64 bits, of its draws; it is not.
    """

    name: str
    seed: int


def silo_secret(folder: pathlib.Path) -> Secret:
    """The secret in a folder of states, drawn when it is first asked for."""
    path = folder / "silo.json"
    stored = read_json(path)
    if stored is None:
        stored = Secret(secrets.token_hex(8), secrets.randbits(64))._asdict()
        write_json(path, stored)
    return Secret(**stored)


class States:
    """The states in a folder, which exists; all that were read or written stay in memory."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._known: dict[int, dict[int, Arrays]] = {}
        for path in folder.glob("user-*/round-*.npz"):
            if found := re.fullmatch(r"user-(\d+)/round-(\d+)\.npz", path.relative_to(folder).as_posix()):
                self._known.setdefault(int(found[1]), {})[int(found[2])] = {}

    def get(self, user: int, round_: int) -> Arrays | None:
        """The state of a user after a round, arrays by name; None if there is none."""
        rounds = self._known.get(user, {})
        if round_ not in rounds:
            return None
        if not rounds[round_]:
            rounds[round_] = read_arrays(self._file(user, round_))
        return rounds[round_]

    def rounds(self, user: int) -> list[int]:
        """The rounds whose states of a user are there, ascending."""
        return sorted(self._known.get(user, {}))

    def put(self, user: int, round_: int, state: Arrays, *, keep: int) -> None:
        """Writes the state of a user after a round, then deletes all others but the one after round `keep`."""
        self._file(user, round_).parent.mkdir(exist_ok=True)
        write_arrays(self._file(user, round_), state, compress=False)
        rounds = self._known.setdefault(user, {})
        rounds[round_] = dict(state)
        for old in set(rounds) - {round_, keep}:
            del rounds[old]
            self._file(user, old).unlink(missing_ok=True)

    def _file(self, user: int, round_: int) -> pathlib.Path:
        return self.folder / f"user-{user}" / f"round-{round_}.npz"
