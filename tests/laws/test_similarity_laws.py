"""What each similarity promises: which changes of a side it does not see, its bounds, what chance gives, any batching."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope import similarity
from lrscope.similarity import MinibatchCKA, Streaming, cca, cka, procrustes, pwcca, svcca
from lrscope.similarity.measure import Pair
from lrscope.similarity.measures import measure_of
from lrscope.similarity.shapes import views

N, D1, D2 = 300, 7, 5
MEASURES = {
    "cca": cca,
    "svcca": lambda x, y, **k: svcca(x, y, variance=0.95, **k),
    "pwcca": pwcca,
    "cka": cka,
    "cka debiased": lambda x, y, **k: cka(x, y, debiased=True, **k),
    "procrustes": procrustes,
    "procrustes euclidean": lambda x, y, **k: procrustes(x, y, metric="euclidean", **k),
}
SYMMETRIC = [name for name in MEASURES if name != "pwcca"]
SEEDS = st.integers(0, 10**6)


def gaussian(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(seed, n=N, d1=D1, d2=D2):
    """Two sides that share something: spectra over a factor 10, correlations between 0 and 1, large means."""
    shared, spectrum = gaussian(seed, n, d1), torch.logspace(0, 1, d1, dtype=torch.float64)
    x = shared * spectrum @ rotation(seed + 1, d1) + 4
    y = shared @ gaussian(seed + 2, d1, d2) + 2 * gaussian(seed + 3, n, d2) - 3
    return x, y


def rotation(seed, d):
    return torch.linalg.qr(gaussian(seed, d, d)).Q


CHANGES = {
    "orthogonal": lambda x, seed: x @ rotation(seed, x.shape[1]),
    "scaling": lambda x, seed: 7.5 * x,
    "translation": lambda x, seed: x + 10 * gaussian(seed, x.shape[1]),
    "units permuted": lambda x, seed: x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))],
    "signs": lambda x, seed: x * torch.where(gaussian(seed, x.shape[1]) > 0, 1.0, -1.0),
    "invertible": lambda x, seed: x @ (gaussian(seed, x.shape[1], x.shape[1]) * torch.logspace(0, 2, x.shape[1])),
}
RIGID = {"orthogonal", "scaling", "translation", "units permuted", "signs"}
# (measure, side) -> the changes of that side that it does not see. Exactly these: the others must be seen.
BLIND = {
    **{("cca", side): RIGID | {"invertible"} for side in "xy"},
    **{(name, side): RIGID for name in MEASURES if name not in ("cca", "pwcca") for side in "xy"},
    ("pwcca", "x"): RIGID - {"orthogonal"},
    ("pwcca", "y"): RIGID | {"invertible"},
}


def before_and_after(name, side, change, seed):
    x, y = related(seed)
    moved = CHANGES[change](x if side == "x" else y, seed + 9)
    return MEASURES[name](x, y), MEASURES[name](moved, y) if side == "x" else MEASURES[name](x, moved)


@pytest.mark.parametrize(
    ("name", "side", "change"), [(*key, change) for key, blind in BLIND.items() for change in sorted(blind)]
)
@settings(max_examples=5)
@given(seed=SEEDS)
def test_does_not_see(name, side, change, seed):
    before, after = before_and_after(name, side, change, seed)
    # Moments square the condition number, which is up to 1e3 here.
    assert after.similarity == pytest.approx(before.similarity, abs=1e-9)
    assert after.distance == pytest.approx(before.distance, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "side", "change"), [(*key, c) for key, blind in BLIND.items() for c in CHANGES if c not in blind]
)
def test_sees_every_other_change(name, side, change):
    pairs = [before_and_after(name, side, change, seed) for seed in range(3)]
    assert max(abs(after.similarity - before.similarity) for before, after in pairs) > 0.005


@settings(max_examples=10)
@given(seed=SEEDS)
def test_unnormalised_shape_distance_sees_scale_but_no_rigid_motion(seed):
    x, y = related(seed)
    size = {"metric": "euclidean", "normalised": False}
    before = procrustes(x, y, **size).distance
    for change in RIGID - {"scaling"}:
        assert procrustes(CHANGES[change](x, seed), y, **size).distance == pytest.approx(before, rel=1e-9)
    assert abs(procrustes(2 * x, y, **size).distance - before) > 0.1


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(max_examples=5)
@given(seed=SEEDS)
def test_symmetry(name, seed):
    x, y = related(seed)
    one, two = MEASURES[name](x, y), MEASURES[name](y, x)
    assert one.similarity == pytest.approx(two.similarity, abs=1e-12)
    assert one.distance == pytest.approx(two.distance, abs=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_pwcca_is_not_symmetric_and_its_reference_says_which_way(seed):
    x, y = related(seed)
    forth, back = pwcca(x, y), pwcca(y, x)
    assert abs(forth.similarity - back.similarity) > 1e-4
    assert pwcca(y, x, reference="y").similarity == pytest.approx(forth.similarity, abs=1e-12)
    # The correlations are those of CCA; only the weights differ.
    assert np.allclose(forth.correlations, back.correlations, atol=1e-12)
    assert np.allclose(forth.correlations, cca(x, y).correlations, atol=1e-12)
    assert forth.weights.sum() == pytest.approx(1)
    assert forth.similarity == pytest.approx(float(forth.weights @ forth.correlations), abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
@settings(max_examples=5)
@given(seed=SEEDS)
def test_bounds_and_likeness_to_itself(name, seed):
    x, y = related(seed)
    result = MEASURES[name](x, y)
    assert (-1 if name == "cka debiased" else 0) <= result.similarity <= 1
    assert result.distance >= 0
    assert float(result) == result.similarity
    itself = MEASURES[name](x, x.clone())
    assert itself.similarity == pytest.approx(1, abs=1e-10)
    assert itself.distance == pytest.approx(0, abs=3e-7)  # the angle of 1 - 1e-14 is 1e-7


@settings(max_examples=15)
@given(seed=SEEDS)
def test_shape_distances_keep_the_triangle_inequality(seed):
    (x, y), z = related(seed), gaussian(seed + 5, N, 6)
    for options in ({}, {"metric": "euclidean"}, {"metric": "euclidean", "normalised": False}):
        xy, yz, xz = (procrustes(a, b, **options).distance for a, b in ((x, y), (y, z), (x, z)))
        assert xz <= xy + yz + 1e-12
        assert xy <= xz + yz + 1e-12


# Chance, exactly: all orders of six examples instead of a sample of orders.

SIX = [list(order) for order in itertools.permutations(range(6))]


def few(name, options, x, y):
    measure = measure_of(name, options)
    pair = Pair.of(measure, views(x, y, None, None)[0])
    return [pair.read(measure, torch.tensor(order)) for order in SIX], pair.read(measure)


@pytest.mark.parametrize("seed", range(3))
def test_chance_of_cka_is_the_mean_over_all_permutations(seed):
    x, y = gaussian(seed, 6, 3), gaussian(seed + 50, 6, 2)
    permuted, reading = few("cka", {}, x, y)
    assert np.mean([r.similarity for r in permuted]) == pytest.approx(reading.chance, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_debiased_cka_is_zero_in_the_mean_over_all_permutations(seed):
    x, y = gaussian(seed, 6, 3), gaussian(seed + 50, 6, 2)
    assert np.mean([r.similarity for r in few("cka", {"debiased": True}, x, y)[0]]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_chance_of_cca_is_the_root_mean_square_over_all_permutations(seed):
    x, y = gaussian(seed, 6, 3), gaussian(seed + 50, 6, 2)
    permuted, reading = few("cca", {}, x, y)
    squares = np.concatenate([r.correlations**2 for r in permuted])
    assert math.sqrt(squares.mean()) == pytest.approx(reading.chance, abs=1e-12)
    assert np.mean([r.similarity for r in permuted]) < reading.chance


@pytest.mark.parametrize("name", ["cca", "svcca", "pwcca", "cka", "cka debiased", "procrustes"])
def test_unrelated_data_lie_in_the_null_and_near_chance(name):
    x, y = gaussian(0, N, D1), gaussian(1, N, D2)
    result = MEASURES[name](x, y, null=200)
    assert abs(result.similarity - result.null.mean) < 4 * result.null.std
    assert result.null.p > 0.01
    assert result.null.mean <= result.chance + 4 * result.null.std / math.sqrt(200)
    assert MEASURES[name](x, y + x[:, :D2], null=99).null.p == 0.01


@pytest.mark.parametrize("name", ["cca", "cka", "cka debiased", "procrustes"])
def test_p_of_unrelated_data_is_uniform(name):
    values = [MEASURES[name](gaussian(2 * s, 60, 3), gaussian(2 * s + 1, 60, 3), null=19).null.p for s in range(120)]
    # Twenty equally likely values; the mean of 120 has a standard deviation of 0.026.
    assert np.mean(values) == pytest.approx(0.525, abs=0.08)
    assert set(np.round(np.array(values) * 20)) <= set(range(1, 21))


# Any batching gives the same.


def splits(total):
    return st.lists(st.integers(1, total), min_size=1, max_size=8).map(lambda cuts: sorted({0, total, *cuts}))


@settings(max_examples=25)
@given(cuts=splits(N), seed=SEEDS, where=st.integers(0, 8), dead=st.booleans())
def test_streaming_equals_batch_however_it_is_split_and_merged(cuts, seed, where, dead):
    x, y = related(seed)
    if dead:
        x[:, 2] = 3.25
    one, two = Streaming(), Streaming()
    for i, (a, b) in enumerate(itertools.pairwise(cuts)):
        (one if i < where else two).update(x[a:b], y[a:b])
    one.merge(two)
    assert (one.num_rows, one.examples) == (N, N)
    for name, options in {
        "cca": {},
        "svcca": {"variance": 0.9},
        "pwcca": {"reference": "y"},
        "cka": {},
        "procrustes": {"metric": "euclidean", "normalised": False},
    }.items():
        whole, parts = getattr(similarity, name)(x, y, **options), one.measure(name, **options)
        assert parts.similarity == pytest.approx(whole.similarity, abs=1e-10)
        assert parts.distance == pytest.approx(whole.distance, abs=1e-10, rel=1e-9)
        assert parts.ranks == whole.ranks
        assert parts.chance == pytest.approx(whole.chance, abs=1e-12)
        assert [g.kind for g in parts.guards] == [g.kind for g in whole.guards]
    assert one.cka(debiased=True).similarity == pytest.approx(cka(x, y, debiased=True).similarity, abs=1e-10)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_merging_is_commutative_and_leaves_the_other_as_it_was(seed):
    x, y = related(seed)
    parts = []
    for a, b in ((0, 40), (40, 300)):
        part = Streaming()
        part.update(x[a:b], y[a:b])
        parts.append(part)
    first = parts[1].cka().similarity
    forth, back = Streaming(), Streaming()
    for part in parts:
        forth.merge(part)
    for part in reversed(parts):
        back.merge(part)
    assert forth.cka(debiased=True).similarity == pytest.approx(back.cka(debiased=True).similarity, abs=1e-12)
    assert parts[1].cka().similarity == first


def test_streaming_holds_where_the_mean_drifts_far_from_the_first_batch():
    x, y = related(3)
    drift = torch.linspace(0, 1000, N, dtype=torch.float64)[:, None]
    total = Streaming()
    for a, b in zip((x + drift).split(30), y.split(30), strict=True):
        total.update(a, b)
    assert total.cca().similarity == pytest.approx(cca(x + drift, y).similarity, abs=1e-10)
    assert total.cka(debiased=True).similarity == pytest.approx(
        cka(x + drift, y, debiased=True).similarity, abs=1e-10
    )


@settings(max_examples=10)
@given(seed=SEEDS)
def test_one_minibatch_of_everything_is_debiased_cka_and_batches_average_hsic(seed):
    x, y = related(seed)
    assert cka(x, y, debiased=True, batch_size=N).similarity == pytest.approx(
        cka(x, y, debiased=True).similarity, abs=1e-12
    )
    total = MinibatchCKA()
    for a, b in zip(x.split(60), y.split(60), strict=True):
        total.update(a, b)
    assert total.result().similarity == cka(x, y, debiased=True, batch_size=60).similarity


@pytest.mark.parametrize("name", MEASURES)
def test_order_of_examples_does_not_matter_when_it_is_the_same_for_both(name):
    x, y = related(4)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert MEASURES[name](x[order], y[order]).similarity == pytest.approx(MEASURES[name](x, y).similarity, abs=1e-12)


# Kinds of input that say the same.


@pytest.mark.parametrize("name", MEASURES)
def test_kinds_of_arrays_and_layouts_agree(name):
    x, y = related(5)
    value = MEASURES[name](x, y).similarity
    wide = torch.zeros(N, 2 * D1, dtype=torch.float64)
    wide[:, ::2] = x
    frozen = y.numpy().copy()
    frozen.flags.writeable = False
    for a, b in (
        (x.numpy(), y.numpy()),
        (x.T.contiguous().T, frozen),
        (wide[:, ::2], np.asfortranarray(y.numpy())),
        (x.numpy()[::-1], y.flip(0)),
        (x.clone().requires_grad_(), y),
    ):
        assert MEASURES[name](a, b).similarity == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, 1e-6), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)], ids=str
)
@pytest.mark.parametrize("name", MEASURES)
def test_low_precision_is_rounded_once_and_summed_in_float64(name, dtype, tol):
    x, y = gaussian(6, N, D1), gaussian(7, N, D2)
    y[:, 0] += 2 * x[:, 0]
    low = MEASURES[name](x.to(dtype), y.to(dtype)).similarity
    assert low == pytest.approx(MEASURES[name](x, y).similarity, abs=tol)
    # Rounding the input is all that happens: the same numbers in float64 give the same.
    assert low == pytest.approx(MEASURES[name](x.to(dtype).double(), y.to(dtype).double()).similarity, abs=1e-12)


def test_a_large_mean_does_not_drown_the_variance():
    x, y = related(8)
    for name, measure in MEASURES.items():
        near = measure(x + 1e6, y - 1e6).similarity
        assert near == pytest.approx(measure(x, y).similarity, abs=1e-6), name


def test_inputs_and_global_random_states_are_left_alone():
    x, y = related(9)
    copies, state = (x.clone(), y.clone()), torch.get_rng_state()
    for measure in MEASURES.values():
        measure(x, y, null=3, bootstrap=3)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert torch.equal(torch.get_rng_state(), state)


# Positions.


def maps(seed, n=200, c=3, side=4):
    x = gaussian(seed, n, c, side, side)
    return x, torch.einsum("nchw,dc->ndhw", x, gaussian(seed + 1, 4, c)) + 0.5 * gaussian(seed + 2, n, 4, side, side)


@pytest.mark.parametrize("name", MEASURES)
def test_ways_of_handling_positions_are_what_they_say(name):
    x, y = maps(0)
    measure = MEASURES[name]
    rows = [t.movedim(1, -1).reshape(-1, t.shape[1]) for t in (x, y)]
    assert measure(x, y, spatial="samples").similarity == pytest.approx(measure(*rows).similarity, abs=1e-12)
    means = [t.mean((2, 3)) for t in (x, y)]
    assert measure(x, y, spatial="average").similarity == pytest.approx(measure(*means).similarity, abs=1e-12)
    small = [t[:, :2, :2] for t in (x, y)]  # 16 units for 200 examples
    flat = measure(*(t.flatten(1) for t in small))
    assert measure(*small, spatial="flatten").similarity == pytest.approx(flat.similarity, abs=1e-12)
    turned = [t.movedim(1, -1) for t in (x, y)]
    for way in ("samples", "average", "dft"):
        last = measure(*turned, spatial=way, channels="last").similarity
        assert last == pytest.approx(measure(x, y, spatial=way).similarity, abs=1e-12)


@pytest.mark.parametrize("name", ["cca", "svcca", "cka", "procrustes"])
@pytest.mark.parametrize("side", [3, 4])
def test_dft_is_the_mean_over_all_frequencies_of_complex_similarities(name, side):
    x, y = maps(1, side=side)
    fx, fy = np.fft.fft2(x.numpy()), np.fft.fft2(y.numpy())
    values = []
    for h, w in np.ndindex(side, side):
        a, b = (f[..., h, w] - f[..., h, w].mean(0) for f in (fx, fy))
        if name == "cka":
            values.append(square(a, b) / math.sqrt(square(a, a) * square(b, b)))
        elif name == "procrustes":
            values.append(np.linalg.svd(a.conj().T @ b)[1].sum() / np.linalg.norm(a) / np.linalg.norm(b))
        else:
            u, v = (leading(t, 0.95 if name == "svcca" else 1 - 1e-12) for t in (a, b))
            values.append(np.linalg.svd(u.conj().T @ v)[1].mean())
    result = MEASURES[name](x, y, spatial="dft")
    assert result.similarity == pytest.approx(np.mean(values), abs=1e-10)
    assert sum(result.part_weights) == pytest.approx(1)


def square(a, b):
    return np.linalg.norm(a.conj().T @ b) ** 2


def leading(a, variance):
    u, s, _ = np.linalg.svd(a, full_matrices=False)
    return u[:, : int((np.cumsum(s**2) < variance * (s**2).sum()).sum()) + 1]


def test_dft_does_not_see_a_circular_shift_of_one_side():
    x, y = maps(2)
    shifted = torch.roll(y, (1, 2), dims=(2, 3))
    assert svcca(x, shifted, spatial="dft").similarity == pytest.approx(
        svcca(x, y, spatial="dft").similarity, abs=1e-10
    )
    assert abs(svcca(x, shifted, spatial="samples").similarity - svcca(x, y, spatial="samples").similarity) > 0.1


@pytest.mark.parametrize("name", MEASURES)
def test_one_position_is_no_position_in_all_ways(name):
    x, y = gaussian(0, 200, 4, 1, 1), gaussian(1, 200, 3, 1, 1)
    y = y + x[:, :3]
    plain = MEASURES[name](x[:, :, 0, 0], y[:, :, 0, 0])
    for way in ("samples", "average", "dft", "flatten"):
        assert MEASURES[name](x, y, spatial=way).similarity == pytest.approx(plain.similarity, abs=1e-12)


@pytest.mark.parametrize("shape", [(200, 6, 4), (200, 2, 3, 2, 4)], ids=["sequence", "video, channels last"])
def test_sequences_and_volumes_have_their_channels_where_they_are_said_to_be(shape):
    x = gaussian(0, *shape)
    y = x @ gaussian(1, 4, 4)
    assert cca(x, y, spatial="samples", channels="last").similarity == pytest.approx(1, abs=1e-10)
    assert cca(x, y, spatial="dft", channels="last").similarity == pytest.approx(1, abs=1e-10)
    if len(shape) > 3:  # the default is (N, C, ...) for these, and (N, T, D) for three dimensions
        x, y = x.movedim(-1, 1), y.movedim(-1, 1)
    assert cca(x, y, spatial="samples").similarity == pytest.approx(1, abs=1e-10)


def test_permutations_move_whole_examples_not_positions():
    """Positions of an image that share an offset: permuting positions would find every pair of networks alike."""
    offsets = gaussian(0, 60, 1, 1, 1), gaussian(1, 60, 1, 1, 1)
    x, y = (o * torch.ones(1, 2, 1, 1) + 0.1 * gaussian(s, 60, 2, 5, 5) for s, o in enumerate(offsets, 2))
    by_image = cca(x, y, spatial="samples", null=99)
    loose = [t.movedim(1, -1).reshape(-1, 2) for t in (x, y)]
    assert by_image.null.p > 0.05
    assert by_image.null.mean > 2 * cca(*loose, null=99).null.mean
    assert {g.kind for g in by_image.guards} == set()


@pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")  # few samples is the point
@pytest.mark.parametrize("measure", [cka, lambda x, y: cka(x, y, debiased=True), procrustes])
def test_more_units_than_examples_follow_the_formulas_on_the_gram_matrices(measure):
    x, y = gaussian(0, 30, 80) + 2, gaussian(1, 30, 50)
    y[:, :30] += x[:, :30]
    a, b = (t - t.mean(0) for t in (x, y))
    result = measure(x, y)
    K, L = a @ a.T, b @ b.T
    if result.measure == "cka":
        expected = float((K * L).sum() / torch.linalg.norm(K) / torch.linalg.norm(L))
    elif result.measure == "cka(debiased=True)":
        expected = u_centred(K, L) / math.sqrt(u_centred(K, K) * u_centred(L, L))
    else:
        expected = float(torch.linalg.svdvals(a.T @ b).sum() / torch.linalg.norm(a) / torch.linalg.norm(b))
    assert result.similarity == pytest.approx(expected, abs=1e-11)


def u_centred(K, L):
    """Unbiased HSIC by its definition through U-centred matrices, another road than the package's."""
    n = len(K)

    def centre(M):
        M = M - torch.diag(torch.diagonal(M))
        rows = M.sum(1) / (n - 2)
        M = M - rows[:, None] - rows + M.sum() / ((n - 1) * (n - 2))
        return M - torch.diag(torch.diagonal(M))

    return float((centre(K) * centre(L)).sum()) / (n * (n - 3))
