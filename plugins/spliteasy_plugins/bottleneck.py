"""A linear bottleneck that keeps what the loss feels.

Reduced-rank regression (Izenman, Journal of Multivariate Analysis 5, 1975) of a message on itself, its errors weighed
by the gradients at the cut. A fitted, linear relative of the encoder and decoder that BottleNet++ trains at a cut
(Shao and Zhang, arXiv 1910.14315), and of the codebooks that FedLite fits to activations (Wang et al., arXiv
2201.11865): here what counts is not how near the message comes back but how little the loss changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spliteasy_plugins.projection import Projection
from spliteasy_plugins.subspace import factor, leading, mean_of, product, upright, weighted_sum

__all__ = ["Bottleneck"]

NEGLIGIBLE = 1e-12
"""Eigenvalues below this share of the largest are rounding errors; their components are left zero."""


class Bottleneck(Projection):
    """The encoder E and decoder D of rank ``components`` that minimise ``mean ||G^(1/2) (y - D E y)||^2`` over the
    calibration vectors y = x - m, where G is the second moment of the gradients g of the loss at the cut. (To first
    order an error e changes the loss by g^T e, whose square is e^T G e in the mean.) G is estimated from the
    calibration gradients as (1 - s) mean g g^T + s (mean g^T g / d) I, with the share s of Chen, Wiesel, Eldar and
    Hero, Shrinkage algorithms for MMSE covariance estimation (IEEE Transactions on Signal Processing 58, 2010,
    equation 23): the fewer and the more alike in all directions they are, the less they count.

    With R^T R = mean y y^T, and W the leading eigenvectors of R G R^T with eigenvalues L: D = R^T W, E = L^-1 W^T R G,
    then each column of D is scaled to length 1 and its row of E inversely. D E is a projection (E D = I). Where the
    calibration knows no gradients, G is I and the map is that of ``pca``.

    ``axis="sample"`` takes each sample whole, ``axis="channel"`` the vector of channels at each place. No matrix of d
    x d is needed, so that d may be some 100,000 with a few hundred calibration samples; but with fewer samples than
    matter it overfits, where ``axis="channel"`` does not. What the loss feels also changes as the network learns:
    fitted to an untrained one, for training it from there, it does no better than ``pca`` (`benchmarks/fitted.py`).

    A gradient g is sent as ``D^T g`` and comes back as ``E^T D^T g``, without the mean: the gradient through the map.
    So one codec, fitted on a message, also serves its gradient (`spliteasy.calibrate` shares it). See ``Projection``
    for planes and parameters.
    """

    name = "bottleneck"
    summary = "a linear bottleneck, fitted so that the loss changes least"
    citation = "Izenman 1975 (reduced-rank regression); cf. BottleNet++, arXiv 1910.14315"
    example = "bottleneck(4)"
    roles = ("encoder", "decoder")

    def solve(
        self, rows: Sequence[torch.Tensor], felt: Sequence[torch.Tensor], centered: bool
    ) -> dict[str, torch.Tensor]:
        """``encoder`` E and ``decoder`` D^T, both (components, d), and ``mean`` (d,) if centered."""
        mean = mean_of(rows) if centered else None
        moment = factor(rows, mean, self.components)  # R
        touched, ridge = _weight(felt, moment.shape[1], self.components)
        across = product(moment, touched)
        values, vectors = leading(across @ across.T + ridge * product(moment, moment), self.components)
        decoder = weighted_sum(vectors, moment)
        encoder = weighted_sum(vectors @ across, touched) + ridge * decoder
        kept = values > NEGLIGIBLE * values[0]
        lengths = torch.where(kept, decoder.norm(dim=1) * upright(decoder)[:, 0], 1.0)[:, None]
        decoder = torch.where(kept[:, None], decoder / lengths, 0.0)
        encoder = torch.where(kept[:, None], encoder * lengths / values[:, None], 0.0)
        return {"encoder": encoder, "decoder": decoder, **({} if mean is None else {"mean": mean})}


def _weight(felt: Sequence[torch.Tensor], entries: int, components: int) -> tuple[torch.Tensor, float]:
    """T (m, entries) and a ridge r with G = T^T T + r I; no rows and 1 without gradients other than zero."""
    touched = factor(felt, None, components) if felt else torch.zeros(0, entries)
    moment = product(touched, touched)
    trace, square = float(moment.trace()), float(moment.square().sum())
    if not trace:
        return touched[:0], 1.0
    count = sum(map(len, felt))
    spread = (count + 1 - 2 / entries) * (square - trace**2 / entries)
    above = (1 - 2 / entries) * square + trace**2
    share = above / spread if spread > above else 1.0
    return touched * (1 - share) ** 0.5, share * trace / entries
