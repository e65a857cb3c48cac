"""The messages of a federation: one definition of what they contain, for every transport. Needs NumPy alone.

    kind    to a silo                               back
    join    settings, sizes                         the numbers of its users
    rows    round, user, counted                    items whose rows these users need, where not all travel
    train   round, broadcast, user, counted         the uploads of these users
    rank    round, broadcast, user, counted         sums of ranking metrics over these users

Where sums are secret, four questions of `secure_messages` (advertise, share, mask, reveal) take the place of train.
A silo is one user's device, or one place with several users. ``counted`` is the last round of each user that the
server aggregated, -1 for none: the silo trains and ranks with its private states after that round, so that a round
whose upload did not arrive is forgotten on both sides. Trees of arrays are flat, as in "rows/views". Arrays are sent
as they are, without compression, so their sizes are those of `models.costs`.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.errors import MessageError

VERSION = 1  # raised whenever a message of an older one means something else
JOIN, ROWS, TRAIN, RANK, REFUSED = "join", "rows", "train", "rank", "refused"
ADVERTISE, SHARE, MASK, REVEAL = "advertise", "share", "mask", "reveal"
ID_BYTES = 4  # what an upload adds to each row: the number of its item
CLIENT_BYTES = 16  # and to each client: user, count, alpha, loss


class Message(NamedTuple):
    """One message.

    Attributes:
      kind: one of the above; an answer has the kind of its question, or "refused" and the field "reason".
      fields: values that JSON has, by name.
      arrays: by name.
    """

    kind: str
    fields: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class Spec(NamedTuple):
    """The shape and type of an array; a letter in the shape is a size that arrays of one message share."""

    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


Layout = Mapping[str, Spec]
"""What arrays a message has, by name."""

TASK_LAYOUT: Layout = {"user": Spec(("c",), "int32"), "counted": Spec(("c",), "int32")}
"""Whom a silo is asked to train or rank, and the last round of each that counted."""


def layout_of(arrays: Mapping[str, Any]) -> Layout:
    """The layout that these arrays, or shapes, have."""
    return {name: Spec(tuple(x.shape), str(x.dtype)) for name, x in arrays.items()}


def upload_layout(broadcast: Layout) -> Layout:
    """The uploads of c clients one after the other, n rows in all, for a broadcast of this layout.

    ``count`` [c] is how many rows each client sends, ``ids`` [n] the items that they belong to; a client's items are
    distinct and ascend. ``alpha`` and ``loss`` are its weight and its mean loss over local steps.
    """
    rows = {
        name: Spec(("n", *spec.shape[1:]), spec.dtype) for name, spec in broadcast.items() if name.startswith("rows/")
    }
    head = {name: Spec(("c", *spec.shape), spec.dtype) for name, spec in broadcast.items() if name not in rows}
    numbers = {"ids": Spec(("n",), "int32"), "user": Spec(("c",), "int32"), "count": Spec(("c",), "int32")}
    return {**rows, **head, **numbers, "alpha": Spec(("c",), "float32"), "loss": Spec(("c",), "float32")}


def require_layout(arrays: Mapping[str, np.ndarray], layout: Layout, where: str) -> None:
    """Refuses arrays that are not those of a layout.

    Raises:
      MessageError: the first array that is missing, unknown, or has another shape or type.
    """
    sizes: dict[str, int] = {}
    for name in [*layout, *arrays]:
        expected, found = layout.get(name), arrays.get(name)
        if expected is None or found is None or not _fits(found, expected, sizes):
            described = "no such array" if found is None else str(Spec(found.shape, str(found.dtype)))
            asked = "no such array" if expected is None else _with_sizes(expected, sizes)
            raise MessageError(f"{where}: {name}: expected {asked}, found {described}")


def whole_number(message: Message, name: str) -> int:
    """A field that is a whole number from 0 on.

    Raises:
      MessageError: it is missing or something else.
    """
    value = message.fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise MessageError(f"{message.kind}: {name}: expected a whole number from 0 on, found {value!r}")
    return value


def num_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes of the arrays of a message."""
    return sum(int(x.nbytes) for x in arrays.values())


