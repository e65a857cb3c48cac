"""MMRec: ``<d>.inter`` (tabs; x_label 0, 1, 2), ``image_feat.npy``, ``text_feat.npy``, ``i_id_mapping.csv``."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from fedvlr_jax.data.formats.careful import Layout, header_of, require_columns, walk
from fedvlr_jax.data.formats.features import rows_of_array
from fedvlr_jax.data.formats.files import find_one, find_optional, present
from fedvlr_jax.data.formats.raw import Coded, Format, RawData
from fedvlr_jax.data.formats.tables import read_interactions
from fedvlr_jax.data.messages import problem

LAYOUT = Layout("\t", quoted=False)
REQUIRED = {"user": "userID", "item": "itemID"}
OPTIONAL = {"rating": "rating", "time": "timestamp", "label": "x_label"}
FEATURES = {"image": "image_feat.npy", "text": "text_feat.npy"}


def read(folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """Interactions, features (row = itemID), and the ids of before MMRec's own remap where the mappings are there."""
    del options
    file = find_one(folder, "*.inter")
    header = header_of(file, LAYOUT)
    raw = read_interactions(file, LAYOUT, REQUIRED | {r: name for r, name in OPTIONAL.items() if name in header})
    arrays = {name: folder / array for name, array in FEATURES.items() if (folder / array).is_file()}
    users, items = (find_optional(folder, "", f"{side}_id_mapping.csv") for side in "ui")
    item_of = _mapping(items, "itemID") if items else {}
    row_of = {item: int(row) for row, item in item_of.items()} if item_of else None
    return raw._replace(
        files=present([file, users, items, *arrays.values()]),
        user=_renamed(raw.user, _mapping(users, "userID"), users) if users else raw.user,
        item=_renamed(raw.item, item_of, items) if items else raw.item,
        features={name: rows_of_array(array, row_of, every=raw.item.names) for name, array in arrays.items()},
    )


def _mapping(file: pathlib.Path, number: str) -> dict[str, str]:
    """Original id by number; `number` is the column of the numbers, the other one has the ids."""
    header = header_of(file, LAYOUT)
    require_columns(file, header, (number,))
    if len(header) != 2:
        raise problem(file, f"two columns, {number} and the original id", f"{', '.join(header)}", line=1)
    at = header.index(number)
    rows = {}
    for line, row in walk(file, LAYOUT):
        if line > 1 and not row[at].isdecimal():
            raise problem(file, "a whole number", repr(row[at]), line=line, field=number)
        rows[row[at]] = row[1 - at]
    del rows[number]
    if len(set(rows.values())) < len(rows):
        raise problem(file, "every original id once", f"{len(rows) - len(set(rows.values()))} repeated ones")
    return rows


def _renamed(column: Coded, name_of: Mapping[str, str], file: pathlib.Path) -> Coded:
    lacking = next((name for name in column.names if name not in name_of), None)
    if lacking is not None:
        raise problem(file, "every id of the interactions", f"none for {lacking}")
    return column._replace(names=[name_of[name] for name in column.names])


FORMAT = Format("MMRec: <d>.inter with x_label, image_feat.npy, text_feat.npy, u_ and i_id_mapping.csv", read, {})
