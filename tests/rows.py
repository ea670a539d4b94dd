"""A loader that Lightning can resume."""

import torch


class Rows:
    """A loader that can say where it is (``state_dict``), so that Lightning resumes in the middle of an epoch."""

    def __init__(self, num=10, size=4, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randn(num * size, 3, generator=g)
        self.num, self.size, self.epoch, self.index = num, size, 0, 0

    def __len__(self):
        return self.num

    def __iter__(self):
        if self.index == self.num:
            self.epoch, self.index = self.epoch + 1, 0
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.epoch)).split(self.size)
        while self.index < self.num:
            self.index += 1
            yield self.x[order[self.index - 1]]

    def state_dict(self):
        return {"epoch": self.epoch, "index": self.index}

    def load_state_dict(self, state):
        self.epoch, self.index = state["epoch"], state["index"]
