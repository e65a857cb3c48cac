"""Pages as tests read them: every tag is closed, and nothing that they show lies elsewhere."""

from __future__ import annotations

import html.parser
import pathlib
import re


class Page(html.parser.HTMLParser):
    """Everything a page refers to, and whether its tags are balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.targets, self.ids, self.rows, self.images, self.words = [], [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.targets += [values[name] for name in ("src", "href", "action", "data", "poster") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self.images += [values["src"]] if tag == "img" else []
        if tag == "tr":
            self.rows.append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "img"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.rows:
            self.rows[-1] += f"{data}\t"


def read_page(text: str, folder: pathlib.Path) -> Page:
    """The page in `folder`; it is whole, its links lead somewhere, and it loads nothing."""
    page = Page()
    page.feed(text)
    assert page.open == []
    for target in page.targets:
        is_inside = target.startswith("data:image/png;base64,") or target[1:] in page.ids
        assert is_inside or (folder / target).is_file(), target
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    assert len(page.ids) == len(set(page.ids))
    return page
