# %% [markdown]
# # Your network, your codec, your data
#
# So far everything came with the package. In this lesson nothing does: you bring an `nn.Module` that nobody has seen, pictures in a folder, and
# an idea for a codec, and the same tables, pictures and guarantees hold for them.
#
# **You will learn**
# 1. to find the cuts of a network of your own, and to split it inside a block, equal to the bit;
# 2. what cannot be traced, and how to write it so that it can;
# 3. to load a folder of images, or a table;
# 4. to write a codec that keeps the contract, and to install it as a package;
# 5. what runs in this process only, and what a server needs to know.
#
# It takes thirty minutes with its project, computes for less than one, and needs no internet.

# %%
import copy
import inspect
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import spliteasy as se
from spliteasy.pictures import Picture

torch.set_num_threads(1)        # small networks train faster on one


# %% [markdown]
# ## 1 · A network of your own
#
# A small network for colour tiles of 32 × 32: a stem, a residual block, attention over the 64 places that are left, and a classifier.
#
# **Predict:** somewhere in the attention part more tensors are alive at once than in the residual block. How many, and which?

# %%
class TilesNet(nn.Module):
    """(B, 3, 32, 32) pictures → (B, classes): a stem, a residual block, attention, a classifier."""

    def __init__(self, classes=4, width=32):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(2)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x):
        x = F.relu(self.norm1(self.stem(x)))                                    # (B, 32, 16, 16)
        x = F.relu(x + self.norm2(self.conv1(x)))                               # a residual block
        tokens = self.pool(x).flatten(2).transpose(1, 2)                        # (B, 64 places, 32)
        alike = self.query(tokens) @ self.key(tokens).transpose(1, 2)           # (B, 64, 64)
        tokens = tokens + torch.softmax(alike / 32 ** 0.5, -1) @ self.value(tokens)
        return self.classifier(tokens.mean(1))


torch.manual_seed(0)
network = TilesNet()
cuts = se.find_cuts(network, input_shape=(3, 32, 32), batch=32)
cuts

# %% [markdown]
# **Explain:** three, where the tokens, the query and the key are alive (the tokens are needed again for the sum). Three at `value` too: the
# tokens, the weights, and the values. Nothing was registered or annotated for this: the network is traced, and a cut is any place between two
# of its operations. The names are those of your layers; operations without a layer are named after what they do (`relu`, `add`).
#
# The explorer takes a network of your own as well. The next cell shows it, the one after it is the same as a picture.

# %%
explorer = se.explore(network, input_shape=(3, 32, 32), at=("pool", "mean"))
explorer

# %%
explorer.figure()

# %% [markdown]
# **Exercise 07.1.** Write an `nn.Module` for inputs of (3, 32, 32) with a connection that skips something, and with a cut between layers that have
# parameters where at most **2,048 bytes** a picture cross. (The picture itself has 12,288.)

# %%
answer = ...   # an nn.Module: MyNetwork()
se.teach.check("07.1", answer)

# %% [markdown]
# ## 2 · Data of your own
#
# Pictures in one folder a class are all it needs: `se.data.image_folder`. We make such a folder from the two photographs that come with
# scikit-learn, a temple and a flower: tiles of 32 × 32 pixels that do not overlap, from the upper and the lower half of each. No pixel is in
# two tiles, so none is in both training and test data.
#
# **Predict:** a photograph of 427 × 640 pixels gives how many whole tiles, and what will the labels be?

# %%
from PIL import Image
from sklearn.datasets import load_sample_images

for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    for row in range(rows):
        folder = Path("tiles") / f"{name}_{'top' if row < rows / 2 else 'bottom'}"
        folder.mkdir(parents=True, exist_ok=True)
        for column in range(columns):
            tile = pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            Image.fromarray(tile).save(folder / f"{row:02d}_{column:02d}.png")

train, test = se.data.image_folder("tiles", size=32, seed=0)
classes = sorted(folder.name for folder in Path("tiles").iterdir())
print(f"{len(train)} tiles to learn from, {len(test)} to test on; classes: {', '.join(classes)}")

# %% [markdown]
# **Explain:** 13 rows of 20, so 260 from each and 520 in all, of which a fifth was set aside. Labels are numbers from 0, in the alphabetical
# order of the folders.
#
# A table does as well: any dataset of (input, label) pairs. Here are 30 measurements of cell nuclei and a diagnosis. The mean and deviation come
# from the training rows alone; the test rows must not be looked at, not even for that.
#
# **Predict:** behind the first layer of 16 units, does a patient's message have more bytes than the row of 30 numbers, or fewer?

