"""HTML pages from the templates in ``templates/``; a page is one file, everything that it shows is inside it."""

from __future__ import annotations

from typing import Any

import jinja2


def render(template: str, **context: Any) -> str:
    """A page; whatever the context holds is escaped.

    Args:
      template: a file of ``templates/`` that extends ``base.html``.
      context: what it shows; ``base.html`` needs `title`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedvlr_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
