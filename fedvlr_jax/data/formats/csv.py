"""Any text table: its columns, separator and encoding are settings."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from fedvlr_jax.data.formats.careful import Layout
from fedvlr_jax.data.formats.features import ids_of_rows, rows_of_array
from fedvlr_jax.data.formats.files import find_one, find_optional, present
from fedvlr_jax.data.formats.raw import TITLES, Format, RawData
from fedvlr_jax.data.formats.tables import read_interactions, read_titles
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.fields import Field

OPTIONS = {
    "file": Field("*.csv", "file of interactions below the raw folder, or a pattern that one file matches"),
    "separator": Field(",", "between fields; \\t is a tab; several characters only without quotes"),
    "encoding": Field("utf-8", "of the text, such as utf-8 or latin-1"),
    "names": Field("", 'comma list of the columns of a file without header line; "" = the first line has them'),
    "quoted": Field("yes", 'whether "a, b" in quotes is one field', choices=("yes", "no")),
    "user": Field("userID", "column of the user"),
    "item": Field("itemID", "column of the item"),
    "rating": Field("", 'column of the rating; "" = none'),
    "time": Field("", 'column of the time; "" = none'),
    "label": Field("", 'column of the split, 0/1/2 or train/valid/test; "" = none'),
    "titles": TITLES,
    "title_item": Field("itemID", "column of the item in the file of titles"),
    "title": Field("title", "column of the title in the file of titles"),
    "image": Field("", 'array of image features, .npy below the raw folder; "" = none'),
    "text": Field("", 'array of text features, .npy below the raw folder; "" = none'),
    "feature_ids": Field("", 'file with the item of each row of these arrays, one a line; "" = the row is the id'),
}


def read(folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """Interactions, titles and features as the options name them."""
    file = find_one(folder, options["file"], option="file")
    titles = find_optional(folder, options["titles"]) if options["titles"] else None
    layout = _layout(options)
    roles = ("user", "item", "rating", "time", "label")
    raw = read_interactions(file, layout, {role: options[role] for role in roles if options[role]})
    arrays = {name: find_one(folder, options[name]) for name in ("image", "text") if options[name]}
    ids = find_one(folder, options["feature_ids"]) if options["feature_ids"] else None
    row_of = ids_of_rows(ids, layout.encoding) if ids else None
    return raw._replace(
        files=present([file, titles, ids, *arrays.values()]),
        titles=read_titles(titles, layout._replace(names=None), options["title_item"], options["title"]),
        features={
            name: rows_of_array(array, row_of, ids=ids, every=raw.item.names) for name, array in arrays.items()
        },
    )


def _layout(options: Mapping[str, str]) -> Layout:
    separator = options["separator"].replace("\\t", "\t")
    quoted = options["quoted"] == "yes"
    if not separator or (len(separator) > 1 and quoted):
        raise ConfigError(
            "read.separator: expected one character, or several with --config.read.quoted=no, found "
            f"{options['separator']!r}"
        )
    names = tuple(name.strip() for name in options["names"].split(",")) if options["names"] else None
    return Layout(separator, options["encoding"], names, quoted)


FORMAT = Format("any text table; columns, separator and encoding are settings", read, OPTIONS)
