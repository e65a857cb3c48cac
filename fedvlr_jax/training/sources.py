"""The runs behind ``init_from``: what they were trained on, and that nothing of it is held out here."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data import fingerprint, load_configured
from fedvlr_jax.data.heldout import held_users
from fedvlr_jax.data.ids import ids_or_numbers, numbers_of_text
from fedvlr_jax.errors import ConfigError, RunWarning, UserError
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.training.stored import stored_settings
from fedvlr_jax.types import Dataset


class Source(NamedTuple):
    """A run that another one starts from.

    Attributes:
      workdir: where it is.
      settings: nested, as it stored them.
      record: of its last checkpoint.
    """

    workdir: pathlib.Path
    settings: Mapping[str, Any]
    record: Mapping[str, Any]


def source_at(workdir: pathlib.Path) -> Source:
    """The run in a workdir.

    Raises:
      CheckpointError, ConfigError: there is none, or its settings make no sense.
    """
    settings = stored_settings(workdir)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return Source(workdir, settings, checkpoints.require_record())


class Compared(NamedTuple):
    """What is known of a run behind a start.

    Attributes:
      users: in words, how its users were compared with those of this run.
      spent: ``epsilon``, ``delta`` and ``rounds`` up to now, None without a guarantee of privacy.
      noise_seed: of which the noise on its uploads or their sums was made, None without noise.
    """

    users: str
    spent: dict[str, Any] | None = None
    noise_seed: int | None = None


def compare_sources(source: Source, dataset: Dataset, parts: tuple[str, ...]) -> dict[str, Compared]:
    """Refuses a source that is of other items, or was trained on rows that are held out here, be it by the runs that
    it started from itself.

    Args:
      source: of ``init_from``.
      dataset: of this run.
      parts: of `types.FedState`, the parameters that are taken.

    Returns:
      What is known of each of these runs, by its workdir.

    Raises:
      ConfigError: naming what differs, or how many rows are held out here, and one of them.
      DataError: the data set of the source is another one than this run's, and cannot be loaded to compare.
    """
    where = f"init_from={source.workdir}"
    other = _dataset_of(source, dataset, parts, where)
    said = {str(source.workdir): Compared(_compared(other, dataset, where), _spent(source), _noise_seed(source))}
    while (older := source.settings["init_from"]) and older not in said:
        where = f"{where}, which started from {older}"
        try:
            source = source_at(pathlib.Path(older))
            other = _dataset_of(source, dataset, ("public",), where)
        except UserError as error:
            said[older] = Compared(_not_compared(where, f"it cannot be read ({error})"))
            break
        said[older] = Compared(_compared(other, dataset, where), _spent(source), _noise_seed(source))
    return said


def require_same_ids(
    there: np.ndarray | None, here: np.ndarray | None, sizes: tuple[int, int], what: str, *, most: int = 3
) -> None:
    """Refuses two catalogues that differ, or number the same ids differently.

    Args:
      there, here: the original ids by number, None where the numbers are the ids.
      sizes: how many there and here.
      what: where they are from, for the message.
      most: so many ids of each kind are named.

    Raises:
      ConfigError: saying how many ids only one of them has, and which.
    """
    old, new = (list(map(str, range(n) if ids is None else ids)) for ids, n in zip((there, here), sizes, strict=True))
    if old == new:
        return
    only = [sorted(set(old) - set(new)), sorted(set(new) - set(old))]
    if not any(only):
        raise ConfigError(f"{what}: expected the same order of ids, found the same ids in another order")
    shown = [f" ({', '.join(ids[:most])}{', ...' if len(ids) > most else ''})" if ids else "" for ids in only]
    raise ConfigError(
        f"{what}: expected the same ids there and here, found {len(old)} there and {len(new)} here; only there "
        f"{len(only[0])}{shown[0]}, only here {len(only[1])}{shown[1]}"
    )


def _compared(other: Dataset, dataset: Dataset, where: str) -> str:
    """In words how the users of another run's data set were compared with those of this run, unless it is refused."""
    if other is dataset:
        return "the same data set and split"
    number_u = _numbers_there(other, dataset.ranked)
    if number_u is None:
        sizes = f"{other.num_users} users of {other.name} there and {dataset.ranked.num_users} of {dataset.name} here"
        return _not_compared(where, f"{sizes} have no ids that both data sets know them by")
    _require_held_out(other, dataset.ranked, number_u, where)
    known = np.count_nonzero(number_u >= 0)
    if dataset.newcomers is not None and known:
        warnings.warn(
            f"{where}: {known} of {len(number_u)} users who are left out of training here were trained there, so "
            "that they are not new to its parameters",
            RunWarning,
            stacklevel=4,
        )
    return f"{known} of {len(number_u)} users are there too; no row that is held out here is a train row there"


