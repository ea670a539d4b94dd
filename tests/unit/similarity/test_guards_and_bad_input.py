"""What is refused, what is warned of, and what only noted."""

import json
import warnings

import numpy as np
import pytest
import torch

from lrscope.errors import LrscopeWarning
from lrscope.similarity import MinibatchCKA, Streaming, cca, cka, procrustes, pwcca, svcca

ALL = [cca, svcca, pwcca, cka, procrustes]


def gaussian(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = gaussian(0, 200, 6), gaussian(1, 200, 4)
MAPS = gaussian(2, 200, 3, 4, 4)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 330
    return text


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize(
    ("x", "y", "kind", "says"),
    [
        (X, Y[:-1], ValueError, "x has 200 examples and y has 199"),
        (X[:1], Y[:1], ValueError, "at least 2"),
        (X[:, 0], Y, ValueError, r"got shape \(200,\)"),
        (X[:, :0], Y, ValueError, "holds no numbers"),
        (X, Y.tolist(), TypeError, "y: expected a torch tensor or a NumPy array, got list"),
        (X.long(), Y, TypeError, "activations are floats, got torch.int64"),
        (X + 1j, Y, TypeError, "activations are floats, got torch.complex128"),
        (X, MAPS, ValueError, "say what becomes of its positions"),
        (torch.zeros(200, 6), Y, ValueError, "x: none of the 6 units varies"),
        (torch.full((200, 6), 0.1), Y, ValueError, "x: none of the 6 units varies"),
        (X * 1e200, Y, ValueError, "x: squares of the activations overflow float64"),
        (X, Y.to("meta"), ValueError, "x is on cpu and y on meta"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_input_is_refused_in_one_line(measure, x, y, kind, says):
    with pytest.raises(kind, match=says) as error:
        measure(x, y)
    one_line(error)


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_what_is_not_finite_is_refused_with_its_place(measure, value, kind):
    bad = Y.clone()
    bad[17, 2] = bad[30, 1] = value
    with pytest.raises(ValueError, match=rf"y: 2 of 800 .* first \({kind}\) at example 17, unit 2;") as error:
        measure(X, bad)
    one_line(error)
    maps = MAPS.clone()
    maps[5, 1, 0, 3] = value
    with pytest.raises(ValueError, match="example 5, unit 1, position 3"):
        measure(maps, MAPS, spatial="samples")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cca(MAPS, MAPS, spatial="mean"), "expected one of samples, average, dft, flatten, got 'mean'"),
        (lambda: cca(MAPS, MAPS, spatial="average", channels="middle"), "expected 'first' or 'last'"),
        (lambda: cca(MAPS, MAPS[..., :2], spatial="samples"), "x has 16 and y has 8"),
        (lambda: cca(MAPS, MAPS[..., :2], spatial="dft"), "need positions of one size"),
        (lambda: cca(X, MAPS, spatial="dft"), "need positions of one size"),
        (lambda: cca(X, MAPS, spatial="samples"), "x has 1 and y has 16"),
        (lambda: svcca(X, Y, variance=0), "share in"),
        (lambda: svcca(X, Y, variance=99), "0.99 keeps 99 %"),
        (lambda: svcca(X, Y, variance="0.9"), "share in"),
        (lambda: pwcca(X, Y, reference="z"), "expected 'x' or 'y'"),
        (lambda: procrustes(X, Y, metric="chordal"), "expected 'angular' or 'euclidean'"),
        (lambda: procrustes(X, Y, normalised=False), "an angle knows no size"),
        (lambda: cka(X[:3], Y[:3], debiased=True), "at least 4 rows, got 3"),
        (lambda: cka(X, Y, batch_size=20), "add debiased=True"),
        (lambda: cka(X, Y, debiased=True, batch_size=3), "at least 4 rows in a batch"),
        (lambda: cka(X, Y, debiased=True, batch_size=20, bootstrap=9), "not with batch_size"),
        (lambda: cka(MAPS, MAPS, debiased=True, batch_size=20, spatial="dft"), "not with spatial='dft'"),
        (lambda: cca(X, Y, null=-1), "null: expected a number of resamples"),
        (lambda: cca(X, Y, null=1), "at least 2"),
        (lambda: cca(X, Y, bootstrap=2.5), "bootstrap: expected a number of resamples"),
        (lambda: cca(X[:10], Y[:10], bootstrap=9), "half of the 10 examples cannot be measured: x: 5 rows"),
        (lambda: Streaming().cka(), "0 rows so far"),
        (lambda: Streaming().update(MAPS, MAPS, spatial="dft"), "one pair per frequency"),
        (lambda: MinibatchCKA().result(), "no batch yet"),
        (lambda: MinibatchCKA().update(X[:3], Y[:3]), "at least 4 rows, got 3"),
        (lambda: MinibatchCKA().update(X * float("nan"), Y), "NaN or infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")
def test_settings_that_mean_nothing_are_refused_in_one_line(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    one_line(error)


@pytest.mark.parametrize("measure", [cca, pwcca, lambda x, y: svcca(x, y, variance=1.0)])
@pytest.mark.parametrize("rows", [5, 6, 7])
def test_correlations_that_are_1_by_construction_are_refused(measure, rows):
    with pytest.raises(ValueError, match=rf"x: {rows} rows for 6 units: .* N >= 60 examples") as error:
        measure(X[:rows], Y[:rows])
    one_line(error)
    with pytest.warns(LrscopeWarning, match="too few"):
        measure(X[:8], Y[:8])  # the first N where they are not all fixed


def test_the_refusal_looks_at_directions_not_at_units():
    """Forty units of rank three are no obstacle for twenty times as many rows, nor a cut spectrum for N < D."""
    thin = X[:, :3] @ gaussian(3, 3, 400)
    result = cca(thin, Y)
    assert result.ranks == (3, 4)
    assert result.similarity == pytest.approx(cca(X[:, :3], Y).similarity, abs=1e-8)
    assert "rank_deficient" in {g.kind for g in result.guards}
    assert pwcca(thin, Y).ranks == (3, 4)


def test_few_samples_are_a_warning_with_the_number_needed():
    with pytest.warns(
        LrscopeWarning, match=r"cca: 59 rows are too few: .* about 0.3\d; bring at least 60 "
    ) as caught:
        result = cca(X[:59], Y[:59])
    assert caught[0].filename == __file__
    (guard,) = [g for g in result.guards if g.kind == "few_samples"]
    assert (guard.side, guard.needed) == ("both", 60)
    assert not cca(X[:60], Y[:60]).guards
    with pytest.warns(LrscopeWarning, match="cka: 30 rows"):
        cka(X[:30], Y[:30])
    assert not cka(X[:30], Y[:30], debiased=True).guards
    with pytest.warns(LrscopeWarning, match="procrustes"):
        procrustes(X[:30], Y[:30])


def test_svcca_needs_samples_for_the_directions_it_keeps():
    loud = torch.cat([10 * X[:, :2], 1e-3 * gaussian(4, 200, 40)], dim=1)
    result = svcca(loud, Y)
    assert result.ranks == (2, 4)
    assert not [g for g in result.guards if g.kind == "few_samples"]
    with pytest.warns(LrscopeWarning, match="at least 420"):
        cca(loud, Y)


def test_constant_units_are_left_out_and_counted():
    """Also where they are constant up to the rounding of their dtype, at any size."""
    dead = torch.cat([X, torch.zeros(200, 2), torch.full((200, 1), 1e8)], dim=1)
    for measure in ALL:
        result = measure(dead, Y)
        assert result.similarity == pytest.approx(measure(X, Y).similarity, abs=1e-10)
        (guard,) = result.guards
        assert (guard.kind, guard.side) == ("constant_units", "x")
        assert "3 of 9 units of x" in guard.message
    low = dead.float()
    low[:, 8] += 8 * (torch.arange(200) % 2)  # one step of float32 at 1e8
    assert "3 of 9" in cca(low, Y.float()).guards[0].message


def test_rank_deficiency_is_reported_and_changes_nothing():
    double = torch.cat([X, X @ gaussian(5, 6, 3)], dim=1)
    for measure in (cca, svcca, cka, procrustes):
        (guard,) = measure(Y, double).guards
        assert (guard.kind, guard.side) == ("rank_deficient", "y")
        assert "9 varying units of y span 6" in guard.message
    assert cca(double, Y).similarity == pytest.approx(cca(X, Y).similarity, abs=1e-8)
    assert cca(double.float(), Y.float()).ranks == (6, 4)  # rounding is no seventh direction
    assert cca(double.half(), Y.half()).ranks == (6, 4)


def test_quiet_units_count_in_cca_unless_they_are_rounding():
    """Scales over sixteen decades, which would leave the smallest under any fixed tolerance."""
    scales = torch.logspace(-8, 8, 6, dtype=torch.float64)
    assert cca(X * scales, Y).similarity == pytest.approx(cca(X, Y).similarity, abs=1e-10)
    assert cca(X * scales, Y).ranks == (6, 4)


def test_tied_correlations_leave_weights_of_pwcca_open():
    """Three units in common give the correlation 1 three times, and any basis of their space is canonical."""
    y = torch.cat([X[:, :3], gaussian(7, 200, 3)], dim=1)
    (guard,) = pwcca(X, y).guards
    assert guard.kind == "tied_correlations"
    assert "2 neighbours among 6" in guard.message
    assert not pwcca(X, Y).guards
    assert not pwcca(X, X).guards  # all coincide: whatever the weights, the mean is 1
    assert not cca(X, y).guards


def test_positions_of_few_images_are_dependent_samples():
    maps, other = MAPS[:25], gaussian(6, 25, 3, 4, 4)
    (guard,) = cca(maps, other, spatial="samples").guards
    assert guard.kind == "dependent_samples"
    assert "400 rows come from 25 examples" in guard.message


def test_results_are_plain_numbers_that_tell_what_was_done():
    result = pwcca(X, Y, null=20, bootstrap=20)
    again = json.loads(json.dumps(result.to_dict()))
    assert again["similarity"] == result.similarity
    assert again["null"]["samples"] == again["interval"]["samples"] == 20
    assert len(again["correlations"]) == len(again["weights"]) == 4
    assert result.cost.seconds > 0
    for word in ("pwcca(reference='x')", "distance", "200 rows", "6 and 4", "p ="):
        assert word in str(result)
    with pytest.raises(AttributeError):
        result.similarity = 1.0
    assert isinstance(result.correlations, np.ndarray)
    parts = cca(MAPS, MAPS, spatial="dft")
    assert len(json.loads(json.dumps(parts.to_dict()))["parts"]) == 12  # 4 x 3 frequencies of a real transform


def test_seed_repeats_null_and_interval():
    one, same, other = (cca(X, Y, null=20, bootstrap=20, seed=s) for s in (1, 1, 2))
    assert (one.null, one.interval) == (same.null, same.interval)
    assert one.null != other.null
    assert one.interval != other.interval


def test_dft_guards_are_told_once_not_once_per_frequency():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = cca(MAPS[:20], MAPS[20:40], spatial="dft")
    assert len(caught) == 1
    assert len(result.guards) == 1
    assert result.similarity == pytest.approx(
        sum(w * p.similarity for w, p in zip(result.part_weights, result.parts, strict=True))
    )


def test_a_bad_batch_adds_nothing():
    total = Streaming()
    total.update(X[:100], Y[:100])
    before = total.cka().similarity
    bad = X[100:].clone()
    bad[99, 0] = float("nan")
    for x, y, says in (
        (bad, Y[100:], "x: the batch holds NaN"),
        (X[100:, :5], Y[100:], "5 and 4 units after batches"),
        (X[100:], Y[:50], "examples"),
    ):
        with pytest.raises(ValueError, match=says):
            total.update(x, y)
    assert total.num_rows == 100
    assert total.cka().similarity == before
    other = Streaming()
    other.update(X, X)
    with pytest.raises(ValueError, match="cannot be merged"):
        total.merge(other)
    batches = MinibatchCKA()
    batches.update(X, Y)
    with pytest.raises(ValueError, match="6 and 6 units after"):
        batches.update(X, X)
    assert batches.num_batches == 1


def test_streaming_warns_and_refuses_as_the_batch_functions_do():
    total = Streaming()
    total.update(X[:7], Y[:7])
    with pytest.raises(ValueError, match="7 rows for 6 units"):
        total.cca()
    total.update(X[7:20], Y[7:20])
    with pytest.warns(LrscopeWarning, match="20 rows are too few"):
        assert total.cca().examples == 20


def test_streaming_takes_single_examples_and_maps():
    total = Streaming()
    for x, y in zip(MAPS[:60], MAPS[60:120], strict=True):
        total.update(x[None], y[None], spatial="samples")
    assert (total.examples, total.num_rows) == (60, 960)
    assert total.cca().similarity == pytest.approx(
        cca(MAPS[:60], MAPS[60:120], spatial="samples").similarity, abs=1e-10
    )


def test_plots_return_their_axes():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert cca(X, Y).plot(ax) is ax
    assert ax.get_ylabel() == "canonical correlation"
    assert procrustes(X, Y).plot().get_xlabel() == "direction"
    with pytest.raises(ValueError, match="no correlations"):
        cka(X, Y).plot()
    plt.close("all")


def test_only_streams_are_merged():
    with pytest.raises(TypeError, match="other: expected a Streaming, got int"):
        Streaming().merge(3)
