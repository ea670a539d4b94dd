"""What every report page holds, whatever was missing: well-formed, self-contained, finite numbers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

VOID = {"meta", "br", "hr", "col"}


class Page(HTMLParser):
    """Checks nesting while it collects text, ids, URLs and the embedded data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.data = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            self.attributes.append((key, value or ""))
            if key == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(key, value or "") for key, value in attrs]
        self.ids += [value or "" for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data += data
        elif "style" not in self.open:
            self.text += " " + data


def check(path: Path) -> Page:
    """What every report holds, whatever was missing."""
    text = path.read_text(encoding="utf-8")
    assert len(text) < 2_000_000
    assert "http" not in text
    assert "//" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).replace("</", "")
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    for key, value in page.attributes:
        assert key not in ("src", "xmlns", "xlink:href", "onclick")
        if key == "href":
            assert value[1:] in page.ids, f"{value} points nowhere"
        for name in re.findall(r"url\(#([^)]*)\)", value):
            assert name in page.ids, f"url(#{name}) points nowhere"
    assert not re.search(r"\b(nan|inf|None|NaN|Infinity)\b", page.text), re.findall(r".{40}\bnan\b.{20}", page.text)
    json.loads(page.data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    return page
