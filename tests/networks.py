"""Small networks, each with something that a cut or a split could get wrong. All take (batch, 2, 12, 12) and give
(batch, 3), unless they say otherwise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

SHAPE = (2, 12, 12)


class Base(nn.Module):
    """Two convolutions and a head, for the others to build on."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 6, 3, padding=1)
        self.two = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(F.relu(self.two(F.relu(self.one(x)))))

    def pooled(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class Residual(Base):
    """A tensor alive over several cuts, batch normalization, an addition in place after the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.one(x))
        for _ in range(2):
            out = self.norm(self.two(x)) if _ else self.norm(x)
            out += x
            x = self.relu(out)
        return self.pooled(x)


class Dense(nn.Module):
    """Every layer reads all before it: many tensors alive, gradients that are pieces of one."""

    def __init__(self, layers: int = 4, growth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, growth, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(growth * (n + 1)) for n in range(layers))
        self.convs = nn.ModuleList(nn.Conv2d(growth * (n + 1), growth, 3, padding=1) for n in range(layers))
        self.head = nn.Linear(growth * (layers + 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class Branches(nn.Module):
    """Four branches of different kinds side by side, twice, as in Inception."""

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.a = nn.Conv2d(channels, 3, 1)
            self.b = nn.Sequential(nn.Conv2d(channels, 3, 1), nn.BatchNorm2d(3), nn.ReLU(True), nn.Conv2d(3, 3, (1, 3)))
            self.pool = nn.AvgPool2d(3, stride=1, padding=1)
            self.c = nn.Conv2d(channels, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            b = F.pad(self.b(x), (1, 1, 0, 0))
            return torch.cat([self.a(x), b, self.c(self.pool(x)), F.max_pool2d(x, 3, stride=1, padding=1)], 1)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.Block(2), self.Block(11)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.second(F.relu(self.first(x))), 1)
        return self.head(self.drop(torch.flatten(x, 1)))


class Pieces(Base):
    """Chunks and splits: tuples of views alive, the same tensor twice, a named tuple, an argmax."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        left, right = x.chunk(2, 1)
        parts = x.split([1, 2, 3], dim=1)
        twice = torch.cat([left, left, right], 1)
        best = x.max(1)
        x = torch.cat([parts[2], parts[0], parts[1]], 1) + twice[:, 3:] + best.values.unsqueeze(1)
        return self.pooled(self.two(x) * (1 + best.indices.unsqueeze(1)))


class Shapes(Base):
    """Sizes, numbers and a dtype alive at a cut, and tensors made from them."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, rows, columns = x.shape
        size, kind, half = x.size(), x.dtype, rows // 2
        x = self.one(x)
        grid = torch.arange(columns, device=x.device, dtype=kind) / columns
        x = F.interpolate(self.two(x * grid), size=(half, half)) * (size[1] + channels)
        x = x.reshape(batch, -1, half * half).mean(2)
        return self.head(x + torch.ones(batch, 1))


class InPlace(Base):
    """Operations in place right after almost every cut; views of what is changed; ``x += y``; items assigned."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x.mul_(0.5)
        flat = x.view(x.shape[0], -1)
        flat.add_(0.1)
        F.relu_(x)
        y = self.two(x)
        z = y * 2
        z += y
        z[:, 0] = y[:, 1]
        return self.pooled(z.clamp_(min=-0.5))


class Buffers(Base):
    """A buffer changed by the forward itself, another only read (on both sides), and one inside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("scale", torch.rand(6, 1, 1))
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x) * self.scale
        self.steps.add_(1)
        x = self.norm(x) / (1 + self.steps)
        return self.pooled(self.two(x) * self.scale)


class Dropouts(Base):
    """Random numbers in every segment, from layers and from functions; an alias in eval mode, changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.drop2d = nn.Dropout(0.4), nn.Dropout2d(0.2)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.drop(self.one(x))
        x = F.dropout(self.two(self.drop2d(kept)), 0.3, self.training)
        changed = self.drop(x)
        changed = F.relu(changed, inplace=True)
        noise = torch.rand_like(x) if self.training else 0.5
        return self.pooled(x + changed * noise)


class Lengthwise(nn.Module):
    """(batch, 10) integers → (batch, 3): an embedding, layer norms, attention, tokens dropped and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 11, 8))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.place
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        q, k, v = self.qkv(self.norm2(x)).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(q, k, v)
        return self.head(x[:, 0] + x[:, 1:].mean(1))


class Recurrent(nn.Module):
    """(batch, 2, 12, 12) → (batch, 3): a layer that returns a tuple in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 7, batch_first=True)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, (hidden, cell) = self.lstm(x.permute(0, 2, 1, 3).flatten(2))
        return self.head(out.mean(1) + hidden[0] * cell[0])


