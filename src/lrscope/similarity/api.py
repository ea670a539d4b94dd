"""The five measures."""

from __future__ import annotations

from typing import Literal

from lrscope.similarity.measure import measured
from lrscope.similarity.measures import measure_of
from lrscope.similarity.minibatch import minibatch_cka
from lrscope.similarity.result import Similarity
from lrscope.similarity.shapes import Activations, Channels, Spatial


def cca(
    x: Activations,
    y: Activations,
    *,
    spatial: Spatial | None = None,
    channels: Channels | None = None,
    null: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
) -> Similarity:
    r"""Mean canonical correlation of two sets of activations on the same examples.

    .. math:: \bar\rho = \frac1c \sum_{i=1}^{c} \rho_i, \qquad
              \rho_i = \text{singular values of } W_x^\top X^\top Y W_y, \quad c = \min(r_x, r_y)

    with centred X and Y and whitening W (:math:`W_x^\top X^\top X W_x = I`) of their r_x and r_y directions.

    Does not change under any invertible linear map or translation of either side, and is symmetric. In return it
    gives a direction with a millionth of the variance the same say as the first one; :func:`svcca` does not.

    Args:
        x, y: Activations on the same examples in the same order, (N, D1) and (N, D2); torch tensors or NumPy arrays
            of any float dtype, on any device. Sums are kept in float64. Maps (N, C, H, W) and sequences (N, T, D)
            need ``spatial``.
        spatial: What becomes of positions. ``"samples"``: every position of every example is a row (both sides need
            the same positions). ``"average"``: their mean. ``"flatten"``: position times channel are the units.
            ``"dft"``: a Fourier transform over positions, the measure at each frequency, and the mean over
            frequencies (Raghu et al., section 4; equal sizes).
        channels: Where the channels are: ``"first"`` or ``"last"`` after the examples. By default last in three
            dimensions (a sequence) and first in more (a map); the outputs of ``Conv1d`` need ``"first"``.
        null: Number of permutations of the examples of y, for ``result.null``: what chance gives here, and p.
        bootstrap: Number of random halves of the examples for ``result.interval``, 95 % (m out of n bootstrap without
            replacement, m = N/2, reflected at the estimate, so that the bias of few examples is off).
        seed: Of the permutations and resamples; torch's global generator is not touched.

    Returns:
        A :class:`Similarity`; ``float(result)`` is the mean correlation, ``distance`` is 1 minus it.

    Raises:
        ValueError: Shapes that do not pair, NaN or infinity (with the first place), no unit that varies, or no more
            rows than directions: N - 1 directions fit any N rows, so all correlations would be 1 by construction.

    Warns:
        LrscopeWarning: Fewer than 10 rows per direction compared; the message says how many are needed.

    Cost: three products of N D^2 and an SVD of D^3; each permutation one such product and an SVD, each half the
    whole of half the rows. Memory: a few MB of converted rows at a time and about ten (D, D) matrices.

    Source: Hotelling, "Relations between two sets of variates", 1936; as a similarity of networks Raghu et al.,
    arXiv:1706.05806, section 2.

    Example:
        >>> import torch
        >>> x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
        >>> mixed = x @ torch.randn(8, 8, generator=torch.Generator().manual_seed(1)) + 3
        >>> round(float(cca(x, mixed)), 6)
        1.0
    """
    measure = measure_of("cca", {})
    return measured(measure, x, y, spatial=spatial, channels=channels, null=null, bootstrap=bootstrap, seed=seed)


