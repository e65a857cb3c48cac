"""HTML pages from the templates in ``templates/``; a page is one file, everything that it shows is inside it."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from fedvlr_jax.report.tables import BOLD

INTERVAL = re.compile(r"(.*\S) (\[[^\]]*\])")
"""A cell that ends with an interval, which stands below the rest."""


class Picture(NamedTuple):
    """A drawn picture: name of its file, title, what it shows, and the content of the PNG file."""

    file: str
    title: str
    caption: str
    png: bytes


def render(template: str, **context: Any) -> str:
    """A page.

    Whatever the context holds is escaped; a template that names something which is not in the context fails.

    >>> render("base.html", title="A < B").count("A &lt; B")
    2

    Args:
      template: a file of ``templates/`` that extends ``base.html`` and fills its block ``content``; macros for
        tables, lists and pictures are in ``parts.html``.
      context: what the template shows; ``base.html`` needs `title`, a text.

    Raises:
      jinja2.TemplateError: no such template, or a name in it that the context lacks.
    """
    return _environment().get_template(template).render(context)


def anchor(text: str) -> str:
    """What a link to a heading is made of.

    >>> anchor("Warm & cold items")
    'warm-cold-items'
    """
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def inline(text: str) -> Markup:
    """Escaped text with `code` marks as ``<code>``."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def cell(text: str) -> Markup:
    """The escaped text of a cell: **emphasised** as ``<b>``, an interval at its end in a line of its own.

    >>> cell("**25.16 ± 0.04 [23.00, 27.10]**")
    Markup('<b>25.16 ± 0.04<small>[23.00, 27.10]</small></b>')
    """
    bold = BOLD.fullmatch(text)
    found = INTERVAL.fullmatch(text := bold[1] if bold else text)
    shown = Markup("{}<small>{}</small>").format(*found.groups()) if found else escape(text)
    return Markup("<b>{}</b>").format(shown) if bold else shown


def data_uri(picture: Picture) -> str:
    """A picture as the address of an image that is inside the page."""
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"


def words_of(value: Any) -> str:
    """A value of JSON as words: "jax 0.10.2, numpy 2.1" of an object, "a b" of an array, "-" of nothing."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {words_of(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(words_of, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedvlr_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"anchor": anchor, "inline": inline, "cell": cell, "data_uri": data_uri, "words": words_of}
    return environment
