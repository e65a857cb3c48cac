"""HTML pages from the templates in ``templates/``; a page is one file, everything that it shows is inside it."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}


class Picture(NamedTuple):
    """A drawn picture: name of its file (``.png`` or ``.svg``), title, what it shows, and the content of the file."""

    file: str
    title: str
    caption: str
    content: bytes


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
    """Escaped text with `code` marks as ``<code>`` and **marks** as ``<b>``."""
    return Markup(_marked(_marked(str(escape(text)), r"`([^`]*)`", "code"), r"^\*\*(.*)\*\*$", "b"))


def data_uri(picture: Picture) -> str:
    """A picture as the address of an image that is inside the page."""
    media = MEDIA[picture.file[picture.file.rindex(".") :]]
    return f"data:{media};base64,{base64.b64encode(picture.content).decode()}"


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
    environment.filters |= {"anchor": anchor, "inline": inline, "data_uri": data_uri, "words": words_of}
    return environment


def _marked(text: str, pattern: str, tag: str) -> str:
    return re.sub(pattern, rf"<{tag}>\1</{tag}>", text)
