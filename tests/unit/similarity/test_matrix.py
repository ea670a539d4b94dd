"""Layers against layers, and layers over time."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from lrscope import similarity
from lrscope.errors import LrscopeWarning
from lrscope.similarity import compare, over_time, record


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(48, 5))


IMAGES = [draw(300, 1, 8, 8), draw(300, 1, 8, 8, seed=1)]
RECORDED = record({"a": network(0), "b": network(1)}, IMAGES)
A, B = RECORDED["a"], RECORDED["b"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("cca", {}), ("svcca", {"variance": 0.9}), ("pwcca", {}), ("cka", {"debiased": True}), ("procrustes", {})],
)
def test_each_cell_is_the_measure_of_its_pair(name, options):
    layers = ["0", "1", "2", "4"]
    a, b = ({layer: r[layer] for layer in layers} for r in (A, B))
    matrix = compare(a, b, name, spatial="average", **options)
    measure = getattr(similarity, name)
    for i, row in enumerate(layers):
        for j, column in enumerate(layers):
            alone = measure(a[row], b[column], spatial="average", **options)
            assert matrix.values[i, j] == pytest.approx(alone.similarity, abs=1e-12)
            assert matrix[row, column].to_dict() | {"cost": 0} == alone.to_dict() | {"cost": 0}
    assert matrix.same == {layer: matrix[layer, layer].similarity for layer in layers}


def test_pairs_without_equal_positions_are_nan_with_a_reason():
    with pytest.warns(LrscopeWarning, match=r"of 25 pairs could not be measured and are NaN; 0 against 2: "):
        matrix = compare(A, B, spatial="dft")
    assert np.isnan(matrix.values[0, 2])
    assert "positions of one size" in matrix.reasons["0", "2"]
    assert matrix["0", "1"].similarity == similarity.svcca(A["0"], B["1"], spatial="dft").similarity
    assert matrix["4", "4"].similarity == similarity.svcca(A["4"], B["4"]).similarity
    with pytest.raises(KeyError, match="could not be measured: spatial='dft'"):
        matrix["0", "2"]
    with pytest.raises(KeyError, match="no layer '5'"):
        matrix["5", "4"]
    assert json.loads(json.dumps(matrix.to_dict()))["values"][0][2] is None
    with pytest.warns(LrscopeWarning):
        samples = compare(A, B, spatial="samples")
    assert "600 examples with 36 positions against 600 with 16" in samples.reasons["0", "2"]
    assert not np.isnan(samples.values[0, 1])


def test_few_samples_are_told_once_for_the_whole_matrix():
    with pytest.warns(LrscopeWarning) as caught:
        matrix = compare({"x": A["4"][:40], "y": A["3"][:40]}, {"x": B["4"][:40]}, "svcca")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "2 of 2 values rest on too few samples; y against x has 40 rows" in str(caught[0].message)
    assert all("few_samples" in {g.kind for g in r.guards} for r in matrix.results.values())


def test_nothing_to_measure_is_an_error_with_the_first_reason():
    diverged = torch.cat([torch.full((10, 1), float("nan")), draw(10, 4)], dim=1)
    with pytest.raises(ValueError, match="no pair of layers can be measured; x against y: layer: 10 of 50"):
        compare({"x": diverged, "z": diverged}, {"y": draw(10, 5)})


def test_recordings_of_other_inputs_are_refused():
    other = record(network(0), IMAGES[::-1])
    with pytest.raises(ValueError, match="'a' and 'b' are of different inputs, so their rows do not pair"):
        compare(A, other, spatial="average")
    with pytest.raises(ValueError, match="'1' and '2' are of different inputs"):
        over_time({1: A, 2: other}, spatial="average")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("cosine", {}, "expected one of cca, svcca, pwcca, cka, procrustes, got 'cosine'"),
        ("cka", {"variance": 0.9}, "cka has no option 'variance'; it has debiased"),
        ("svcca", {"variance": 2}, "share in"),
    ],
)
def test_measures_and_their_options_are_checked(name, options, says):
    with pytest.raises(ValueError, match=says):
        compare(A, B, name, spatial="average", **options)


def test_over_time_against_a_reference_and_time_against_time():
    times = {0: A, 10: B, 20: A}
    matrix = over_time(times, spatial="average")
    assert matrix.rows == tuple(A)
    assert matrix.columns == ("0", "10", "20")
    assert np.allclose(matrix.values[:, [0, 2]], 1)
    assert matrix["2", "10"].similarity == similarity.svcca(B["2"], A["2"], spatial="average").similarity
    back = over_time(times, spatial="average", reference=10)
    assert np.allclose(back.values[:, 1], 1)
    square = over_time(times, "cka", layer="4")
    assert square.rows == square.columns == ("0", "10", "20")
    assert np.allclose(np.diag(square.values), 1)
    assert np.allclose(square.values, square.values.T)
    for bad, says in (
        ({"layer": "nope"}, r"recordings\['0'\]: no layer 'nope'"),
        ({"reference": 7}, "no time '7' among 0, 10, 20"),
    ):
        with pytest.raises(ValueError, match=says):
            over_time(times, **bad)
    with pytest.raises(ValueError, match="at least two times"):
        over_time({0: A})


def test_a_layer_is_prepared_once(monkeypatch):
    from lrscope.similarity.side import Side

    made = []
    whole = Side.of.__func__
    monkeypatch.setattr(Side, "of", classmethod(lambda cls, *args: made.append(1) or whole(cls, *args)))
    compare(A, B, spatial="average")
    assert len(made) == len(A) + len(B)


def test_heat_map_has_names_numbers_and_a_scale():
    matrix = compare(A, B, "cka", spatial="average", names=("one", "two"))
    ax = matrix.plot()
    assert [t.get_text() for t in ax.get_xticklabels()] == list(B)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(A)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("one", "two")
    assert [t.get_text() for t in ax.texts] == [f"{v:.2f}" for v in matrix.values.flat]
    big = {str(i): draw(60, 2, seed=i) for i in range(17)}
    assert not compare(big, big, "cka", debiased=True).plot().texts
    with pytest.warns(LrscopeWarning):
        holes = compare(A, B, spatial="samples").plot()
    assert "–" in [t.get_text() for t in holes.texts]
    plt.close("all")


def test_a_matrix_is_printed_as_a_table():
    layers = ["0", "4"]
    matrix = compare({k: A[k] for k in layers}, {k: B[k] for k in layers}, "cka", spatial="average", debiased=True)
    head, columns, *rows = str(matrix).splitlines()
    assert head == "cka(debiased=True)"
    assert columns.split() == layers
    assert [row.split() for row in rows] == [
        [name, *(f"{v:.3f}" for v in values)] for name, values in zip(layers, matrix.values, strict=True)
    ]
    assert repr(matrix) == "<Matrix: 2 x 2, cka(debiased=True)>"
    with pytest.raises(KeyError, match=r"expected a row and a column such as matrix\['0', '0'\]"):
        matrix["0"]


def test_a_large_matrix_is_printed_in_part():
    many = {f"layer{i}": draw(60, 2, seed=i) for i in range(15)}
    text = str(compare(many, many, "cka", debiased=True)).splitlines()
    assert "15 x 15 in all" in text[0]
    assert len(text) == 14
    assert "layer12" not in text[1]