def svcca(
    x: Activations,
    y: Activations,
    *,
    variance: float = 0.99,
    spatial: Spatial | None = None,
    channels: Channels | None = None,
    null: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
) -> Similarity:
    """Mean canonical correlation of the leading principal directions that carry most of the variance.

    Each side is first cut to its smallest number of leading principal directions with at least ``variance`` of its
    variance; then as :func:`cca`. Does not change under rotations and reflections, one common scale and translation
    of either side, and is symmetric. A general linear map changes it, since it changes what leads.

    Args:
        x, y, spatial, channels, null, bootstrap, seed: As for :func:`cca`.
        variance: Share of the variance that is kept, in (0, 1]; 0.99 is the rule of Raghu et al., section 2.1.

    Returns:
        A :class:`Similarity`; ``ranks`` says how many directions were kept.

    Raises:
        ValueError: As for :func:`cca`, or a variance outside (0, 1].

    Cost: As :func:`cca`, and two eigendecompositions.

    Source: Raghu, Gilmer, Yosinski, Sohl-Dickstein, "SVCCA", arXiv:1706.05806, section 2.1.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> x, noise = torch.randn(1000, 4, generator=g), 1e-3 * torch.randn(1000, 4, generator=g)
        >>> svcca(x, torch.cat([x, noise], dim=1)).ranks
        (4, 4)
    """
    measure = measure_of("svcca", {"variance": variance})
    return measured(measure, x, y, spatial=spatial, channels=channels, null=null, bootstrap=bootstrap, seed=seed)


def pwcca(
    x: Activations,
    y: Activations,
    *,
    reference: Literal["x", "y"] = "x",
    spatial: Spatial | None = None,
    channels: Channels | None = None,
    null: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
) -> Similarity:
    r"""Canonical correlations weighted by how much of the reference each canonical direction accounts for.

    .. math:: \sum_i \alpha_i \rho_i \big/ \sum_i \alpha_i, \qquad \alpha_i = \sum_j |\langle h_i, z_j \rangle|

    where h_i is the i-th canonical variable of the reference over the examples and z_j its j-th centred unit.

    **Not symmetric**: the weights come from one side. It does not change under an invertible linear map of the
    *other* side, nor under translation, one common scale, sign flips or a permutation of units of the reference; a
    rotation of the reference changes it, since the weights add up over units. Where correlations coincide (several at
    1, say), their directions and weights are arbitrary, which the guard ``tied_correlations`` reports.

    Args:
        x, y, spatial, channels, null, bootstrap, seed: As for :func:`cca`.
        reference: The side that gives the weights.

    Returns:
        A :class:`Similarity` with ``correlations`` and their ``weights``.

    Raises:
        ValueError: As for :func:`cca`, or a reference that is neither side.

    Cost: As :func:`cca`; the SVD is one with vectors.

    Source: Morcos, Raghu, Bengio, "Insights on representational similarity in neural networks with canonical
    correlation", arXiv:1806.05759, section 3.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(1000, 6, generator=g)
        >>> y = torch.cat([x[:, :3], torch.randn(1000, 3, generator=g)], dim=1)
        >>> loud = x * torch.tensor([9.0, 9, 9, 1, 1, 1])
        >>> bool(pwcca(loud, y).similarity > cca(loud, y).similarity + 0.2)
        True
    """
    measure = measure_of("pwcca", {"reference": reference})
    return measured(measure, x, y, spatial=spatial, channels=channels, null=null, bootstrap=bootstrap, seed=seed)


