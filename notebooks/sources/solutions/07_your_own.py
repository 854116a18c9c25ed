# %% [markdown]
# # Solutions: your network, your codec, your data
#
# Try the lesson `07_your_own.ipynb` first. These exercises have many right answers; each cell below builds one.

# %%
import torch
import torch.nn.functional as F
from torch import nn

import spliteasy as se

torch.set_num_threads(1)


# %% [markdown]
# **07.1** A *waist*: pool twice, or take few maps. 8 maps of 8 × 8 floats are 2,048 bytes. The skip lies behind the waist here; around it,
# it would have to cross as well, and the cut would be no narrower for it.

# %%
class Waist(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.inside = nn.Conv2d(8, 8, 3, padding=1)
        self.classifier = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x):
        x = self.pool(F.relu(self.stem(x)))                     # (B, 8, 8, 8): the waist
        return self.classifier((x + F.relu(self.inside(x))).flatten(1))


answer = Waist()
print(se.find_cuts(answer, input_shape=(3, 32, 32)))
se.teach.check("07.1", answer)


# %% [markdown]
# **07.2** `torch.where` computes both ways and takes one. The condition stays the mean of the whole tensor, one number; asking each value
# whether it is positive would be another network. The other way out is a module that holds the `if` alone: it counts as one operation, so
# it cannot be cut inside.

# %%
class Unbranched(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        return self.second(torch.where(x.mean() > 0, torch.relu(x), x))


answer = Unbranched
se.teach.check("07.2", answer)

# %% [markdown]
# **07.3** The argument is checked in the constructor and kept as `self.steps`: the notation (`log8(8)`), equality and what the server
# agrees to follow from it. Both directions use it. Twice the steps halve the error and halve the range, since a byte has no more than 127 magnitudes.

# %%
from spliteasy.codecs import PlaneBound, TensorCodec, register
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, FrameError


class Log8(TensorCodec):
    """A byte a value: the sign, and the logarithm of the magnitude below the largest, ``steps`` to a factor of two."""

    elementwise = True

    def __init__(self, steps):
        if type(steps) is not int or not 1 <= steps <= 16:
            raise CodecError(f"expected steps from 1 to 16 for log8, found {steps!r}")
        self.steps = steps

    def encode(self, x, context):
        top = float(x.abs().max()) if x.numel() else 0.0
        ratio = x.abs().double() / (top or 1.0)
        code = (127 + self.steps * ratio.log2()).round().clamp(0, 127).nan_to_num(127)
        return {"values": (code + 128 * (x < 0)).to(torch.uint8), "top": torch.tensor([top], dtype=torch.float64)}

    def decode(self, planes, spec, context):
        codes, top = planes["values"].to(torch.int16), planes["top"]
        if top.numel() != 1 or not 0 <= float(top) < float("inf"):
            raise FrameError(f"expected one largest magnitude, found {top.tolist()}")
        magnitude = float(top) * 2.0 ** ((codes % 128 - 127).double() / self.steps) * (codes % 128 > 0)
        limit = torch.finfo(spec.dtype).max
        return torch.where(codes < 128, magnitude, -magnitude).clamp(-limit, limit).to(spec.dtype)

    def out(self, spec):
        return spec.with_dtype(torch.uint8)

    def bounds(self, spec):
        return {"values": PlaneBound(torch.uint8, spec.max_numel), "top": PlaneBound(torch.float64, 1)}


register("log8", Log8)
check_codec("log8(8)")
x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
for steps in (1, 4, 8):
    print(f"log8({steps}): relative error {se.measure(f'log8({steps})', x, repeats=1).relative_l2:.3f}")
answer = Log8
se.teach.check("07.3", answer)


# %% [markdown]
# **07.4** Most bytes are at the first cut, so that is where to save: the largest tenth of the values, eight bits each. The second cut is
# small, and what C gets and gives matters most, so `int8` is enough there. Six epochs are about five seconds. Evaluate on the test digits
# once, at the end.

# %%
class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.inside = nn.Conv2d(24, 24, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.hidden, self.classifier = nn.Linear(24 * 16, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = self.pool(x)
        x = F.relu(x + self.inside(x))
        return self.classifier(F.relu(self.hidden(x.flatten(1))))


torch.manual_seed(0)
train, test = se.data.digits()
split = se.split(Digits(), at=("pool", "hidden"), input_shape=(1, 8, 8))
codecs = se.Codecs(
    activations="topk(0.15) | int8 | zstd(1)",
    outputs="int8 | zstd(1)",
    output_gradients="int8 | zstd(1)",
    input_gradients="topk(0.15) | int8 | zstd(1)",
)
trainer = se.Trainer(split, codecs=codecs, optimizer={"name": "AdamW", "lr": 3e-3})
trainer.fit(se.data.loader(train, batch=32, seed=0), epochs=6, progress=False)
result = trainer.evaluate(se.data.loader(test, batch=359, seed=0))
print(f"{result.accuracy:.1%} right if what travels is compressed in use as well, as in training")
answer = trainer
se.teach.check("07.4", answer)

# %%
trainer.log.summary()[["raw", "frame", "saving"]].round(1)