# %%
from sklearn.datasets import load_breast_cancer
from torch.utils.data import Subset, TensorDataset

measured, diagnosis = load_breast_cancer(return_X_y=True)
order = torch.randperm(len(measured), generator=torch.Generator().manual_seed(0))
measured, diagnosis = torch.tensor(measured, dtype=torch.float32)[order], torch.tensor(diagnosis)[order]
mean, deviation = measured[114:].mean(0), measured[114:].std(0)
patients = TensorDataset((measured - mean) / deviation, diagnosis)

torch.manual_seed(0)
table_network = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
parts = se.split(table_network, at=("1", "3"), input_shape=(30,))
with se.Trainer(parts, optimizer={"name": "Adam", "lr": 0.01}) as trainer:
    trainer.fit(se.data.loader(Subset(patients, range(114, 569)), 32, seed=0), epochs=5, progress=False)
    result = trainer.evaluate(se.data.loader(Subset(patients, range(114)), 114, seed=0))
sent = se.find_cuts(table_network, input_shape=(30,))["1"].nbytes
print(f"{result.accuracy:.1%} of {result.samples} patients; {sent} bytes sent for a row of {30 * 4}")

# %% [markdown]
# **Explain:** fewer. Pictures grow in the first layers of a network, a table need not. `input_shape` is that of one row, and everything else
# is as before.
#
# ## 3 · Equal to the bit, inside a block
#
# We cut in the middle of the residual block, and before the classifier: the server gets the block's own tensor **and** the one that skips it, and
# does the addition.
#
# **Predict:** one network is trained as a whole, its copy in three segments, on the same tiles. Two tensors cross the first cut. Will the results be
# equal to the bit, or is the gradient that comes back on two ways added in another order?

# %%
whole = copy.deepcopy(network).train()
optimizer = torch.optim.AdamW(whole.parameters(), lr=3e-3)
split = se.split(copy.deepcopy(network), at=("conv1", "mean"), input_shape=(3, 32, 32))
trainer = se.Trainer(split, optimizer={"name": "AdamW", "lr": 3e-3})
print(split, "\n")

