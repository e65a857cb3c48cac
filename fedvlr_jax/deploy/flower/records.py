"""Messages of `deploy.messages` as Flower's records: the arrays as they are, and the head as text."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedvlr_jax.deploy.messages import Message, assemble, buffers_of, head_of
from fedvlr_jax.errors import MessageError

STYPE = "fedvlr_jax"  # of the contents of arrays: numbers in little endian and nothing else


def to_records(message: Message) -> RecordDict:
    """The records of a message."""
    pairs = zip(message.arrays.items(), buffers_of(message), strict=True)
    arrays = {name: Array(str(x.dtype), tuple(x.shape), STYPE, content) for (name, x), content in pairs}
    return RecordDict({"arrays": ArrayRecord(arrays), "head": ConfigRecord({"json": head_of(message)})})


def from_records(records: RecordDict) -> Message:
    """The message in the records.

    Raises:
      MessageError: records of something else, or as `assemble`.
    """
    head, *buffers = parts_of_records(records)
    return assemble(head.decode(), buffers)


def parts_of_records(records: RecordDict) -> list[bytes]:
    """The head of a message, and the contents of its arrays, without looking at either.

    Raises:
      MessageError: records of something else.
    """
    try:
        head = records["head"]["json"]
        return [str(head).encode(), *(array.data for array in records["arrays"].values())]
    except (KeyError, AttributeError, TypeError) as error:
        raise MessageError(f"message: expected records with a head and arrays, found {list(records)}") from error
