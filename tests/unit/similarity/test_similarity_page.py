"""The examples of docs/similarity.md run as they stand, and its pictures are there."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import torch

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "similarity.md").read_text(encoding="utf-8")


def test_examples_run(capsys):
    g = torch.Generator().manual_seed(0)
    names = {"batches_of_activations": [(torch.randn(100, 5, generator=g), torch.randn(100, 4, generator=g))] * 3}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    assert "svcca(variance=0.99) 0." in capsys.readouterr().out
    plt.close("all")


def test_pictures_are_there_and_small():
    pictures = re.findall(r"\]\((images/\S+?)\)", PAGE)
    assert len(pictures) == 3
    for picture in pictures:
        assert (DOCS / picture).stat().st_size < 150_000