def cka(
    x: Activations,
    y: Activations,
    *,
    debiased: bool = False,
    batch_size: int | None = None,
    spatial: Spatial | None = None,
    channels: Channels | None = None,
    null: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
) -> Similarity:
    r"""Linear centred kernel alignment.

    .. math:: \frac{\|X^\top Y\|_F^2}{\|X^\top X\|_F \, \|Y^\top Y\|_F}

    with centred X and Y. Does not change under rotations and reflections, one common scale and translation of either
    side, and is symmetric. A general linear map changes it.

    The plain value is biased upward when there are few examples (``result.chance`` is what unrelated data give).
    ``debiased=True`` puts the unbiased estimate of HSIC into all three places, so that unrelated data give 0 in the
    mean for any N of at least 4, also for more units than examples; single values may then be below 0.

    Args:
        x, y, spatial, channels, null, bootstrap, seed: As for :func:`cca`.
        debiased: With the unbiased HSIC.
        batch_size: With ``debiased=True``, HSIC is estimated on batches of this many rows, in the order given, and
            averaged (Nguyen et al.), for comparison with numbers found that way; :class:`MinibatchCKA` does so on the
            fly. A last batch of fewer than 4 rows is left out.

    Returns:
        A :class:`Similarity`; ``distance`` is 1 minus the similarity.

    Raises:
        ValueError: Shapes that do not pair, NaN or infinity, no unit that varies, fewer than 4 rows for
            ``debiased=True``, or ``batch_size`` without it.

    Warns:
        LrscopeWarning: Not debiased, with fewer than 10 rows per direction (participation ratio of the spectrum).

    Cost: three products of N D^2; for more units than rows N^2 D and an eigendecomposition of N^3. Each permutation
    one such product.

    Source: Kornblith et al., arXiv:1905.00414, equation 4; the unbiased HSIC is Song et al., "Supervised feature
    selection via dependence estimation", 2007, equation 4; minibatches: Nguyen et al., arXiv:2010.15327, section 3.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(40, 200, generator=g), torch.randn(40, 200, generator=g)
        >>> abs(float(cka(x, y, debiased=True))) < 0.1
        True
    """
    if batch_size is None:
        measure = measure_of("cka", {"debiased": bool(debiased)})
        return measured(measure, x, y, spatial=spatial, channels=channels, null=null, bootstrap=bootstrap, seed=seed)
    if not debiased:
        raise ValueError("batch_size: averaging over batches needs the unbiased HSIC; add debiased=True")
    if bootstrap:
        raise ValueError("bootstrap: not with batch_size; measure the whole with cka(debiased=True, bootstrap=...)")
    return minibatch_cka(x, y, batch_size, spatial=spatial, channels=channels, null=null, seed=seed)


def procrustes(
    x: Activations,
    y: Activations,
    *,
    metric: Literal["angular", "euclidean"] = "angular",
    normalised: bool = True,
    spatial: Spatial | None = None,
    channels: Channels | None = None,
    null: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
) -> Similarity:
    r"""Shape distance: what remains between two representations after the best rotation or reflection.

    .. math:: s = \frac{\|X^\top Y\|_*}{\|X\|_F \|Y\|_F}, \qquad
              d_\text{angular} = \arccos s, \qquad d_\text{euclidean} = \sqrt{2 - 2 s}

    with centred X and Y and the sum of singular values :math:`\|\cdot\|_*`. Both distances are metrics: symmetric,
    with a triangle inequality, so that clusters and neighbours among networks mean something. ``euclidean`` is
    :math:`\min_Q \|X / \|X\|_F - (Y / \|Y\|_F) Q\|_F`; with ``normalised=False`` it is
    :math:`\min_Q \|X - Y Q\|_F` on the centred activations as they are, which grows with their size and with N.

    Does not change under rotations, reflections and translation of either side, nor under a scale of either side
    unless ``normalised=False``. Widths may differ: the smaller side is thought to be padded with zeros.

    Args:
        x, y, spatial, channels, null, bootstrap, seed: As for :func:`cca`.
        metric: Which distance ``result.distance`` is; ``similarity`` is s for both.
        normalised: Whether sizes are divided out of the distance.

    Returns:
        A :class:`Similarity`.

    Raises:
        ValueError: Shapes that do not pair, NaN or infinity, no unit that varies, or the angular distance of shapes
            that are not normalised.

    Warns:
        LrscopeWarning: Fewer than 10 rows per direction (participation ratio of the spectrum).

    Cost: As :func:`cca`.

    Source: Williams, Kunz, Kornblith, Linderman, "Generalized shape metrics on neural representations",
    arXiv:2110.14739, equations 4 to 6.

    Example:
        >>> import torch
        >>> x = torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
        >>> rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1))).Q
        >>> round(procrustes(x, 3 * x @ rotation + 1).distance, 3)
        0.0
    """
    measure = measure_of("procrustes", {"metric": metric, "normalised": bool(normalised)})
    return measured(measure, x, y, spatial=spatial, channels=channels, null=null, bootstrap=bootstrap, seed=seed)
