"""What a gradient-trained centralised baseline is: pure functions that `learning.fit_learner` trains.

It scores by an inner product, s_ui = p_u . q_i, of representations that its parameters give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fedvlr_jax.baselines.batches import draw_rows
from fedvlr_jax.types import Array, Dataset, PyTree


def _nothing(key: Array, inputs: PyTree, hyper: dict[str, Array]) -> PyTree:
    return ()


class Learner(NamedTuple):
    """A centralised model with a training loop (Adam; early stopping on validation).

    Hyper-parameters are traced float32 scalars that all points of a grid share one compiled program for, except
    those named in `static`. ``lr``, the rate of Adam, is always one of them.

    Attributes:
      prepare: ``prepare(dataset, **static) -> inputs``, the device arrays that every step reads (edges, features,
        neighbours). It reads train rows and features only.
      init: ``init(key, inputs, dim) -> params``.
      loss: ``loss(params, inputs, epoch, batch, key, hyper) -> []``; `epoch` is what `start_epoch` returned, `batch`
        one step of what `draw` returned, `key` is another one in every step.
      represent: ``represent(params, inputs) -> (p_ud, q_id)`` with s_ui = p_u . q_i.
      grid: the hyper-parameters to choose from on validation, all points with the same names.
      draw: ``draw(key, rows, size) -> batches`` of one epoch, with a leading axis of steps: `batches.draw_rows`, or
        `batches.draw_users`.
      start_epoch: ``start_epoch(key, inputs, hyper) -> epoch``, what stays fixed during one epoch, such as a
        sampled graph.
      static: names of hyper-parameters that change shapes or structure. They are handed to `prepare` as Python
        values, and to nothing else.
      needs_features, megabytes, printed: as of `base.Baseline`.
    """

    prepare: Callable[..., PyTree]
    init: Callable[..., PyTree]
    loss: Callable[..., Array]
    represent: Callable[..., tuple[Array, Array]]
    grid: tuple[dict[str, Any], ...]
    draw: Callable[..., PyTree] = draw_rows
    start_epoch: Callable[..., PyTree] = _nothing
    static: tuple[str, ...] = ()
    needs_features: bool = False
    megabytes: Callable[[Dataset], float] | None = None
    printed: bool = False
