"""The page on solvable models: its pictures are drawn, its example prints what it says."""

import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from lrscope.solvable import UV

DOCS = Path(__file__).parents[2] / "docs"
spec = importlib.util.spec_from_file_location("solvable_figures", DOCS / "solvable_figures.py")
figures = sys.modules["solvable_figures"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(figures)
PAGE = (DOCS / "solvable.md").read_text(encoding="utf-8")


def test_every_picture_is_drawn_and_included(tmp_path):
    for path in figures.write(tmp_path):
        text = path.read_text(encoding="utf-8")
        svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
        assert len(list(svg.iter())) > 100
        assert f"_generated/{path.name}" in PAGE


def test_the_example_prints_what_the_page_says():
    uv = UV(width=512)
    assert f"{uv.critical_lr:.4g}: above it" in PAGE
    assert f"{uv.max_lr:.4g}: from here" in PAGE
    assert str(uv.run(lr=1.26)) in PAGE.replace("\n# curvature", " curvature")
