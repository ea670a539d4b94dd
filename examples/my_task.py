"""A task of your own, in one file: an LSTM that predicts the next character of a text.

lrscope run examples/my_task.py:task
lrscope run examples/my_task.py:task --set width=128
"""

from pydoc_data.topics import topics  # real English text that comes with Python; put your own here

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import lrscope as lrs

TEXT = "\n".join(topics[name] for name in sorted(topics))
ALPHABET = sorted(set(TEXT))
TOKENS = torch.tensor([ALPHABET.index(char) for char in TEXT[:200_000]])


class Characters(Dataset):
    """Any Dataset will do. This one yields dicts, as many tokenizers do; tuples and tensors work as well."""

    def __init__(self, tokens, length=32):
        self.windows = tokens.unfold(0, length + 1, length)

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, i):
        return {"input_ids": self.windows[i, :-1], "labels": self.windows[i, 1:]}


class CharLSTM(nn.Module):  # any module will do
    def __init__(self, vocab, width):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab)

    def forward(self, input_ids):
        return self.head(self.lstm(self.embed(input_ids))[0])


def loss_fn(model, batch):
    """The mean loss over the batch: one number, still attached to the graph. No backward() here."""
    logits = model(batch["input_ids"])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def task(width: int = 64, batch_size: int = 16) -> lrs.Task:
    cut = int(0.9 * len(TOKENS))
    return lrs.Task(
        build=lambda _: CharLSTM(len(ALPHABET), width),  # gets the seed, but torch is already seeded with it
        loss_fn=loss_fn,
        train=DataLoader(Characters(TOKENS[:cut]), batch_size, shuffle=True, drop_last=True),
        evaluate=DataLoader(Characters(TOKENS[cut:]), 256),
        steps=500,
    )
