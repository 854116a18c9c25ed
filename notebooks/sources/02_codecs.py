# %% [markdown]
# # Codecs
#
# What crosses a cut is large: 25.7 MB up and as much down for every step of a ResNet on 32 pictures. A **codec** makes a message smaller before
# it is sent, and turns it into a tensor again on the other side. Some give back every bit; most do not, and the question is what that costs.
#
# **You will learn**
# 1. what a codec does to a real activation: see it before, after, and what was lost;
# 2. to read the table of `se.measure`: ratio, error, speed, and how near a codec is to what is possible at all;
# 3. to weigh bytes against accuracy, and to read a frontier;
# 4. to write a codec of your own, here in the notebook, and to see what it does to gradients.
#
# It takes twenty minutes, computes for less than one, and needs no internet.

# %%
import torch

import spliteasy as se
from spliteasy.pictures import Picture  # a matplotlib Figure that shows itself

torch.manual_seed(0)
model = se.load_model("resnet18", num_classes=10)
split = se.split(model, at="maxpool", input_shape=(3, 224, 224))

pictures = se.data.photos(4, 224)                 # from the two photographs that come with scikit-learn
activation = split.a(pictures).detach()           # what A sends
zeros = (activation == 0).double().mean()
print(f"{tuple(activation.shape)}: {activation.nbytes / 1e6:.2f} MB, {zeros:.0%} of the values are zero")


# %% [markdown]
# ## 1 · Before, after, and what was lost
#
# A chain is written like a pipe. Below, one feature map of one picture goes through four of them:
#
# - `int8` rounds every value to one of 256 steps, `int4(64)` to one of 16, with a scale for every 64 values;
# - `topk(0.1)` keeps the largest tenth of each picture's values and sets the others to zero;
# - `dct(16)` keeps the 16 × 16 lowest spatial frequencies of each map, as JPEG does: what is smooth stays, what is fine goes;
# - `fp16` halves the width of numbers, and `zstd(1)` compresses bytes without loss.
#
# **Predict:** what will the *difference* look like for rounding, for leaving values out, and for leaving frequencies out?

# %%
def before_and_after(chains, sample=0, filter=None):
    """One feature map through each chain: as it was, as it comes out, and the difference."""
    words = []
    if filter is None:
        filter = int(activation[sample].flatten(1).std(1).argmax())
    picture = Picture(figsize=(6.4, 2.15 * len(chains)), layout="constrained")
    top = float(activation[sample, filter].max())
    for axes, text in zip(picture.subplots(len(chains), 3, squeeze=False), chains, strict=True):
        chain = se.codec(text)
        frame = chain.encode(activation)
        decoded = chain.decode(frame)
        shown = [tensor[sample, filter] for tensor in (activation, decoded, decoded - activation)]
        smaller = f"{activation.nbytes / len(frame):.1f} times smaller"
        words.append(f"{text}: {smaller}")
        titles = ("before", f"after {text}", f"difference × 4   ({smaller})")
        value = {"cmap": "magma", "vmin": 0, "vmax": top}
        error = {"cmap": "RdBu", "vmin": -top / 4, "vmax": top / 4}
        looks = (value, value, error)
        for axis, tensor, title, look in zip(axes, shown, titles, looks, strict=True):
            axis.imshow(tensor, interpolation="nearest", **look)
            axis.set_title(title, fontsize=8)
            axis.axis("off")
    picture.alt = "A feature map before, after, and their difference. " + "; ".join(words)
    return picture

before_and_after([
    "int8 | zstd(1)", "int4(64) | zstd(1)", "topk(0.1) | fp16 | zstd(1)", "dct(16) | fp16 | zstd(1)",
])

# %% [markdown]
# **Explain:** rounding is a little wrong everywhere; eight bits cannot be told from the original by eye. Top-k keeps what is bright **exactly**
# and loses what is faint **entirely**. The cosine transform loses edges. These are different ways to be wrong, and a network does not mind them
# equally.
#
# **Exercise 02.1.** `topk(0.1) | fp16` keeps a tenth of the values at 16 bits each. Suppose that one **bit** an element says which were kept.
# How many times smaller than 32-bit floats is that?

# %%
answer = ...   # a number of times
se.teach.check("02.1", answer)

# %% [markdown]
# **Exercise 02.2.** Find a chain that makes `activation` at least **30 times** smaller with a relative error of at most **0.35**. (The relative error
# is the length of the difference by the length of the tensor: `se.measure(chain, activation)` shows both; `se.list_codecs()` is what there is.)