for step, (x, y) in enumerate(se.data.loader(train, batch=32, seed=0)):
    torch.manual_seed(se.step_seed(0, step))
    loss = F.cross_entropy(whole(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    record = trainer.step(x, y)
    assert record.loss == loss.item()

same = [torch.equal(value, split.state_dict()[name]) for name, value in whole.state_dict().items()]
print(f"{step + 1} steps; {sum(same)} of {len(same)} tensors equal to the bit; "
      f"{record.bytes['activations'].raw:,} bytes up at {split.cuts[0]}")

# %% [markdown]
# **Explain:** equal. Both tensors are sent, each once; their gradients come back as two tensors, and A adds what it would have added anyway.
#
# Some networks cannot be cut as they are written. Tracing follows the program once, without numbers, so the program must not ask for them.
#
# **Predict:** what will `find_cuts` say to this one?

# %%
class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.first(x)
        if x.mean() > 0:            # asks for a number
            x = torch.relu(x)
        return self.second(x)


try:
    se.find_cuts(Branching(), input_shape=(8,))
except se.errors.TraceError as error:
    what, line, _, advice = str(error).splitlines()
    print(what, line.split(": ", 1)[1], advice, sep="\n")      # without the temporary file's name

# %% [markdown]
# **Explain:** it names the line, and what to do. An `if` on a tensor's values is a fork in the program, and a cut has to be the same for
# every batch. There are two ways out: an operation that holds both ways (`torch.where`), or a module of its own for that line, which then
# counts as one operation.
#
# **Exercise 07.2.** Write `Branching` again as a class that computes the same, keeps the layers `first` and `second`, and can be cut between them.

# %%
answer = ...   # a class: Unbranched
se.teach.check("07.2", answer)

# %% [markdown]
# ## 4 · A codec of your own
#
# Gradients span many powers of two: most are tiny, a few large. `int8` has steps of equal width, so the tiny ones become zero. The idea here
# is steps of equal *ratio*: a byte holds the sign and one of 127 magnitudes, each the fourth root of 2 times the one before. Like a floating
# point number that is all exponent.
#
# **Predict:** of the values of a real gradient that are not zero, how many come back as zero from `int8`, and how many from this one?

# %%
from spliteasy.codecs import PlaneBound, TensorCodec, register
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import FrameError


class Log8(TensorCodec):
    """A byte a value: the sign, and its share of the largest as a power of the fourth root of two."""

    elementwise = True          # where a value stands does not matter

    def encode(self, x, context):
        top = float(x.abs().max()) if x.numel() else 0.0
        ratio = x.abs().double() / (top or 1.0)                                 # from 0 to 1
        code = (127 + 4 * ratio.log2()).round().clamp(0, 127).nan_to_num(127)   # 0 is zero
        values = (code + 128 * (x < 0)).to(torch.uint8)
        return {"values": values, "top": torch.tensor([top], dtype=torch.float64)}

    def decode(self, planes, spec, context):
        codes, top = planes["values"].to(torch.int16), planes["top"]
        if top.numel() != 1 or not 0 <= float(top) < float("inf"):              # a frame may lie
            raise FrameError(f"expected one largest magnitude, found {top.tolist()}")
        magnitude = float(top) * 2.0 ** ((codes % 128 - 127).double() / 4) * (codes % 128 > 0)
        limit = torch.finfo(spec.dtype).max
        return torch.where(codes < 128, magnitude, -magnitude).clamp(-limit, limit).to(spec.dtype)

    def out(self, spec):
        return spec.with_dtype(torch.uint8)

    def bounds(self, spec):
        return {"values": PlaneBound(torch.uint8, spec.max_numel), "top": PlaneBound(torch.float64, 1)}


register("log8", Log8)
check_codec("log8")             # says nothing if all is well

x, y = next(iter(se.data.loader(train, batch=32, seed=1)))
crossing, other = (tensor.detach() for tensor in split.a(x))
crossing.requires_grad_()                               # the tensor that skips: B sends its gradient
F.cross_entropy(split.c(split.b(crossing, other)), y).backward()
gradient = crossing.grad

picture = Picture(figsize=(8, 3.4), layout="constrained")
chance = torch.rand(gradient.shape, generator=torch.Generator().manual_seed(0))
found, used = [], (gradient != 0) & (chance < 0.004)    # a sample of the values, to see dots
for axes, chain in zip(picture.subplots(1, 2, sharey=True), ("int8", "log8"), strict=True):
    decoded = se.codec(chain).decode(se.codec(chain).encode(gradient))
    lost = float(((decoded == 0) & (gradient != 0)).sum() / (gradient != 0).sum())
    off = ((decoded - gradient).abs() / gradient.abs())[used]
    found.append(f"{chain} loses {lost:.1%} of the values entirely")
    axes.loglog(gradient[used].abs(), off, ".", markersize=3, color="#2f7fd6")
    axes.set(title=f"{chain}: {lost:.1%} become zero", xlabel="magnitude of the gradient", ylim=(1e-4, 2))
picture.axes[0].set_ylabel("error as a share of the magnitude")
picture.alt = "Error by magnitude, against magnitude, of a sample of the values. " + "; ".join(found)
picture

# %% [markdown]
# **Explain:** with equal widths the error is a share that grows as values shrink, up to losing them (an error of 1). With equal ratios it is the same
# share for all, nine percent at most. The table says what that means for the tensor as a whole:

# %%
for chain in ("int8 | zstd(1)", "log8 | zstd(1)"):
    row = se.measure(chain, gradient, message="input_gradients")
    print(f"{chain:15} {row.ratio:4.1f} times smaller, relative error {row.relative_l2:.3f}")

# %% [markdown]
# `int8` is nearer, because the few large values decide over the length of a difference. `log8` is smaller, because its bytes repeat more and
# zstd finds that.
# Training has the last word, in section 5.
#
# **Exercise 07.3.** Give `Log8` an argument: `Log8(steps)` with so many magnitudes to a factor of two; it was 4 before. Hand in the class. A
# codec is a **value**: it keeps its arguments as attributes of the same name, and two with different arguments are not equal. Anything else
# than a whole number from 1 to 16 raises `CodecError`.

# %%
answer = ...   # a class: class Log8(TensorCodec): ...; then answer = Log8
se.teach.check("07.3", answer)

# %% [markdown]
# ## 5 · Train with all three
#
# **Predict:** your network, your codec and your data, in a double split at `pool` and `mean`. How much accuracy does `log8` cost against `raw`?

# %%
def run(codecs):
    split = se.split(copy.deepcopy(network), at=("pool", "mean"), input_shape=(3, 32, 32))
    with se.Trainer(split, codecs=codecs, optimizer={"name": "AdamW", "lr": 3e-3}) as trainer:
        log = trainer.fit(se.data.loader(train, batch=32, seed=0), epochs=5, progress=False)
        return log, trainer.evaluate(se.data.loader(test, batch=104, seed=0))


for name, codecs in {"raw": "raw", "log8": "log8 | zstd(1)"}.items():
    log, result = run(codecs)
    saving = log.summary()["saving"]["total"]
    print(f"{name:5} {result.accuracy:.0%} of {result.samples} tiles right, {saving:.1f} times fewer bytes")

# %% [markdown]
# **Explain:** none that 104 tiles could show: one tile is a whole point, and another seed moves it by several. A quarter would be right by chance.
#
# All this ran **in this process** (`server=None`), with the real frames but no socket. What if there were a server?
#
# **Predict:** the server is another process. It has never seen `TilesNet` or `Log8`, which exist in this notebook alone. What will it do?

# %%
def attempt(what, network, codecs, server):
    split = se.split(network, at=("pool", "mean"), input_shape=(3, 32, 32))
    try:
        with se.Trainer(split, server=server.url, codecs=codecs) as trainer:
            record = trainer.step(*next(iter(se.data.loader(train, 32, seed=0))))
        print(f"{what}: a step of {record.total.http:,} bytes\n")
    except se.errors.SplitEasyError as error:
        print(f"{what}: {type(error).__name__}: {error}\n")


code = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n\n"
code += "class TilesNet(nn.Module):\n"
code += inspect.getsource(TilesNet.__init__) + "\n" + inspect.getsource(TilesNet.forward)
Path("my_networks.py").write_text(code)             # the same class, in a file that can be imported

with se.LocalServer(allow=["my_networks:TilesNet"]) as server:
    attempt("a class of this notebook", network, "raw", server)
    attempt("a class in a file", se.load_model("my_networks:TilesNet"), "raw", server)
    attempt("a codec of this notebook", se.load_model("my_networks:TilesNet"), "log8", server)

# %% [markdown]
# **Explain:** nothing is ever unpickled, so a class cannot be sent, and that is on purpose: whoever unpickles runs what the sender wrote. A
# server builds networks **by name**: from torchvision and timm, or from a module that it can import *and* that whoever started it has named
# with `spliteasy serve --allow my_networks:TilesNet`. Codecs must be **installed** on both sides. For that a codec goes into a package, whose
# `pyproject.toml` has one line that counts:
#
# ```toml
# [project.entry-points."spliteasy.codecs"]
# log8 = "my_codecs:Log8"
# ```
#
# `plugins/template` in the repository is such a package: copy the folder, rename it, put your class in, `pip install -e .`, and `spliteasy
# codecs` lists it.
#
# ## 6 · A project
#
# **Exercise 07.4.** Write a network of your own for the digits (`se.data.digits()`, images of 1 × 8 × 8, ten classes). Train it in a **double
# split**, so that its messages take at least **ten times** fewer bytes than raw over the training, and at least **90 %** of the test digits
# are right. Segment A must have parameters. Hand in the trainer. Some minutes of trying are normal: `trainer.log.summary()` says where the
# bytes are.

# %%
answer = ...   # an se.Trainer that has been trained
se.teach.check("07.4", answer)

# %% [markdown]
# ## What you have seen
#
# - Any `nn.Module` whose program does not ask for numbers can be cut, between any two operations, inside blocks too, and stays equal **to the bit**.
# - A folder of images, or any dataset of pairs, is enough. Keep test data out of everything, means and deviations included.
# - A codec is one class that keeps a contract; `check_codec` tries it, and an entry point installs it.
# - Nothing is unpickled. So what a notebook defines runs in-process; a server builds by name what it was allowed to.
#
# **Go on** with your own question. `se.sweep` compares chains over seeds, `docs/codecs.md` has every codec measured, `CONTRIBUTING.md` says
# how a codec joins the package. Answers and reasons are in `solutions/07_your_own.ipynb`.
#
# *Reference:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*, HotMobile '21,
# [arXiv 2011.04232](https://arxiv.org/abs/2011.04232).
