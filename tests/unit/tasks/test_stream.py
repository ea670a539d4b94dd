"""The stream: same seed, same order; and nothing outside it moves."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

import cases
from lrscope.errors import TaskError
from lrscope.tasks import Batches, BatchStream

X = torch.arange(20)


class Drawing:
    """Batches that draw from all three global generators at every step, as an augmenting loader may."""

    def __iter__(self):
        for _ in range(4):
            yield torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])


def own_generator():
    return torch.Generator().manual_seed(5)


def augmented():
    return Batches(X, batch_size=6, shuffle=True, augment=lambda x, g: x + torch.rand(x.shape, generator=g))


SOURCES = {
    "list": lambda: list(X.split(6)),
    "batches": lambda: Batches(X, batch_size=6, shuffle=True),
    "augmented": augmented,
    "drawing": Drawing,
    "loader": lambda: DataLoader(TensorDataset(X), 6, shuffle=True),
    "loader_generator": lambda: DataLoader(TensorDataset(X), 6, shuffle=True, generator=own_generator()),
    "loader_sampler": lambda: DataLoader(
        TensorDataset(X), 6, sampler=RandomSampler(X, replacement=True, generator=own_generator())
    ),
    "loader_distributed": lambda: DataLoader(TensorDataset(X), 6, sampler=DistributedSampler(X, 2, 0, shuffle=True)),
    "loader_workers_zero": lambda: DataLoader(TensorDataset(X), 6, shuffle=True, num_workers=0, drop_last=True),
}
SHUFFLED = [name for name in SOURCES if name != "list"]


def flat(batch):
    return (batch[0] if isinstance(batch, (list, tuple)) else batch).tolist()


def take(stream, num):
    return [flat(next(stream)) for _ in range(num)]


def global_state():
    return (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())


def own_state(source):
    sampler = getattr(source, "sampler", None)
    generators = [getattr(source, "generator", None), getattr(sampler, "generator", None)]
    states = [g.get_state().numpy().tobytes() for g in generators if g is not None]
    return states, getattr(sampler, "epoch", None)


@pytest.mark.parametrize("name", SOURCES)
def test_same_seed_same_order_whatever_happens_outside(name):
    first = take(BatchStream(SOURCES[name](), seed=3), 9)
    source = SOURCES[name]()
    stream, seen = BatchStream(source, seed=3), []
    for _ in range(9):
        torch.rand(3), random.random(), np.random.rand()
        if name != "list":
            list(DataLoader(TensorDataset(X), 6, shuffle=True))
        seen.append(flat(next(stream)))
    assert seen == first


@pytest.mark.parametrize("name", SHUFFLED)
def test_other_seeds_and_epochs_have_another_order(name):
    num = len(list(SOURCES[name]()))
    one, other = take(BatchStream(SOURCES[name](), seed=0), 2 * num), take(BatchStream(SOURCES[name](), seed=1), num)
    assert one[:num] != other
    assert one[:num] != one[num:]


@pytest.mark.parametrize("name", SOURCES)
def test_loader_generators_and_global_states_are_untouched(name):
    source = SOURCES[name]()
    before = global_state(), own_state(source)
    take(BatchStream(source, seed=3), 9)
    assert (global_state(), own_state(source)) == before


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("step", [0, 1, 3, 4, 7])
def test_resume_equals_no_interruption(name, step):
    whole = take(BatchStream(SOURCES[name](), seed=3), 10)
    stream = BatchStream(SOURCES[name](), seed=3)
    take(stream, step)
    resumed = BatchStream(SOURCES[name](), seed=99)
    resumed.load_state_dict(stream.state_dict())
    assert take(resumed, 10 - step) == whole[step:]


def test_a_distributed_sampler_keeps_its_epoch_also_after_an_error():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            raise OSError("disk gone")

    sampler = DistributedSampler(Broken(), 2, 0)
    sampler.set_epoch(7)
    with pytest.raises(OSError, match="disk gone"):
        next(BatchStream(DataLoader(Broken(), 4, sampler=sampler)))
    assert sampler.epoch == 7


def test_ranks_of_one_seed_see_disjoint_examples():
    parts = [DataLoader(TensorDataset(X), 5, sampler=DistributedSampler(X, 2, rank, seed=0)) for rank in (0, 1)]
    seen = [[x for b in take(BatchStream(part, seed=4), 2) for x in b] for part in parts]
    assert sorted(seen[0] + seen[1]) == X.tolist()


def test_an_epoch_without_batches_is_refused():
    with pytest.raises(TaskError, match="an epoch holds no batch"):
        next(BatchStream([], seed=0))


def test_every_example_comes_once_an_epoch():
    batches = take(BatchStream(Batches(X, batch_size=6, shuffle=True)), 4)
    assert sorted(x for batch in batches for x in batch) == X.tolist()


def test_batches_structures_and_lengths():
    x, y = torch.arange(10.0), torch.arange(10)
    assert isinstance(next(iter(Batches(x, batch_size=4))), torch.Tensor)
    assert [len(b[0]) for b in Batches(x, y, batch_size=4)] == [4, 4, 2]
    assert [len(b["y"]) for b in Batches({"x": x, "y": y}, batch_size=4, drop_last=True)] == [4, 4]
    assert len(Batches(x, batch_size=4)) == 3
    assert len(Batches(x, batch_size=4, drop_last=True)) == 2
    assert len(Batches(x, batch_size=10, drop_last=True)) == 1


def test_batches_augment_once_per_batch_from_their_own_generator():
    torch.manual_seed(0)
    epoch = iter(augmented())
    state = torch.get_rng_state()
    first, second = next(epoch), next(epoch)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first % 1, second % 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Batches(batch_size=1), "got no tensors"),
        (lambda: Batches([1, 2], batch_size=1), "0 is list"),
        (lambda: Batches(torch.tensor(1.0), batch_size=1), "without dimensions"),
        (lambda: Batches(torch.zeros(3), torch.zeros(4), batch_size=1), "0: 3, 1: 4"),
        (lambda: Batches(torch.zeros(0, 2), batch_size=1), "no example"),
        (lambda: Batches(torch.zeros(3), batch_size=0), "positive integer, got 0"),
        (lambda: Batches(torch.zeros(3), batch_size=4, drop_last=True), "exceeds the 3 examples"),
    ],
)
def test_batches_errors(make, said):
    with pytest.raises(TaskError, match=said):
        make()


@pytest.mark.parametrize("name", cases.TASKS)
def test_catalogue_tasks_are_small_and_pass_the_check(name):
    for dtype in (torch.float32, torch.float64):
        task = cases.TASKS[name](dtype=dtype)
        task.check()
        objective = task.objective(num_batches=3)
        assert objective.size < 2_000
        assert objective.point().dtype == dtype