# %%
answer = ...   # a chain, as text: "first | second | third"
se.teach.check("02.2", answer)

# %% [markdown]
# ## 2 · Error is not harm
#
# What a network makes of an error shows in the gradient of A's weights. `se.measure` with a split and a batch runs a step twice, with the chain
# and without, and compares the two: a **gradient cosine** of 1 means that they point the same way, 0 that they have nothing in common. It
# needs a network that has learned something, so here is one, after one pass over the digits.
#
# **Predict:** `topk(0.1)` and `sign` (the sign alone, times the mean magnitude) have nearly the same relative error. Which one turns the
# gradient less?

# %%
import pandas

torch.set_num_threads(1)          # small networks train faster on one
torch.manual_seed(0)
train, test = se.data.digits()
digits = se.split(se.load_model("digits_cnn"), at="pool", input_shape=(1, 8, 8))
trainer = se.Trainer(digits, optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9})
trainer.fit(se.data.loader(train, 32, seed=0), progress=False)
batch = next(iter(se.data.loader(train, 128, seed=1)))
maps = digits.a(batch[0]).detach()

rows = []
for text in ["raw", "zstd(3)", "zvc | shuffle | zstd(1)", "fp16 | zstd(1)",
             "int8 | zstd(1)", "int4(64) | zstd(1)", "topk(0.3) | fp16 | zstd(1)",
             "topk(0.1) | fp16 | zstd(1)", "topk(0.01) | fp16 | zstd(1)", "sign"]:
    row = se.measure(text, maps, split=digits, batch=batch)
    rows.append({
        "chain": text, "ratio": row.ratio, "relative error": row.relative_l2,
        "gradient cosine": row.gradient_cosine, "floor / frame": row.floor_ratio,
        "encode MB/s": row.encode_mb_per_s, "decode MB/s": row.decode_mb_per_s,
    })
table = pandas.DataFrame(rows).set_index("chain")
three, whole = "{:.3f}", "{:,.0f}"
table.style.format({
    "ratio": "{:.1f}×", "relative error": three, "gradient cosine": three, "floor / frame": "{:.2f}",
    "encode MB/s": whole, "decode MB/s": whole,
}, na_rep="–")

# %% [markdown]
# **Explain:**
#
# - **Error is not harm.** Top-k keeps the values that matter most for what comes behind, so its gradient is still much the same; `sign` is as far
#   off by length and points elsewhere.
# - **Lossless** chains stop at a small factor: the digits of a number that was computed are mostly noise. What helps is structure, here the zeros
#   that the rectifier leaves.
# - The **floor** is what information theory asks for if nothing is known but the counts: for top-k, which k of d positions were kept, and 16 bits for
#   each value. Real activations cluster, so a good coder of positions may get *below* it: a number above 1.
# - **Speed counts.** A chain that is slower than the link saves bytes and loses time. `docs/codecs.md` has this table for all codecs.
#
# **Exercise 02.3.** A chain makes messages 10 times smaller. It encodes 200 MB and decodes 400 MB of tensor a second; encoding, sending and
# decoding come one after the other. Below which bandwidth, in **Mbit/s**, is sending with it faster than without?

# %%
answer = ...   # a number of Mbit/s
se.teach.check("02.3", answer)

# %% [markdown]
# ## 3 · Bytes against accuracy
#
# The only test that counts is training. A **sweep** trains every chain with every seed and compares each run with the uncompressed run *of the
# same seed*: same weights, same batches, so that some of the luck cancels. Bytes are those of all four messages.
#
# **Predict:** which of the chains loses most accuracy, and how sure can two seeds make you?

# %%
study = se.sweep(
    "digits_cnn",
    [("pool", "flatten")],
    {
        "8 bits": "int8 | zstd(1)",
        "top 25 %": "topk(0.25) | int8 | zstd(1)",
        "PCA": "forward=pca(16) | int8; backward=pca(16) | int8",
    },
    "digits",
    seeds=2,
    epochs=3,
    threads=1,
    progress=False,
)
columns = ["test_accuracy", "test_difference", "test_difference_sd", "saving"]
study.table.set_index("chain")[columns].round(3)

# %%
study.plot_frontier()

