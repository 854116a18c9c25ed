# %% [markdown]
# # Codecs
#
# What crosses a cut is large: 25.7 MB up and as much down for every step of a ResNet on 32 pictures. A **codec** makes a message smaller before it is sent, and
# turns it into a tensor again on the other side. Some give back every bit; most do not, and the question is what that costs.
#
# **You will learn**
# 1. what a codec does to a real activation: see it before, after, and what was lost;
# 2. to read the table of `se.measure`: ratio, error, speed, and how near a codec is to what is possible at all;
# 3. to weigh bytes against accuracy, over seeds, and to read a frontier;
# 4. to write a codec of your own, here in the notebook, and train with it.
#
# It takes fifteen minutes, computes for under a minute, and needs no internet.

# %%
import torch

import spliteasy as se
from spliteasy.pictures import Picture  # a matplotlib Figure that shows itself

torch.manual_seed(0)
model = se.load_model("resnet18", num_classes=10)
split = se.split(model, at="maxpool", input_shape=(3, 224, 224))

pictures = se.data.photos(4, 224)                 # patches of the two photographs that come with scikit-learn
activation = split.a(pictures).detach()           # what A sends
zeros = (activation == 0).double().mean()
print(f"{tuple(activation.shape)}: {activation.numel():,} values, {activation.nbytes / 1e6:.2f} MB, {zeros:.0%} zeros")


# %% [markdown]
# ## 1 · Before, after, and what was lost
#
# A **chain** is written like a pipe: `topk(0.1) | fp16 | zstd(1)` keeps the largest tenth of each picture's values, rounds them to 16 bits, and compresses the
# bytes. Below, one feature map of one picture goes through three chains. The third column is what the other side gets wrong, and how many times smaller
# the frame is.

# %%
def before_and_after(chains, sample=0, filter=None):
    """One feature map through each chain: as it was, as it comes out, and the difference."""
    if filter is None:
        filter = int(activation[sample].flatten(1).std(1).argmax())
    picture = Picture(figsize=(9, 2.9 * len(chains)), layout="constrained")
    top = float(activation[sample, filter].max())
    for axes, text in zip(picture.subplots(len(chains), 3, squeeze=False), chains, strict=True):
        chain = se.codec(text)
        frame = chain.encode(activation)
        decoded = chain.decode(frame)
        shown = (activation[sample, filter], decoded[sample, filter], (decoded - activation)[sample, filter])
        titles = ("before", f"after {text}", f"difference × 4   ({activation.nbytes / len(frame):.1f} times smaller)")
        value, error = ({"cmap": "magma", "vmin": 0, "vmax": top}, {"cmap": "RdBu", "vmin": -top / 4, "vmax": top / 4})
        looks = (value, value, error)
        for axis, tensor, title, look in zip(axes, shown, titles, looks, strict=True):
            axis.imshow(tensor, **look)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    return picture

before_and_after(["int8 | zstd(1)", "int4(64) | zstd(1)", "topk(0.1) | fp16 | zstd(1)"])

# %% [markdown]
# Eight bits are indistinguishable to the eye; four bits are a little coarse everywhere; top-k keeps what is bright **exactly** and loses what is faint
# **entirely**. Those are two different ways to be wrong, and a network does not mind them equally.
#
# **Predict:** which of the three changes the gradient of A's weights the most?

# %% [markdown]
# ## 2 · The table
#
# `se.measure` weighs a chain on a tensor. *Relative error* is the length of the difference by the length of the tensor. With a split and a batch it also runs the step
# twice, with the chain and without, and compares the gradients that A's weights get: a *gradient cosine* of 1 means that they point the same way.

# %%
import pandas

labels = torch.arange(4)
rows = []
for text in ["raw", "zstd(3)", 'zvc(repeats="both") | shuffle | zstd(1)', "fp16 | zstd(1)", "int8 | zstd(1)",
             "int4(64) | zstd(1)", "topk(0.1) | fp16 | zstd(1)", "topk(0.01) | int8 | zstd(1)", "sign"]:
    row = se.measure(text, activation, repeats=1, split=split, batch=(pictures, labels))
    rows.append({
        "chain": text, "ratio": row.ratio, "relative error": row.relative_l2, "gradient cosine": row.gradient_cosine,
        "floor / frame": row.floor_ratio, "encode MB/s": row.encode_mb_per_s, "decode MB/s": row.decode_mb_per_s,
    })
table = pandas.DataFrame(rows).set_index("chain")
three, whole = "{:.3f}", "{:,.0f}"
table.style.format({
    "ratio": "{:.1f}×", "relative error": three, "gradient cosine": three, "floor / frame": "{:.2f}",
    "encode MB/s": whole, "decode MB/s": whole,
}, na_rep="–")

