"""How each bucket of clients is computed: path and chunk size. Changes speed and memory, never results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.executors import BucketPlan
from fedvlr_jax.federated.factors import has_factors
from fedvlr_jax.federated.step_loss import LocalSettings
from fedvlr_jax.models.model import ITEM_TABLE, Model
from fedvlr_jax.types import Bucket

CHUNK_BYTES = 4 << 20
"""Working set of a chunk that stays in the cache of a CPU core or two."""

DENSE_FACTOR = 8
"""Scoring an item inside a matrix product is about this much cheaper than gathering and scattering its row.

Two CPU cores, 139 clients, 560 items, rows of 192: scoring all items and pulling back 9.6 ns an item, gathering and
scattering 75 ns a row (benchmarks/throughput.py has both paths)."""

OWN_TABLES = 4
"""Clients with private item tables in a chunk of the path `factors`, at least, with empty slots if need be.

They share passes over public rows. For a single one XLA would read its table in place, and copy all tables first."""


def plan_buckets(
    model: Model,
    settings: LocalSettings,
    buckets: Sequence[Bucket],
    num_items: int,
    *,
    path: str,
    chunk: int,
    num_devices: int = 1,
    forms_uploads: bool = False,
    scales_uploads: bool = False,
    whole_uploads: bool = False,
) -> tuple[BucketPlan, ...]:
    """Chooses path and chunk for every bucket from its shape.

    Args:
      model: host and variant.
      settings: how clients train.
      buckets: clients by history length; only shapes are read.
      num_items: |I|.
      path: a name in `paths.PATHS`, or "auto": the cheapest that can be.
      chunk: clients at a time, or 0 for as many as keep the working set in cache.
      num_devices: how many devices share the slots of a bucket.
      forms_uploads: uploads are needed one by one, with the rows of distinct items: "auto" then is `uploads`.
      scales_uploads: all that happens to them there is a multiplication: "auto" then may be `factors`.
      whole_uploads: they have the rows of all items.
    """

    def plan(bucket: Bucket) -> BucketPlan:
        num_clients, length = bucket.history.shape
        wanted = path
        if forms_uploads and path == "auto":
            fits = scales_uploads and _prefers_factors(model, settings, length, num_items)
            wanted = "factors" if fits else "uploads"
        found = _plan(model, settings, length, num_clients // num_devices, num_items, wanted, chunk)
        # An aggregator that is not linear must know which rows a client sent.
        return found._replace(touched_rows=not whole_uploads) if forms_uploads else found

    return tuple(plan(bucket) for bucket in buckets)


def _plan(
    model: Model,
    settings: LocalSettings,
    length: int,
    slots: int,
    num_items: int,
    path: str,
    chunk: int,
) -> BucketPlan:
    """Path and chunk of a bucket of so many slots on each device, with histories of one length."""
    touched, step_rows = _rows_read(settings, length, num_items)

    def chunk_of(path: str) -> int:
        confined = min(touched, num_items)
        rows = {"picked": step_rows, "gathered": touched, "uploads": confined}.get(path, num_items)
        wanted = min(chunk or max(1, CHUNK_BYTES // _client_bytes(model, settings, path, rows)), slots)
        return max(wanted, OWN_TABLES) if path == "factors" and model.host.private_item_table else wanted

    if path == "auto":
        path = _path(model, settings, step_rows, num_items, settings.steps * chunk_of("picked"))
    return BucketPlan(chunk_of(path), path, touched_rows=touched < num_items)


def _rows_read(settings: LocalSettings, length: int, num_items: int) -> tuple[int, int]:
    """The rows that a client with a history of this length reads in a round and in a step, with repetitions."""
    if settings.objective.all_items:
        return num_items, num_items
    draw = jax.eval_shape(settings.objective.draw, jax.random.key(0), jnp.zeros(length, jnp.int32))
    num_steps, *per_step = draw.negative_aln.shape
    return length + num_steps * math.prod(per_step), length + math.prod(per_step)


def _prefers_factors(model: Model, settings: LocalSettings, length: int, num_items: int) -> bool:
    """Whether factors exist, and all items inside matrix products are less work than the rows of an upload."""
    touched, _ = _rows_read(settings, length, num_items)
    return has_factors(model, settings) and num_items <= DENSE_FACTOR * touched


def _path(model: Model, settings: LocalSettings, step_rows: int, num_items: int, chunk_steps: int) -> str:
    """The cheapest path for clients whose steps touch `step_rows` rows, with repetitions; a chunk has `chunk_steps`
    of these steps."""
    if settings.move_items:
        return "uploads"
    # Where a host's own work on a row outweighs reading it, as an MLP's does, fewer rows are less work on any path.
    factor = DENSE_FACTOR if model.host.linear else 1
    if settings.objective.all_items or num_items <= factor * step_rows:
        return "factors" if model.host.private_item_table and has_factors(model, settings) else "fused"
    if model.host.private_item_table:
        return "gathered"
    # A chunk makes a table over all items, which costs about as much an item as a row costs more on the other path.
    return "picked" if num_items <= chunk_steps * step_rows else "gathered"


def _client_bytes(model: Model, settings: LocalSettings, path: str, rows: int) -> int:
    """Bytes that one more client adds to the working set of a chunk, roughly."""
    private = jax.eval_shape(model.init_private, jax.random.key(0))
    own = private.pop(ITEM_TABLE, None)
    router = model.variant.router
    if settings.closed_form and router is not None and router.closed_form is not None:
        private["variant"] = {"phi": jax.eval_shape(router.closed_form.start, private["variant"]["phi"])}
    size = 2 * sum(x.size for x in jax.tree.leaves(private))
    dim = 1 if own is None else own.shape[1]
    if path == "factors":
        return 4 * (size + rows * (4 + settings.steps + (0 if own is None else 3 * dim + 5 * settings.steps)))
    if path == "fused":
        return 4 * (size + rows * (4 + (3 * dim if own is not None else 0)))
    return 4 * (size + 4 * rows * max(dim, 64))