def _spent(source: Source) -> dict[str, Any] | None:
    guarantee = guarantee_of(source.settings, source.record["data"]["num_users"])
    if guarantee is None:
        return None
    said = guarantee.describe(source.record["round"])
    return {name: said[name] for name in ("epsilon", "delta", "rounds")}


def _noise_seed(source: Source) -> int | None:
    settings = source.settings
    num_users = source.record["data"]["num_users"]
    noised = settings["aggregation"]["noise_multiplier"] > 0 or guarantee_of(settings, num_users) is not None
    return settings["seed"] if noised else None


def _not_compared(where: str, why: str) -> str:
    """A `RunWarning`, and the same for a result."""
    warnings.warn(
        f"{where}: {why}, so nobody can tell whether rows that are held out here were train rows there",
        RunWarning,
        stacklevel=5,
    )
    return f"not compared: {why}"


def _numbers_there(other: Dataset, dataset: Dataset) -> np.ndarray | None:
    """int64 [u], the numbers that the users of `dataset` have in `other`, -1 for nobody there.

    As for items, numbers are the ids where a data set has none. Two data sets without ids are of the same users where
    they have one name and as many users; else nobody can tell who is who, and there is no answer (None).
    """
    if other.user_ids is None and dataset.user_ids is None:
        same = (other.name, other.num_users) == (dataset.name, dataset.num_users)
        return np.arange(dataset.num_users) if same else None
    number_u = numbers_of_text(*(ids_or_numbers(x.user_ids, x.num_users) for x in (other, dataset)))
    both = other.user_ids is not None and dataset.user_ids is not None
    return number_u if both or (number_u >= 0).any() else None


def _require_held_out(other: Dataset, dataset: Dataset, number_u: np.ndarray, where: str) -> None:
    """Refuses train rows of `other` that are held out in `dataset`, whose users have the numbers `number_u` there."""
    train = _pairs(other.train_user, other.train_item, other.num_items)
    user_h, counts, example = held_users(dataset), [], ""
    for name, item_h in (("validation", dataset.valid_item), ("test", dataset.test_item)):
        pair_h = _pairs(number_u[user_h], item_h, other.num_items)
        found = np.flatnonzero((item_h >= 0) & (number_u[user_h] >= 0) & np.isin(pair_h, train))
        counts.append(f"{len(found)} of {np.count_nonzero(item_h >= 0)} {name} rows")
        if len(found):
            user = ids_or_numbers(dataset.user_ids, dataset.num_users)[user_h[found[0]]]
            example = f"user {user} with item {ids_or_numbers(dataset.item_ids, dataset.num_items)[item_h[found[0]]]}"
    if example:
        raise ConfigError(
            f"{where}: expected a run that was not trained on what is held out here, found {' and '.join(counts)} "
            f"of this run among its train rows, such as {example}; metrics would say what its parameters remember. "
            "Start from a run of the same split, or of other users"
        )


def _pairs(user: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """One number for each pair, int64."""
    return user.astype(np.int64) * num_items + item


def _require_same_catalogue(other: Dataset, dataset: Dataset, parts: tuple[str, ...], where: str) -> None:
    """Refuses other items, and other users where private parameters are asked for."""
    named = {"items": (other.item_ids, dataset.item_ids, other.num_items, dataset.num_items)}
    if "private" in parts:
        named["users"] = (other.user_ids, dataset.user_ids, other.num_users, dataset.num_users)
    for what, (there, here, num_there, num_here) in named.items():
        if there is None and here is None and other.name != dataset.name:
            raise ConfigError(
                f"{where}, {what}: expected original ids, or the data set {other.name}, found {dataset.name} without "
                "any; equal numbers of two data sets are not the same"
            )
        require_same_ids(there, here, (num_there, num_here), f"{where}, {what}")


def _dataset_of(source: Source, dataset: Dataset, parts: tuple[str, ...], where: str) -> Dataset:
    """The data set of the other run, of the same catalogue: this one where they are the same, else loaded."""
    settings, stored = source.settings, source.record["data"]
    other = dataset
    if stored != fingerprint(dataset):
        other = load_configured(settings["data"], settings["seed"], leaves_users_out=True)
        if fingerprint(other) != stored:
            raise ConfigError(
                f"{where}: expected its data set {settings['data']['name']} with the content that it was trained on, "
                "found another, so that nobody can tell whose parameters it has"
            )
    _require_same_catalogue(other, dataset, parts, where)
    return other
