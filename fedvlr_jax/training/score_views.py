"""Score views before the first round: sums, choices, maps, and what every client learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from fedvlr_jax.agreed import Evidence, ScoreViews, ViewBasis
from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.federated import view_choice, view_maps
from fedvlr_jax.federated.held_back import HeldBack, hold_back
from fedvlr_jax.federated.score_views import READ_TIMES, VIEWS, coordinates, kept_map, weight_names
from fedvlr_jax.federated.view_basis import Learned, choose_basis, numbers_once
from fedvlr_jax.training.all_views import AllViews, draw_candidates, own_quality, valid_targets
from fedvlr_jax.training.trial_fit import numbers_of_a_trial, trial_quality
from fedvlr_jax.types import Dataset, PyTree, given

ERRORS = 2.0
"""Standard errors over clients by which a view must be better for the order of time not to be questioned."""


class Formed(NamedTuple):
    """What does not depend on the draw of candidates.

    Attributes:
      order: whether they read the order of time.
      seed: what was drawn by to form them, held-back items without times among it; None where nothing was.
      choice: of the maps.
      inner, whole: the views of inner and of whole histories.
      target_um: int32 [u, m], the held-back items or -1.
      judged: views and int32 [u, m] items, or -1, that choices go by: whole views and validation items, or inner ones
        and the held-back items where there are none.
      quality_hv: [h, v], NDCG@50 of each judged view alone, for every client that has something to judge it by.
    """

    order: bool
    seed: int | None
    choice: view_maps.Choice
    inner: AllViews
    whole: AllViews
    target_um: np.ndarray
    judged: tuple[AllViews, np.ndarray]
    quality_hv: np.ndarray

    @property
    def quality_v(self) -> np.ndarray:
        """[v], the mean over these clients."""
        return self.quality_hv.mean(axis=0) if len(self.quality_hv) else np.zeros(len(VIEWS))

    def needs_order(self) -> bool:
        """Whether the best view that reads the order of time is better than the best other one by `ERRORS`."""
        reads_v = np.array([name in READ_TIMES for name in VIEWS])
        with_order, without = (int(np.argmax(np.where(on_v, self.quality_v, -1))) for on_v in (reads_v, ~reads_v))
        gain_h = self.quality_hv[:, with_order] - self.quality_hv[:, without]
        return len(gain_h) > 0 and gain_h.mean() > ERRORS * gain_h.std() / np.sqrt(len(gain_h))


class FormedViews(NamedTuple):
    """What the server hands out before the rounds: maps, and the coordinates in which weights are learned.

    Attributes:
      dataset: whose histories the maps were formed of.
      formed: the maps, and the views of these users.
      learned: what these users learn from.
      basis: chosen for them.
      host: settings of the host.
      seed: of the draws: of candidates, and of held-back items where there are no times.
    """

    dataset: Dataset
    formed: Formed
    learned: Learned
    basis: ViewBasis
    host: Mapping[str, Any]
    seed: int

    def of(self, histories: Dataset) -> ScoreViews:
        """The views of the users of `histories`, whoever the maps were formed of."""
        formed, learned = self.formed, self.learned
        whole = formed.whole
        if histories is not self.dataset:
            histories = _timed(histories, formed.order)
            held = hold_back(histories, self.seed)
            whole = whole.of(histories).tabled()
            inner = formed.inner.of(held.inner)
            learned = draw_candidates(inner, held.target_um, self.host["candidates"], self.seed)
        quality = {f"quality {name}": value for name, value in zip(VIEWS, formed.quality_v, strict=True)}
        chosen = formed.choice.numbers() | {"order": float(formed.order)} | quality
        return ScoreViews(
            evidence=_evidence(learned, self.basis),
            z_uiv=whole.z_uiv,
            maps=whole.maps,
            count_i=whole.count_i,
            age_r=None if whole.age_r is None else jnp.asarray(whole.age_r, jnp.int32),
            start_u=jnp.asarray(whole.start_u, jnp.int32),
            basis=self.basis,
            choice={name: jnp.float32(x) for name, x in chosen.items()},
        )


class ConfiguredViews:
    """Score views of one set of histories; those that were formed last are remembered.

    Args:
      settings: nested, with all fields.
      dataset: its histories.
    """

    def __init__(self, settings: Mapping[str, Any], dataset: Dataset):
        self._host, self._seed = settings["host"], settings["seed"]
        self._on = parse_names(settings["fusion"]["modalities"])
        self._last: tuple[Dataset, Formed] | None = None
        self._once = view_choice.megabytes_once(dataset) + 4e-6 * numbers_once() * dataset.num_users
        self._trial = 2 * (self._once + 4e-6 * numbers_of_a_trial() * dataset.num_users)
        self.megabytes = self._once  # `_trial` where the order of time was tried

    def of(self, dataset: Dataset, seed: int | None = None) -> ScoreViews:
        """`formed`, for the histories of `dataset` itself."""
        return self.formed(dataset, seed).of(dataset)

    def formed(self, dataset: Dataset, seed: int | None = None) -> FormedViews:
        """The maps with the features of `dataset` (same interactions) that `fusion.modalities` leaves on.

        Where items came after training nothing is chosen anew: weights were learned in the coordinates of one choice.

        Args:
          dataset: interactions and features.
          seed: of the draws; None = that of the settings.
        """
        seed = self._seed if seed is None else seed
        if (before := dataset.fewer_items) is not None:
            known = self.formed(before, seed)
            return known._replace(dataset=dataset, formed=self._reformed(known.formed, dataset, seed))
        if self._last is None or self._last[0] is not dataset or self._last[1].seed not in (None, seed):
            self._last = None  # before others are formed
            self._last = dataset, self._form(dataset, seed)
        formed = self._last[1]
        learned, basis = self._learn(formed, seed)
        return FormedViews(dataset, formed, learned, basis, self._host, seed)

    def _learn(self, formed: Formed, seed: int) -> tuple[Learned, ViewBasis]:
        learned = draw_candidates(formed.inner, formed.target_um, self._host["candidates"], seed)
        return learned, choose_basis(learned, formed.quality_v)

    @threadpool_limits.wrap(limits=1, user_api="blas")  # LAPACK waits for its threads where cores are shared
    def _form(self, dataset: Dataset, seed: int) -> Formed:
        """With the order of time, unless validation prefers a blend without it; single views may show its worth."""
        formed = self._form_with(dataset, self._host["order"], seed)
        if not (self._host["choose_order"] and formed.order) or formed.needs_order():
            return formed
        without = self._form_with(dataset, order=False, seed=seed)
        self.megabytes = self._trial
        better = self._trial_quality(without, seed) > self._trial_quality(formed, seed)
        return without if better else formed._replace(seed=seed)

    def _trial_quality(self, formed: Formed, seed: int) -> float:
        learned, basis = self._learn(formed, seed)
        return trial_quality(formed.judged, _evidence(learned, basis), basis, self._host["loss_power"])

    def _form_with(self, dataset: Dataset, order: bool, seed: int) -> Formed:
        features, histories = view_maps.without_modalities(dataset, self._on), _timed(dataset, order)
        held = hold_back(histories, seed)
        sums = view_maps.federate(held.inner)
        by = held if (held.target_um >= 0).any() else HeldBack(histories, valid_targets(dataset))  # of one item each
        choice, known = view_choice.choose(sums, by, features)
        handed = [sums]
        del sums  # nobody but `form` keeps them
        inner = self._views(held.inner, handed.pop(), features, choice, known)
        del known  # before those of whole histories are formed
        whole = self._views(histories, view_maps.federate(histories), features, choice)
        inner, whole = inner.tabled(), whole.tabled()  # the sums are no more
        valid_um = valid_targets(dataset)
        judged = (whole, valid_um) if (valid_um >= 0).any() else (inner, held.target_um)
        in_order = histories.train_age is not None
        drawn_by = None if in_order else seed
        return Formed(in_order, drawn_by, choice, inner, whole, held.target_um, judged, own_quality(*judged))

    @threadpool_limits.wrap(limits=1, user_api="blas")
    def _reformed(self, known: Formed, dataset: Dataset, seed: int) -> Formed:
        """The same choice for a catalogue with more items."""
        features, whole = view_maps.without_modalities(dataset, self._on), _timed(dataset, known.order)
        inner, whole_views = (
            self._views(histories, view_maps.federate(histories), features, known.choice).tabled()
            for histories in (hold_back(whole, seed).inner, whole)
        )
        return known._replace(inner=inner, whole=whole_views)

    def _views(
        self,
        histories: Dataset,
        sums: view_maps.ViewSums,
        features: Dataset,
        choice: view_maps.Choice,
        known: Mapping[str, np.ndarray] | None = None,
    ) -> AllViews:
        count_i = jnp.asarray(sums.ordered.count_i, jnp.float32)
        formed = view_maps.form(sums, features, choice, co_occurrence="D" in self._on, known=known)
        del sums  # `form` drops them, too, once it needs them no more
        maps = {name: kept_map(x, self._host["strongest"]) for name, x in formed}
        nobody = np.zeros(0, np.int32)
        return AllViews(None, maps, count_i, nobody, None, nobody, nobody).of(histories)


def _timed(dataset: Dataset, order: bool) -> Dataset:
    return dataset if order else dataclasses.replace(dataset, train_age=None)


def _evidence(learned: Learned, basis: ViewBasis) -> Evidence:
    return Evidence(*_coordinates(learned.z_ubv, basis), learned.target_ub, learned.candidate_ub)


def describe_views(algorithm: Algorithm, params: PyTree, views: ScoreViews) -> dict[str, Any]:
    """What a run chose, in words: how views are formed, what each is worth alone, and their shared weights.

    Args:
      algorithm: of the run.
      params: its public parameters.
      views: of its clients.
    """
    head, nobody = params["host"]["head"], {"d": jnp.zeros(len(weight_names()))}
    weight_k = given(algorithm.model.host.view_weights)(nobody, head, views.basis)
    weights = {f"weight {name}": float(x) for name, x in zip(weight_names(), weight_k, strict=True)}
    return {"start": _start(views)} | view_maps.described(views.choice) | weights


def chosen_line(views: ScoreViews) -> str:
    """What a run chose before its first round, in one line."""
    chosen = view_maps.described({k: x for k, x in views.choice.items() if not k.startswith("quality")})
    settings = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return f"score views start as {_start(views)}; {settings}"


def _start(views: ScoreViews) -> str:
    best = int(np.argmax(views.basis.start_k))
    return f"{float(views.basis.start_k[best]):g} times {list(VIEWS)[best]}"


_coordinates = jax.jit(coordinates)
