"""NineRec: ``<N>_pair.csv`` without header, whose order of columns differs between copies, and ``<N>_item.csv``.

The licence lets nobody hand out changed copies: what is prepared is written to --out and nowhere else.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from fedvlr_jax.data.formats.careful import Layout, walk
from fedvlr_jax.data.formats.files import find_one, find_optional, present
from fedvlr_jax.data.formats.raw import TITLES, Coded, Format, RawData
from fedvlr_jax.data.formats.tables import read_interactions
from fedvlr_jax.data.messages import problem
from fedvlr_jax.fields import Field

ORDERS = ("user,item,timestamp", "item,user,timestamp")
HEADERS = {"item", "item_id", "itemid", "iid"}
COLUMNS = Field(
    "",
    'order of the columns of <N>_pair.csv; "" = the one in which <N>_item.csv knows the items',
    choices=("", *ORDERS),
)


def read(folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """Pairs with their times; the title is the last column of the file of items."""
    file = find_one(folder, "*_pair.csv")
    listed = find_optional(folder, options["titles"], "*_item.csv")
    titles = _titles(listed) if listed else {}
    layout = Layout(names=("first", "second", "timestamp"))
    raw = read_interactions(file, layout, {"user": "first", "item": "second", "time": "timestamp"})
    notes = raw.notes
    if not (order := options["columns"]):
        order = _find_order(file, raw.user, raw.item, titles)
        notes += (f"{file.name}: the columns are {order}, as the ids of the file of items say",)
    if order == ORDERS[1]:
        raw = raw._replace(user=raw.item, item=raw.user)
    filled = {item: title for item, title in titles.items() if title}
    return raw._replace(files=present([file, listed]), titles=filled, notes=notes)


def _titles(file: pathlib.Path) -> dict[str, str]:
    """Title by item id, "" where a row has none."""
    rows = [row for _, row in walk(file, Layout())]
    if rows and rows[0][0].lower() in HEADERS:
        rows = rows[1:]
    return {row[0]: row[-1].strip() if len(row) > 1 else "" for row in rows}


def _find_order(file: pathlib.Path, first: Coded, second: Coded, items: Mapping[str, str]) -> str:
    """The order in which all items are listed; where the other may be right too, only with all the items of the list.

    The other may be right where nine tenths of its items are listed: the list may lack some.

    Raises:
      DataError: neither order fits, or both do or may.
    """
    columns = dict(zip(ORDERS, (second, first), strict=True))  # the items of each order
    listed = {order: sum(name in items for name in column.names) for order, column in columns.items()}
    fits = [order for order, column in columns.items() if items and listed[order] == len(column.names)]
    may_fit = [order for order, column in columns.items() if 10 * listed[order] >= 9 * len(column.names)]
    if may_fit != fits or len(fits) == 2:
        fits = [order for order in fits if listed[order] == len(items)]
    if len(fits) != 1:
        shares = (f"{listed[order]} of {len(column.names)} in {order}" for order, column in columns.items())
        found = f"{len(items)} ids in the file of items, of the items {' and '.join(shares)}"
        raise problem(
            file, f"one of the orders {' and '.join(ORDERS)} to fit (choose with --config.read.columns)", found
        )
    return fits[0]


FORMAT = Format("NineRec: <N>_pair.csv, with <N>_item.csv", read, {"columns": COLUMNS, "titles": TITLES})
