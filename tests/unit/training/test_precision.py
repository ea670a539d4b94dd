"""Float32 matrix products in less precision: set for a block, put back, recorded."""

import pytest
import torch

from cases import TASKS, cross_entropy
from lrscope.isolation import mode_of
from lrscope.schedules import Constant
from lrscope.tasks import Batches, Task
from lrscope.tasks.models import MLP
from lrscope.training import Cell, precision, replicas, run_cells
from lrscope.training.captured import Captured, Drifted, Graphs, agree
from lrscope.training.feed import Feed
from lrscope.training.program import Program, examine

LEVELS = ["highest", "high", "medium"]


@pytest.fixture(autouse=True)
def _as_found():
    """Torch's own default after each test."""
    yield
    torch.set_float32_matmul_precision("highest")


def cells():
    return [Cell(Constant(0.01 * (i + 1)), seed=i % 2) for i in range(3)]


def wide(dtype=torch.float32):
    """A perceptron whose products are large enough for a processor's bfloat16 units."""
    g = torch.Generator().manual_seed(0)
    data = torch.randn(128, 64, generator=g).to(dtype), torch.randint(10, (128,), generator=g)
    train = Batches(*data, batch_size=64)
    return Task(lambda seed: MLP(64, 10, width=128, activation="tanh").to(dtype), cross_entropy, train, name="wide")


def everywhere():
    return [torch.get_float32_matmul_precision(), *(place.fp32_precision for place in precision._places())]


@pytest.mark.parametrize("ambient", LEVELS)
@pytest.mark.parametrize("engine", ["serial", "replicas", "auto"])
@pytest.mark.parametrize("level", LEVELS)
def test_set_while_runs_train_and_put_back(ambient, engine, level):
    torch.set_float32_matmul_precision(ambient)
    before, seen = everywhere(), []
    hook = {"at_start": lambda i, model: seen.append(torch.get_float32_matmul_precision()) or {}}
    runs = run_cells(TASKS["tuple"](), "sgd", cells(), 4, engine=engine, matmul_precision=level, **hook)
    assert set(seen) == {level}
    assert everywhere() == before
    assert {run.config["matmul_precision"] for run in runs} == {level}


@pytest.mark.parametrize("engine", ["serial", "replicas", "auto"])
def test_put_back_when_a_run_raises(engine):
    before = everywhere()

    def broken(i, model):
        raise KeyError(i)

    with pytest.raises(KeyError):
        run_cells(TASKS["tuple"](), "sgd", cells(), 4, engine=engine, matmul_precision="medium", at_start=broken)
    assert everywhere() == before


def test_put_back_where_the_user_set_one_backend_alone():
    if not precision._places():
        pytest.skip("this torch has one switch for all backends")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    with precision.multiplying("high"):
        assert precision.current() == "high"
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert precision.current() == "mixed"


@pytest.mark.parametrize("call", [run_cells, replicas])
def test_refused_in_one_line(call):
    with pytest.raises(
        ValueError, match="matmul_precision: expected one of highest, high, medium, got 'low'"
    ) as told:
        call(TASKS["tuple"](), "sgd", cells(), 4, matmul_precision="low")
    assert "\n" not in str(told.value)


def test_double_precision_does_not_notice():
    a, b = (replicas(wide(torch.float64), "sgd", cells(), 12, matmul_precision=p) for p in ("highest", "medium"))
    assert [run.rows for run in a] == [run.rows for run in b]


def test_what_is_allowed_lies_between_what_rounding_does_and_what_a_wrong_program_does():
    """Rounding the factors of a chain of products, against the bound; and a gradient that is off by a tenth."""
    exact = 1e-4
    for level, bits in (("high", 11), ("medium", 8)):
        with precision.multiplying(level):
            allowed = precision.tolerance(torch.float32, exact)
            assert precision.tolerance(torch.float64, exact) == exact
            assert agree(torch.ones(9), torch.ones(9) * (1 + allowed / 2))
            assert not agree(torch.ones(9), torch.full((9,), 1.1))

        def rounded(x, bits=bits):
            mantissa, exponent = torch.frexp(x)
            return torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)

        g = torch.Generator().manual_seed(0)
        full = low = torch.randn(64, 64, generator=g, dtype=torch.float64)
        for _ in range(48):  # forth and back through 24 layers
            w = torch.linalg.qr(torch.randn(64, 64, generator=g, dtype=torch.float64))[0]
            full, low = full @ w, rounded(low) @ rounded(w)
        off = float((full - low).norm() / full.norm())
        assert allowed / 100 < off < allowed


def _has_gaps(factor, theta):
    mine = factor.untyped_storage().data_ptr() == theta.untyped_storage().data_ptr()
    return mine and not (factor.is_contiguous() or factor.transpose(1, 2).is_contiguous())


@pytest.mark.parametrize("level", LEVELS)
def test_a_captured_program_agrees_with_the_plain_one_under_the_same_precision(level):
    task, seeds = wide(), (0, 0, 1)
    with precision.multiplying(level):
        program = Program(task, seeds, examine(task, 0, task.batches(1)[0]))
        captured = Captured(program, Graphs())
        batch, dims = Feed.of(task, seeds).next(seeds)
        with mode_of(program.model, training=True):
            captured.prepare(0, batch, dims)
            tape = captured.tape(batch, dims)
            assert tape is not None
            # In less precision torch multiplies faster, but only by matrices without gaps between them.
            gaps = [t for c in tape.calls if "bmm" in str(c.op) for t in c.args if _has_gaps(t, program.theta)]
            assert bool(gaps) == (level == "highest")
            program.loss_fn.loss_fn = lambda model, batch: 1.1 * cross_entropy(model, batch)
            with pytest.raises(Drifted):
                captured.prepare(10, batch, dims)


def test_medium_changes_numbers_where_the_processor_has_it_and_engines_still_agree():
    full = replicas(wide(), "sgd", cells(), 30)
    plain = replicas(wide(), "sgd", cells(), 30, matmul_precision="medium")
    serial = run_cells(wide(), "sgd", cells(), 30, engine="serial", matmul_precision="medium")
    a = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ a.double().T
    with precision.multiplying("medium"):
        rounds = float((a @ a.T - exact).norm() / exact.norm()) > 1e-4  # whether this processor rounds
    losses = [[run["loss"].value for run in runs] for runs in (full, plain, serial)]
    for a, b, c in zip(*losses, strict=True):
        assert rounds == (max(abs(a - b)) > 1e-5)
        assert b == pytest.approx(a, rel=0.01)
        assert c == pytest.approx(b, rel=0.01)
