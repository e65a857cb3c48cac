"""How each bucket of clients is computed: path and chunk size. Changes speed and memory, never results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedvlr_jax.local_loss import LocalSettings
from fedvlr_jax.model import Model
from fedvlr_jax.rounds import BucketPlan
from fedvlr_jax.types import Bucket

CHUNK_BYTES = 4 << 20
"""Working set of a chunk that stays in the cache of a CPU core or two."""

DENSE_FACTOR = 8
"""Scoring an item inside a matrix product is about this much cheaper than gathering and scattering its row."""


def plan_buckets(
    model: Model,
    settings: LocalSettings,
    buckets: Sequence[Bucket],
    num_items: int,
    *,
    path: str,
    chunk: int,
    num_devices: int = 1,
) -> tuple[BucketPlan, ...]:
    """Chooses path and chunk for every bucket from its shape.

    Args:
      model: host and variant.
      settings: how clients train.
      buckets: clients by history length; only shapes are read.
      num_items: |I|.
      path: "fused", "uploads", or "auto" (fused unless clients move their items or the rows they touch are few).
      chunk: clients at a time, or 0 for as many as keep the working set in cache.
      num_devices: how many devices share the slots of a bucket.
    """
    return tuple(
        _plan(model, settings, *bucket.history.shape, num_devices, num_items, path, chunk) for bucket in buckets
    )


def _plan(
    model: Model,
    settings: LocalSettings,
    num_clients: int,
    length: int,
    num_devices: int,
    num_items: int,
    path: str,
    chunk: int,
) -> BucketPlan:
    touched = num_items
    if not settings.objective.all_items:
        draw = jax.eval_shape(settings.objective.draw, jax.random.key(0), jnp.zeros(length, jnp.int32))
        touched = length + math.prod(draw.negative_aln.shape)
    if path == "auto":
        dense = settings.objective.all_items or (model.host.linear and num_items <= DENSE_FACTOR * touched)
        path = "fused" if dense and not settings.move_items else "uploads"
    touched_rows = touched < num_items
    if not chunk:
        chunk = max(1, CHUNK_BYTES // _client_bytes(model, path, touched if touched_rows else num_items, num_items))
    return BucketPlan(min(chunk, num_clients // num_devices), path, touched_rows)


def _client_bytes(model: Model, path: str, touched: int, num_items: int) -> int:
    """Bytes that one more client adds to the working set of a chunk, roughly."""
    private = jax.eval_shape(model.init_private, jax.random.key(0))
    own = private.pop("own", None)
    size = 2 * sum(x.size for x in jax.tree.leaves(private))
    dim = 1 if own is None else own.shape[1]
    if path == "fused":
        return 4 * (size + num_items * (4 + (3 * dim if own is not None else 0)))
    return 4 * (size + 4 * touched * max(dim, 64))