class Outputs(Base):
    """Returns two outputs, one of them alive from far back: (batch, 3) and (batch, 6, 12, 12)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.one(x)
        return self.pooled(F.relu(self.two(early))), early


class Sliced(Base):
    """Tensors with gaps in memory, which sums run through in another order; gradients that are one number, expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.one(x)[..., :-1])
        x = self.last(self.two(x)[:, :, ::2])
        wide = x.mean((2, 3), keepdim=True).expand(-1, -1, 5, 7)
        x = torch.cat([x, self.two(wide)[..., : x.shape[2] - 4]], 2) if False else x * wide.mean()
        return self.head(x.sum((2, 3)))


class Joined(Base):
    """A batch normalization right before a concatenation, whose gradient is a piece of another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.wide = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.wide(torch.cat([self.left(x), self.right(self.two(x))], 1).mean((2, 3)))


class Custom(Base):
    """A function with a backward of its own, and a layer whose weight is computed from others."""

    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return -0.5 * gradient

    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.two)
        torch.nn.utils.weight_norm(self.head)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Reversed.apply(self.one(x))
        return self.pooled(checkpoint(self.two, x, use_reentrant=False) + checkpoint(self.two, x, use_reentrant=True))


class Frozen(Base):
    """A trunk under no_grad inside a module of its own, a detach, and layers that do not train."""

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.body(x)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = self.Trunk()
        self.still = nn.Conv2d(6, 6, 1).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.still(self.trunk(x) + self.one(x)))
        return self.pooled(y * y.detach())


class TiedWithin(Base):
    """One weight under two names, the later layer in execution registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Conv2d(6, 6, 3, padding=1)
        self.three.weight = self.two.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.two(torch.tanh(self.three(torch.tanh(self.one(x))))))


class TiedOutside(Base):
    """One layer three times in A and twice in C: what B does in between belongs to the server."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.one(x))
        for _ in range(3):
            x = torch.tanh(self.two(x))
        x = self.middle(x)
        for _ in range(2):
            x = torch.tanh(self.two(x))
        return self.pooled(x)


class Values(nn.Module):
    """Looks at values: one operation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.detach().sum()) > 0 else x


class LooksAtValues(Base):
    """Contains a module that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.values = Values()

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.two(self.values(self.one(x))))


class Plain(nn.Sequential):
    """A linear network over flat inputs: its first operation is a view of the input."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(288, 16), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(16, 3))


class Least(nn.Sequential):
    """As little as there is to compute in three segments that all learn, with buffers in the second."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(288, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
        )


SMALL: tuple[type[nn.Module], ...] = (
    Residual, Dense, Branches, Pieces, Shapes, InPlace, Buffers, Dropouts, Recurrent, Custom, Frozen, TiedWithin,
    TiedOutside, LooksAtValues, Plain, Joined,
)  # fmt: skip
"""Networks of one input of `SHAPE` and one output, of which every cut must be exact or refused."""

ALLOWED = [f"networks:{kind.__name__}" for kind in (*SMALL, Base, Sliced, Lengthwise, Least)]


def built(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A network with weights of its own, the generator left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind()
