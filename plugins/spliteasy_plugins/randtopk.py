"""Randomized top-k: mostly the largest entries of every sample, sometimes others, so that training sees them too.

Zheng, Chen, Lyu and Yao, "Reducing Communication for Split Learning by Randomized Top-k Sparsification", IJCAI 2023,
arXiv 2305.18469.
"""

from __future__ import annotations

import numpy as np
import torch

from spliteasy.codecs import Context
from spliteasy.errors import CodecError
from spliteasy_plugins.selection import Mask, marked
from spliteasy_plugins.topk import TopK

__all__ = ["RandTopK"]


class RandTopK(TopK):
    """``topk(fraction)``, except that in training each sample draws its k of d entries at random.

    They are drawn one after another without replacement. At each draw an entry among the sample's k largest has weight
    (1 - ``alpha``)/k, each of the d - k others ``alpha``/(d - k), and the weights of those not yet drawn are scaled to
    sum to 1, as in the code that the authors published (``torch.multinomial``). As the largest are used up the others
    gain, so that somewhat more than ``alpha`` of the k are others: 19 % for ``alpha=0.1`` and small k/d. ``alpha=0``
    is ``topk``.

    The draws come from ``context.generator``, so that a retry repeats them; positions are sent, so that the receiver
    draws nothing. In evaluation, and for a sample that holds NaN or infinity (which could be left out by chance, and
    must not be hidden), it is ``topk``. The planes are those of ``topk`` too. The paper randomizes the activations and
    sends their gradient at the same positions: ``reuse=True`` in both chains, of this codec or of ``topk``, does that.
    As the chain of a gradient without ``reuse`` it randomizes the gradient.

    Raises ``CodecError`` unless 0 < fraction <= 1 and 0 <= alpha <= 1, and where ``topk`` does.
    """

    name = "randtopk"
    summary = "top-k that keeps some smaller entries by chance while training"
    citation = "Zheng et al., arXiv 2305.18469"
    example = "randtopk(0.1, alpha=0.1)"

    def __init__(self, fraction: float, alpha: float = 0.1, *, reuse: bool = False) -> None:
        super().__init__(fraction, reuse=reuse)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise CodecError(f"expected alpha from 0 to 1 for randtopk, found {alpha!r}")
        self.alpha = float(alpha)

    def _chosen(self, x: torch.Tensor, k: int, context: Context) -> Mask:
        """The largest k of each row, some of them exchanged for others in training."""
        mask = super()._chosen(x, k, context)
        if not context.training or not self.alpha:
            return mask
        seed = int(torch.randint(1 << 62, (), generator=context.generator))
        draws = np.random.Generator(np.random.PCG64(seed))
        for row, found in zip(x, mask, strict=True):
            exchanged = _others(k, row.numel() - k, self.alpha, draws)
            top, rest = marked(found), marked(~found)
            if exchanged and bool(row[torch.from_numpy(top)].isfinite().all()):
                found[draws.choice(top, exchanged, replace=False, shuffle=False)] = False
                found[draws.choice(rest, exchanged, replace=False, shuffle=False)] = True
        return mask


def _others(k: int, others: int, alpha: float, draws: np.random.Generator) -> int:
    """How many of k weighted draws without replacement fall on the ``others``; the k largest weigh 1 - alpha together.

    Drawing by weight is letting every entry wait an exponential time with its weight as the rate and taking the k
    first (Efraimidis and Spirakis, 2006); of each kind only the order statistics are needed (Rényi 1953).
    """
    if alpha == 1:
        return min(k, others)
    count = min(k, others)
    left = np.arange(k)
    top = np.cumsum(draws.standard_exponential(k) / (k - left)) * (k / (1 - alpha))
    rest = np.cumsum(draws.standard_exponential(count) / (others - left[:count])) * (others / alpha)
    # The j-th of the others (from 0) is among the first k of all if it comes before the (k - j)-th of the largest.
    return int(np.count_nonzero(rest < top[::-1][:count]))
