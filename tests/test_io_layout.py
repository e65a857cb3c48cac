"""Records of client states: exact bits, no copies, other states refused by the name of the leaf."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from client_store import mixed

from fedvlr_jax.client_store.record import Layout


@pytest.mark.parametrize("count", [0, 1, 7])
def test_records_round_trip_bit_for_bit_without_copies(count):
    layout, tree = Layout.of(mixed(None)), mixed(count)
    records = layout.pack(tree, count)
    assert records.shape == (count, layout.record_bytes)
    found = layout.unpack(records)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        assert a.flags.aligned
        assert a.size == 0 or np.shares_memory(a, records)


def test_typed_keys_are_refused_by_name():
    with pytest.raises(TypeError, match=r"rng/key: expected plain numbers .* found key"):
        Layout.of({"rng": {"key": jax.random.key(0)}})
