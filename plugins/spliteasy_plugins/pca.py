"""Principal components of what crosses a cut.

Pearson, On lines and planes of closest fit to systems of points in space (1901); Hotelling, Analysis of a complex of
statistical variables into principal components (1933).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spliteasy_plugins.projection import Projection
from spliteasy_plugins.subspace import factor, leading, mean_of, product, upright, weighted_sum

__all__ = ["PrincipalComponents"]


class PrincipalComponents(Projection):
    """The ``components`` leading principal components: with the mean m and the orthonormal V (d, components) of the
    calibration vectors, a message x is sent as ``V^T (x - m)`` and comes back as ``m + V V^T (x - m)``, the best in
    mean square that so few numbers can do on the calibration tensors.

    ``axis="sample"`` takes each sample whole; ``axis="channel"`` takes the vector of channels at each place, so that
    the basis is small and independent of rows and columns, and the values keep the layout with ``components``
    channels: ``pca(16, axis="channel") | int8`` quantizes each component by itself.

    A gradient g is sent as ``V^T g`` and comes back as ``V V^T g``, without the mean: the gradient through the map
    above. So one codec, fitted on a message, also serves its gradient, and training then equals training with the map
    as a layer at the cut (`spliteasy.calibrate` shares it). See ``Projection`` for planes and parameters; components
    are ordered by variance, and the largest entry of each is positive.
    """

    name = "pca"
    summary = "principal components of samples or of channels, fitted on calibration batches"
    citation = "Pearson 1901; Hotelling 1933"
    example = "pca(4)"
    roles = ("basis",)

    def solve(
        self, rows: Sequence[torch.Tensor], felt: Sequence[torch.Tensor], centered: bool
    ) -> dict[str, torch.Tensor]:
        """``basis`` (components, d), orthonormal, and ``mean`` (d,) if centered. Gradients are not looked at."""
        mean = mean_of(rows) if centered else None
        moment = factor(rows, mean, self.components)
        _, vectors = leading(product(moment, moment), self.components)
        # Directions without variance are zero here; the QR decomposition puts orthonormal ones in their place.
        basis = torch.linalg.qr(weighted_sum(vectors, moment).T).Q.T
        basis = basis * upright(basis)
        return {"basis": basis, **({} if mean is None else {"mean": mean})}