# %% [markdown]
# **Explain:** a chain is on the line, the **frontier**, if no other has fewer bytes *and* more accuracy. The bars are the spread over seeds; two
# chains whose bars overlap are not told apart. Small differences grow in a short training, so even a chain whose rounding harms nothing ends
# elsewhere than `raw`: two seeds cannot tell such luck from harm. Lesson 05 asks what can, and chooses on other data than it reports.
#
# ## 4 · A codec of your own
#
# A codec is a class with four methods: `encode` turns a tensor into *planes* (named tensors), `decode` turns them back, `out` says what `values`
# becomes, and `bounds` the largest size of every plane, so that nothing is allocated on the word of whoever sent the frame. This one keeps every
# second row and column and stretches them again.
#
# **Predict:** how many times smaller is `halved` alone, and what will the difference look like?

# %%
from spliteasy.codecs import PlaneBound, TensorCodec, TensorSpec, register
from spliteasy.errors import CodecError


class Halved(TensorCodec):
    """Every second row and column; decoding repeats each value in a 2 × 2 square."""

    def encode(self, x, context):
        return {"values": x[..., ::2, ::2].contiguous() if x.ndim >= 2 else x}

    def decode(self, planes, spec, context):
        small = planes["values"]
        if len(spec.shape) < 2:
            return small
        rows, columns = spec.shape[-2:]
        return small.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :rows, :columns].contiguous()

    def out(self, spec):
        if spec.shape is None:
            raise CodecError("halved needs rows and columns: put it first in the chain")
        if len(spec.shape) < 2:
            return spec
        *front, rows, columns = spec.shape
        return TensorSpec((*front, (rows + 1) // 2, (columns + 1) // 2), spec.dtype)

    def bounds(self, spec):
        return {"values": PlaneBound(spec.dtype, self.out(spec).max_numel)}


register("halved", Halved)
before_and_after(["halved | int8 | zstd(1)"])

# %% [markdown]
# **Explain:** four times by itself, and `int8 | zstd(1)` does the rest. The difference follows the edges, as with the cosine transform, but in
# squares.
#
# Does it keep its promises? `check_codec` tries what every codec must pass: round trips over types and shapes, memory layouts, retries, and hundreds
# of damaged frames. It says nothing if all is well.

# %%
from spliteasy.codecs.testing import check_codec

check_codec("halved")
print(se.measure("halved | int8 | zstd(1)", activation))

# %% [markdown]
# And it trains, in chains with any other. (In another process, a server can only use codecs that are *installed* there; lesson 07 says how.)
#
# **Predict:** the gradient that comes back is halved as well. Does the network still learn?

# %%
torch.manual_seed(0)
parts = se.split(se.load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))
codecs = se.Codecs(activations="halved | int8", input_gradients="halved | int8")
with se.Trainer(parts, codecs=codecs, optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9}) as trainer:
    log = trainer.fit(se.data.loader(train, batch=32, seed=0), epochs=3, progress=False)
    result = trainer.evaluate(se.data.loader(test, batch=128, seed=0, shuffle=False))
print(f"accuracy {result.accuracy:.1%}")
log.summary()[["raw", "frame", "saving"]].round(1)

# %% [markdown]
# **Explain:** it does, with a gradient that is not the true one: of every square of the gradient, one value is sent and repeated, the other three are
# dropped. But on the way forward each kept value was used four times, and three were not used at all. What is the gradient of *that*?
#
# **Exercise 02.4.** Write a function that takes the gradient of `halved`'s output, a tensor (B, F, R, C) with even R and C, and returns the true
# gradient of its input. (Codecs such as `topk(0.1, reuse=True)`, `pca` and `c3` send the true one.)

# %%
answer = ...   # a function: def input_gradient(output_gradient): ...; then answer = input_gradient
se.teach.check("02.4", answer)

# %% [markdown]
# ## What you have seen
#
# - A chain is codecs in a row; the four messages of a step may have four chains (`forward=` and `backward=` are shorthands).
# - Lossless codecs gain a small factor, quantizers 4 to 10, sparsifiers and fitted bases 10 to some hundred.
# - Equal errors can harm unequally: look at the gradient, and then at the accuracy, over several seeds.
# - A codec is one class; `check_codec` says whether it can be trusted, and its gradient deserves a thought.
#
# **Go on** with `03_what_crosses.ipynb`: what is really in a frame. Answers and reasons are in `solutions/02_codecs.ipynb`.
#
# *References:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy*, HotMobile '21, [arXiv 2011.04232](https://arxiv.org/abs/2011.04232),
# which names compression as future work. Zheng et al., *Randomized Top-k Sparsification*, [arXiv
# 2305.18469](https://arxiv.org/abs/2305.18469). Hsieh et al., *C3-SL*, [arXiv 2207.12397](https://arxiv.org/abs/2207.12397).
