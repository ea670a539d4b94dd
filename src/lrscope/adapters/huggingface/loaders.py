"""What a Trainer reads: its batches, how many make an update, how many updates make a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from lrscope.isolation import isolated_rng


class Updates:
    """The batches of loaders in groups: a list of ``per_update`` micro-batches is what one update trains on.

    Every ``iter()`` starts a new epoch. The last group of an epoch may be shorter, as in the Trainer. Micro-batches
    are plain dicts, whatever mapping the collator makes.
    """

    def __init__(self, loaders: Sequence[Any], per_update: int = 1) -> None:
        self.loaders = loaders
        self.per_update = per_update
        # What a BatchStream looks for, to drive the order by its own seed.
        self.sampler = getattr(loaders[0], "sampler", None)
        self.batch_sampler = getattr(loaders[0], "batch_sampler", None)
        self.generator = getattr(loaders[0], "generator", None)

    def __iter__(self) -> Iterator[list[Any]]:
        for loader in self.loaders:
            batches = (dict(batch) if hasattr(batch, "items") else batch for batch in loader)
            while group := list(islice(batches, self.per_update)):
                yield group


@contextmanager
def undisturbed(trainer: Any, *, plain: bool = False) -> Iterator[None]:
    """A loader made in the block leaves no trace on the trainer, its accelerator or the random states.

    With ``plain`` the accelerator hands loaders back as they are: it would share them out among processes, and
    such a loader, left in the middle of an epoch, stays in accelerate's gradient state.
    """
    accelerator = trainer.accelerator
    attributes, known = dict(vars(trainer)), list(accelerator._dataloaders)
    if plain:
        accelerator.prepare = lambda loader: loader
    try:
        with isolated_rng():
            yield
    finally:
        if plain:
            del accelerator.prepare
        accelerator._dataloaders[:] = known
        vars(trainer).clear()
        vars(trainer).update(attributes)


def train_updates(trainer: Any, num_processes: int) -> Updates:
    """What each update of the run trains on, over all its processes."""
    with undisturbed(trainer, plain=True):
        loader = trainer.get_train_dataloader()
    return Updates([loader], trainer.args.gradient_accumulation_steps * num_processes)


def evaluation(trainer: Any) -> Updates | None:
    """The batches of the evaluation set; of all of them, one after another, where there are several."""
    sets = trainer.eval_dataset
    if sets is None:
        return None
    with undisturbed(trainer, plain=True):
        names = list(sets) if isinstance(sets, dict) else [None]
        return Updates([trainer.get_eval_dataloader(name) for name in names])


def updates_per_epoch(trainer: Any, num_processes: int | None = None) -> int | None:
    """Optimizer updates in one pass over the training data; ``None`` where its length is not known.

    Args:
        trainer: A Trainer.
        num_processes: Processes among which a later run shares the data; ``None``: this one, as it is launched.
    """
    with undisturbed(trainer, plain=num_processes is not None):
        loader = trainer.get_train_dataloader()
    try:
        batches = len(loader)
    except TypeError:  # a stream
        return None
    share = batches / (num_processes or 1)
    own = math.floor(share) if trainer.args.dataloader_drop_last else math.ceil(share)
    return max(math.ceil(own / trainer.args.gradient_accumulation_steps), 1)


def num_updates(trainer: Any, per_epoch: int | None) -> int | None:
    """Optimizer updates of the whole run, as the Trainer counts them."""
    if trainer.args.max_steps > 0:
        return trainer.args.max_steps
    return None if per_epoch is None else math.ceil(trainer.args.num_train_epochs * per_epoch)
