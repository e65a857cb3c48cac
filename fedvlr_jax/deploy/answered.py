"""What a silo has answered, on its own disk: what is answered once is not answered again after a start.

Two answers with one noise tell their difference without it, and so do two sums that differ in one silo. So a round is
noted before its answer goes out, and one folder of states is good for one federation.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np

from fedvlr_jax.deploy.messages import TASK_LAYOUT, Message, pack
from fedvlr_jax.errors import ConfigError, MessageError
from fedvlr_jax.io.files import read_json, write_json

NEW_FOLDER = "a new federation needs new folders of states"


class Answered:
    """The notes in a folder of states, which exists."""

    def __init__(self, folder: pathlib.Path):
        """Reads the notes.

        Raises:
          ConfigError: they cannot be read.
        """
        self._path = folder / "answered.json"
        try:
            stored = read_json(self._path) or {}
        except ConfigError as error:
            raise ConfigError(
                f"{self._path}: expected what this silo has answered, found no JSON object; {NEW_FOLDER}"
            ) from error
        users = stored.get("users", {})
        self._last = {int(user): (int(round_), str(digest)) for user, (round_, digest) in users.items()}
        self._summed = int(stored.get("summed", -1))

    def require_unsummed(self, round_: int) -> None:
        """Refuses a round that is not later than all whose masked words went out.

        Raises:
          MessageError: it is not.
        """
        if round_ <= self._summed:
            raise MessageError(
                f"expected a round after {self._summed}, for this silo is in one sum a round, found round {round_}; "
                f"{NEW_FOLDER}"
            )

    def note_sum(self, round_: int) -> None:
        """Notes that masked words of a round go out.

        Raises:
          MessageError: as `require_unsummed`; then nothing is noted.
        """
        self.require_unsummed(round_)
        self._summed = round_
        self._write()

    def note(self, round_: int, digests: Mapping[int, str]) -> None:
        """Notes that users are asked about a round, by the digests of what they are asked.

        Raises:
          MessageError: one was asked about a later round before, or something else about this one; then nothing is
            noted.
        """
        for user, digest in digests.items():
            last, known = self._last.get(user, (-1, ""))
            if round_ < last or (round_ == last and digest != known):
                raise MessageError(
                    f"user {user}: expected a round after {last}, or the same question about that one again, found "
                    f"another about round {round_}: its noise answers one question; {NEW_FOLDER}"
                )
        self._last |= {user: (round_, digest) for user, digest in digests.items()}
        self._write()

    def _write(self) -> None:
        write_json(self._path, {"users": self._last, "summed": self._summed})


def digests_of(question: Message, histories: Mapping[int, np.ndarray]) -> dict[int, str]:
    """By user a digest of all that an answer is made of, but for secrets that stay the same."""
    told = {name: x for name, x in question.arrays.items() if name not in TASK_LAYOUT}
    common = hashlib.sha256(pack(question._replace(arrays=told)))
    found = {}
    for user, counted in zip(*(question.arrays[name].tolist() for name in TASK_LAYOUT), strict=True):
        own = common.copy()
        own.update(np.array([counted, *histories[user]], "<i8").tobytes())
        found[user] = own.hexdigest()
    return found