# %% [markdown]
# Four things to notice:
#
# - **Lossless** chains stop at a small factor: the digits of a number that was computed are mostly noise. What helps is structure: the zeros that the rectifier leaves, and
#   the values that overlapping pooling repeats.
# - The **floor** is what information theory asks for if nothing is known but the counts: for top-k, which k of d positions were kept, and 16 bits for each value. Real
#   activations cluster, so a good coder of positions gets *below* it: a number above 1.
# - **Error is not harm.** Compare the relative error of two chains with their gradient cosines.
# - **Speed counts.** A chain that saves 10 times at 50 MB/s is slower than none on a fast link. `docs/codecs.md` has this table for all codecs.
#
# ## 3 · Bytes against accuracy
#
# The only test that counts is training. A **sweep** trains every chain with every seed and compares each run with the uncompressed run *of the same seed*: same weights,
# same batches, so that most of the luck cancels. Bytes are those of all four messages, headers included.

# %%
study = se.sweep(
    "digits_cnn",
    [("pool", "flatten")],
    {
        "half": "fp16 | zstd(1)",
        "8 bits": "int8 | zstd(1)",
        "top 25 %": "topk(0.25) | int8 | zstd(1)",
        "top 5 %": "topk(0.05) | int8 | zstd(1)",
        "PCA": "forward=pca(16) | int8; backward=pca(16) | int8",
    },
    "digits",
    seeds=2,
    epochs=3,
    threads=1,        # small networks train faster on one
    progress=False,
)
study

# %%
study.plot_frontier()

# %% [markdown]
# **Read the frontier:** a chain is on the line if no other has fewer bytes *and* more accuracy. The bars are the spread over seeds; two chains whose bars overlap are
# not told apart by two seeds. Even `half`, whose rounding harms nothing, ends elsewhere than `raw`: small differences grow in a short training, and two seeds
# cannot tell such luck from harm. `benchmarks/frontier.py` does this with five seeds, held-out data, and two larger networks.
#
# Choose by validation accuracy, report test accuracy: whoever chooses the best of many chains by the test set has chosen some luck too.

# %%
study.best(points=1.0)[["chain", "validation_difference", "test_accuracy", "saving"]]

# %%
study.plot_time()

# %% [markdown]
# ## 4 · A codec of your own
#
# A codec is a class with four methods: `encode` turns a tensor into *planes* (named tensors), `decode` turns them back, `out` says what `values` becomes, and `bounds` the
# largest size of every plane, so that nothing is allocated on the word of whoever sent the frame. This one keeps every second row and column and stretches them again.

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
# Does it keep its promises? `check_codec` tries what every codec must pass: round trips over types and shapes, memory layouts, retries, and hundreds of damaged frames.

# %%
from spliteasy.codecs.testing import check_codec

check_codec("halved")
print(se.measure("halved | int8 | zstd(1)", activation))

# %% [markdown]
# And it trains, in chains with any other. (In another process, a server can only use codecs that are *installed* there; `plugins/template` is a package to copy.)

# %%
torch.manual_seed(0)
train, test = se.data.digits()
parts = se.split(se.load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))
codecs = se.Codecs(activations="halved | int8", input_gradients="halved | int8")
with se.Trainer(parts, codecs=codecs, optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9}) as trainer:
    log = trainer.fit(se.data.loader(train, batch=32, seed=0), epochs=3, progress=False)
    result = trainer.evaluate(se.data.loader(test, batch=128, seed=0, shuffle=False))
print(f"accuracy {result.accuracy:.1%}")
log.summary()[["raw", "frame", "saving"]].round(1)

# %% [markdown]
# **Explain:** the gradient that comes back is halved as well: three of four values are dropped and the fourth is repeated. Is that the gradient of what was sent? (It is not:
# the forward map repeats each kept value four times, so its true gradient is the *sum* over each 2 × 2 square. Codecs such as `topk(0.1, reuse=True)`, `pca` and `c3` send the
# true one.)
#
# ## What you have seen
#
# - A chain is codecs in a row; the four messages of a step may have four chains (`forward=` and `backward=` are shorthands).
# - Lossless codecs gain a small factor, quantizers 4 to 8, sparsifiers and fitted bases 10 to some hundred; what they cost shows only in training.
# - Compare runs of the same seed, over several seeds, and choose on other data than you report.
# - A codec is one class; `check_codec` says whether it can be trusted.
#
# *References:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy*, HotMobile '21, [arXiv 2011.04232](https://arxiv.org/abs/2011.04232), which names compression as future work.
# Zheng et al., *Randomized Top-k Sparsification*, [arXiv 2305.18469](https://arxiv.org/abs/2305.18469). Hsieh et al., *C3-SL*, [arXiv 2207.12397](https://arxiv.org/abs/2207.12397).