def head_of(message: Message) -> str:
    """All of a message but the contents of its arrays, as one line of JSON."""
    arrays = [[name, str(x.dtype), list(x.shape)] for name, x in message.arrays.items()]
    return json.dumps({"version": VERSION, "kind": message.kind, "fields": dict(message.fields), "arrays": arrays})


def buffers_of(message: Message) -> list[bytes]:
    """The contents of the arrays, in the order of `head_of`; little endian, the last axis fastest."""
    return [np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes() for x in message.arrays.values()]


def assemble(head: str, buffers: Sequence[bytes]) -> Message:
    """The message of a head and the contents of its arrays.

    Raises:
      MessageError: another version, a head that makes no sense, or contents of another size.
    """
    try:
        found = json.loads(head)
        version = found["version"]
        if version != VERSION:
            raise MessageError(f"message: expected version {VERSION}, found {version!r}")
        kind, fields, described = found["kind"], dict(found["fields"]), found["arrays"]
        pairs = zip(described, buffers, strict=True)
        arrays = {name: _array(name, content, dtype, tuple(shape)) for (name, dtype, shape), content in pairs}
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError(f"message: expected a head and its arrays, found {head[:80]!r} ({error})") from error
    return Message(kind, fields, arrays)


def pack(message: Message) -> bytes:
    """The whole message: the length of each part as uint64, then the parts, the head first."""
    return pack_parts([head_of(message).encode(), *buffers_of(message)])


def unpack(content: bytes) -> Message:
    """The message that `pack` wrote.

    Raises:
      MessageError: as `assemble`, and for content that is cut short.
    """
    head, *buffers = unpack_parts(content)
    return assemble(head.decode(errors="replace"), buffers)


def pack_parts(parts: Iterable[bytes]) -> bytes:
    """Parts of any length one after the other, behind their number and lengths."""
    parts = list(parts)
    return b"".join([struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts)), *parts])


def unpack_parts(content: bytes) -> list[bytes]:
    """What `pack_parts` joined, at least one part.

    Raises:
      MessageError: content of another length than it says.
    """
    try:
        (count,) = struct.unpack_from("<Q", content)
        lengths = struct.unpack_from(f"<{count}Q", content, 8)
    except (struct.error, OverflowError, MemoryError):
        count, lengths = 0, ()
    begin = 8 * (count + 1)
    if not lengths or begin + sum(lengths) != len(content):
        raise MessageError(f"message: expected parts and their lengths, found {len(content)} bytes of something else")
    ends = np.cumsum([begin, *lengths]).tolist()
    return [content[a:b] for a, b in itertools.pairwise(ends)]


def refusal(reason: str) -> Message:
    """The answer of a silo that does not do what it was asked."""
    return Message(REFUSED, {"reason": reason}, {})


def _array(name: str, content: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind not in "fiub":
        raise MessageError(f"message: {name}: expected numbers, found {dtype}")
    return np.frombuffer(content, kind.newbyteorder("<")).astype(kind, copy=False).reshape(shape)


def _fits(found: np.ndarray, expected: Spec, sizes: dict[str, int]) -> bool:
    """Whether an array has a shape and type; a letter takes the first size that it meets."""
    if str(found.dtype) != expected.dtype or found.ndim != len(expected.shape):
        return False
    pairs = zip(expected.shape, found.shape, strict=True)
    return all(size == (sizes.setdefault(k, size) if isinstance(k, str) else k) for k, size in pairs)


def _with_sizes(spec: Spec, sizes: Mapping[str, int]) -> str:
    return str(Spec(tuple(sizes.get(str(size), size) for size in spec.shape), spec.dtype))
