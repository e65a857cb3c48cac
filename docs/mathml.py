"""A hook of mkdocs: formulas become MathML while the site is built, so that a page needs no script to show them."""

import html
import re
import unicodedata

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
_DOUBLE_STRUCK = re.compile(r'<mi mathvariant="double-struck">([A-Z])</mi>')  # browsers ignore the attribute


def on_page_content(content: str, **_: object) -> str:
    """The page with every formula that the extension arithmatex marked as MathML."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    made = convert(html.unescape(found["latex"]), display="block" if found["tag"] == "div" else "inline")
    return _DOUBLE_STRUCK.sub(_character, made)


def _character(found: re.Match[str]) -> str:
    return f"<mi>{unicodedata.lookup(f'MATHEMATICAL DOUBLE-STRUCK CAPITAL {found[1]}')}</mi>"
