"""Errors that a user can cause and mend; the command line prints their message and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Row = TypeVar("Row")


class UserError(ValueError):
    """Base of all errors whose message is meant for the user: expected, found, where."""


class DataError(UserError):
    """A data set that is missing, incomplete or inconsistent."""


class ConfigError(UserError):
    """A setting that does not exist, is out of range, or contradicts another one."""


class CheckpointError(UserError):
    """A checkpoint that is missing, or belongs to another configuration or data set."""


class TrainingError(UserError):
    """A run that cannot go on with these settings, such as one in which every client diverges."""


class MessageError(UserError):
    """A message of a federation that does not fit: another version, other arrays, users of somebody else."""


class RunWarning(UserWarning):
    """What a reader of a run's result should know about it."""


def suggest(name: str, known: Iterable[str], prefix: str = "", suffix: str = "") -> str:
    """The end of a message about an unknown name: "; did you mean x?", or "" where nothing known is spelled alike.

    Args:
      name: dotted, as it was written.
      known: the names that exist; the closest by the whole name comes first, by its last component second.
      prefix, suffix: around the suggested name.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        last = difflib.get_close_matches(name.rsplit(".")[-1], [k.rsplit(".")[-1] for k in known], n=1)
        close = [k for k in known if last and k.rsplit(".")[-1] == last[0]]
    return f"; did you mean {prefix}{close[0]}{suffix}?" if close else ""


def require_one_of(known: Iterable[str], field: str, name: str) -> None:
    """Refuses a value of `field` that is not among the names that exist.

    Raises:
      ConfigError: naming the field, all names, what was found, and the name that is spelled alike.
    """
    known = list(known)
    if name not in known:
        hint = suggest(str(name), known, "'", "'")
        raise ConfigError(f"{field}: expected one of {', '.join(known)}, found {name!r}{hint}")


def choose(table: Mapping[str, Row], field: str, name: str) -> Row:
    """The row of a table that the setting `field` names.

    Raises:
      ConfigError: as `require_one_of`.
    """
    require_one_of(table, field, name)
    return table[name]
