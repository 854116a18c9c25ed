# %% [markdown]
# # Does accuracy survive?
#
# A codec sends ten times fewer bytes, and the network ends one point lower. Was it the codec, or the dice? Most tables in papers cannot
# tell, because they show one run of each. Here you will learn to tell, and to see when you cannot.
#
# **You will learn**
# 1. why splitting itself costs nothing, so that every lost point is the codec's or luck's;
# 2. to compare runs of the same seed, and to say how sure you are, with a handful of seeds;
# 3. what luck looks like when someone picks the best run, and why chains are chosen on one set of pictures and reported on another;
# 4. to ask which messages bear a coarse codec, and what a codec is worth in seconds.
#
# It takes twenty minutes, computes for half a minute, and needs no internet.

# %%
from collections import OrderedDict

import pandas
import torch
import torch.nn.functional as F
from torch import nn

import spliteasy as se
from spliteasy.pictures import Picture  # a matplotlib Figure that shows itself

torch.set_num_threads(1)        # small networks train faster on one
train, test = se.data.digits()

# %% [markdown]
# ## 1 · What is not to blame
#
# First suspect: the split. One network is trained as a whole, in a plain PyTorch loop. Its twin is trained in three segments, A and C here,
# B in a server process, for one pass over the digits. Every number crosses a socket, twice.
#
# **Predict:** after 45 steps, how many of the network's tensors (weights, statistics of batch normalization) are equal, and to how many
# digits?

# %%
torch.manual_seed(0)
whole = se.load_model("digits_cnn").train()
optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
for step, (x, y) in enumerate(se.data.loader(train, batch=32, seed=0)):
    torch.manual_seed(se.step_seed(0, step))        # dropout draws what the split network draws
    optimizer.zero_grad()
    F.cross_entropy(whole(x), y).backward()
    optimizer.step()

torch.manual_seed(0)
split = se.split(se.load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))
settings = {"name": "SGD", "lr": 0.05, "momentum": 0.9}
with se.LocalServer() as server, se.Trainer(split, server=server.url, optimizer=settings) as trainer:
    log = trainer.fit(se.data.loader(train, batch=32, seed=0), progress=False)

parts = split.state_dict()
equal = [torch.equal(value, parts[name]) for name, value in whole.state_dict().items()]
print(f"{len(log)} steps over HTTP: {sum(equal)} of {len(equal)} tensors equal to the bit")

# %% [markdown]
# **Explain:** all, and to the last bit. The same numbers go through the same operations in the same order; that they rest in another
# process in between changes nothing. So a split without a codec has **the** accuracy of the whole network, not nearly the same. This clears
# the split once and for all: if accuracy is lost, look at what the codec threw away. Or at luck.
#
# ## 2 · Harm or luck?
#
# We need many trainings, so the network gets smaller: one convolution, two linear layers, cut behind the pooling and before the last layer.
# `se.sweep` trains it with each of five sets of chains and four seeds; we look at three of them first. A seed decides the first weights and
# the order of the batches, and for each seed there is an uncompressed run too (`raw`).
#
# **Predict:** `fp16` keeps 11 bits of every number, which harms nothing. Will its test accuracy equal that of `raw`?

# %%
def small():
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(1, 16, 3, padding=1), relu1=nn.ReLU(), pool=nn.MaxPool2d(2), flatten=nn.Flatten(),
        hidden=nn.Linear(256, 64), relu2=nn.ReLU(), classifier=nn.Linear(64, 10),
    ))


TRAINING = {
    "data": "digits", "epochs": 4, "batch": 64, "schedule": "cosine", "threads": 1, "progress": False,
    "optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.9},
}
chains = {
    "half": "fp16 | zstd(1)",
    "4 bits": "int4 | zstd(1)",
    "top 25 %": "topk(0.25) | int8 | zstd(1)",
}
one_way = {
    "only forward": "forward=topk(0.25) | int8 | zstd(1)",     # for section 4
    "only backward": "backward=topk(0.25) | int8 | zstd(1)",
}
study = se.sweep({"small": small}, [("pool", "relu2")], {**chains, **one_way}, seeds=4, **TRAINING)

accuracy = 100 * study.rows.pivot(index="seed", columns="chain", values="test_accuracy")
accuracy[["raw", *chains]].round(1)

# %% [markdown]
# **Explain:** look along a column first. The seeds differ, though nothing else does: other first weights, another order, another network.
# The test set has 359 pictures, so one picture more or less is 0.28 points. Now look along a row: `half` is near `raw` *of its seed*, and
# not always equal. A rounding that harms nothing still moves the training a little aside, a picture at the border falls to the other side,
# and the table shows a difference that means nothing.
#
# So a difference must be held against how much differences vary by themselves. There are two ways to compare four runs of a chain with four
# of `raw`:
#
# - as two heaps: subtract the means. Each mean carries the luck of its seeds.
# - in **pairs**: subtract the run of the same seed, then take the mean. What the seed did to both of them cancels.
#
# With n pairs whose differences have the standard deviation s, the mean is uncertain by the **standard error** s / √n. A mean that is less
# than two standard errors from zero is not told apart from luck.
#
# **Predict:** which way has the smaller standard error, and for which chain does it help most?

# %%
rows = []
for chain in chains:
    pairs = accuracy[chain] - accuracy["raw"]
    heaps = (accuracy[chain].var() + accuracy["raw"].var()) ** 0.5
    rows.append({
        "chain": chain, "difference": pairs.mean(), "standard error": pairs.std() / len(pairs) ** 0.5,
        "as heaps": heaps / len(pairs) ** 0.5,
    })
compared = pandas.DataFrame(rows).set_index("chain")
compared["standard errors from 0"] = compared["difference"].abs() / compared["standard error"]
compared.round(2)

# %%
picture = Picture(figsize=(7, 3.6), layout="constrained")
axes = picture.subplots()
for place, (chain, row) in enumerate(compared.iterrows()):
    pairs = accuracy[chain] - accuracy["raw"]
    seeds = axes.plot([place - 0.1] * len(pairs), pairs, "o", mfc="none", color="#555555")
    mean = axes.errorbar(place + 0.1, row["difference"], 2 * row["standard error"],
                         marker="o", color="#2f7fd6", capsize=4, lw=1.5)
axes.axhline(0, color="black", lw=0.8)
saving = study.table.set_index("chain").saving
names = [f"{chain}\n{saving[chain]:.1f} times fewer bytes" for chain in compared.index]
axes.set_xticks(range(len(names)), names)
axes.set(xlim=(-0.6, len(names) - 0.4), ylabel="points against raw, same seed")
told = [chain for chain, row in compared.iterrows() if row["standard errors from 0"] > 2]
axes.set_title(f"More than two standard errors from raw: {', '.join(told) or 'none'}",
               loc="left", fontsize=11)
axes.legend([seeds[0], mean], ["one seed", "mean ± 2 standard errors"],
            frameon=False, fontsize=9, loc="lower left")
axes.spines[["top", "right"]].set_visible(False)
means = "; ".join(
    f"{chain} {row['difference']:+.2f} ± {2 * row['standard error']:.2f}" for chain, row in compared.iterrows()
)
picture.alt = f"Differences from raw in points, mean and two standard errors: {means}."
picture

# %% [markdown]
# **Explain:** pairs. For `half` the standard error is 0.13 in place of 1.58: the two runs of a seed go nearly the same way, and the seed's
# luck cancels. For `top 25 %` pairing helps little: the chain changes the training so much that its twin no longer shares its luck.
#
# `half` and `4 bits` are not told apart from `raw`. That is not "they lose nothing": it is "if they lose, then by less than we can see",
# some 0.3 points for the one, 0.4 for the other. `top 25 %` loses with every one of the four seeds, and its mean is a little more than two
# standard errors from zero. Is that enough? The rule is made for many seeds. From four numbers the standard error itself is only guessed.
#
# **Predict:** take chains that lose **nothing**, and test them with four seeds. How often does luck alone bring the mean beyond two
# standard errors?

# %%
generator = torch.Generator().manual_seed(0)
for seeds in (2, 3, 4, 8, 16, 64):
    differences = torch.randn(100_000, seeds, generator=generator)      # of chains that lose nothing
    errors = differences.std(1) / seeds**0.5
    beyond = (differences.mean(1).abs() > 2 * errors).double().mean()
    print(f"{seeds:2} seeds: {beyond:.0%} beyond two standard errors")

# %% [markdown]
# **Explain:** one time in seven with four seeds, one in three with two. With many it is one in twenty, which is what people have in mind
# when they say "significant". So with two or three seeds, trust only what is gross and has the same sign in every seed; for the rest, say
# that you cannot tell, or run more. (Four seeds that all lose by chance are one case in sixteen, too.)
#
# **Exercise 05.1.** Write a function `f(chain, raw)` that takes two dictionaries from seed to test accuracy (as shares: 0.95), and returns
# a pair: the mean difference **in points**, of runs of the same seed, and its standard error, in points. A chain that diverged has no entry
# for that seed: leave such seeds out.

# %%
answer = ...   # a function f(chain, raw) that returns (difference, standard_error)
se.teach.check("05.1", answer)

# %% [markdown]
# **Exercise 05.2.** Same-seed differences of a chain have a standard deviation of 0.8 points. You want to be able to see a loss of 0.25
# points, at two standard errors. How many seeds does that take?

# %%
answer = ...   # a whole number
se.teach.check("05.2", answer)

# %% [markdown]
# ## 3 · What luck looks like
#
# Now one chain only, `raw`, and many seeds. By section 1 we need not split for that: the whole network gives the same numbers, faster. (The
# cut `()` means no split.)
#
# **Predict:** if you report the best of sixteen runs, how far above the mean is it?

# %%
whole_study = se.sweep({"small": small}, [()], "raw", seeds=16, **TRAINING)
luck = 100 * whole_study.rows.set_index("seed")[["validation_accuracy", "test_accuracy"]]
same = [float(accuracy["raw"][seed]) == float(luck.test_accuracy[seed]) for seed in accuracy.index]
print("whole and split, same seeds, the same accuracy:", same)
print(f"test accuracy of 16 seeds: mean {luck.test_accuracy.mean():.1f} %, "
      f"standard deviation {luck.test_accuracy.std():.1f}, best {luck.test_accuracy.max():.1f} %")
first = luck[luck.validation_accuracy == luck.validation_accuracy.max()]
scores = ", ".join(f"{score:.1f}" for score in first.test_accuracy)
print(f"best on validation, with {first.validation_accuracy.iloc[0]:.1f} %: {len(first)} of the runs; "
      f"test accuracy of these: {scores} %")

# %%
def best_of(k, tries=4000):
    """The mean test accuracy of the best of k runs, taken at random: best by test, and by validation."""
    generator = torch.Generator().manual_seed(0)
    validation_scores, test_scores = (torch.tensor(luck[column].values) for column in luck)
    picked = torch.rand(tries, len(luck), generator=generator).argsort(1)[:, :k]
    by_validation = picked.gather(1, validation_scores[picked].argmax(1, keepdim=True))[:, 0]
    return float(test_scores[picked].max(1).values.mean()), float(test_scores[by_validation].mean())


counts = range(1, 17)
by_test, honest = zip(*(best_of(k) for k in counts), strict=True)
picture = Picture(figsize=(7, 3.7), layout="constrained")
axes = picture.subplots()
axes.plot(counts, by_test, "o-", color="#c62828", ms=4, label="of the best by test")
axes.plot(counts, honest, "^-", color="#2f7fd6", ms=4, label="of the best by validation")
axes.axhline(luck.test_accuracy.mean(), color="black", lw=0.8, ls=":", label="mean of all runs")
axes.set(xlabel="runs to choose from, all of the same chain", ylabel="test accuracy, %")
gain = by_test[-1] - luck.test_accuracy.mean()
axes.set_title(f"The best of 16 runs of one chain is {gain:.1f} points above their mean",
               loc="left", fontsize=11)
axes.legend(frameon=False, fontsize=9, loc="center right", bbox_to_anchor=(1, 0.3))
axes.spines[["top", "right"]].set_visible(False)
picture.alt = (
    "Test accuracy of the best of k runs, k from 1 to 16: chosen by test accuracy it rises from "
    f"{by_test[0]:.1f} to {by_test[-1]:.1f} per cent; chosen by validation it ends at {honest[-1]:.1f}."
)
picture

# %% [markdown]
# **Explain:** no run here has a codec, and the best one still looks three points better than the mean. The more runs there are to choose
# from, the better the best one looks: the red line climbs with every try. The blue line chooses on other pictures than it reports on. It
# stops climbing: what is left of the gain is real, since some first weights lead to better networks, and the luck with 359 test pictures is
# not in it. But even that is a merit of **one run**. With the next seed, the chain is back at its mean. So: a network that you want to use
# may be the best of many, chosen on validation. A *chain* that you want to compare is judged by the mean over its seeds.
#
# **Exercise 05.3.** Ten chains are in truth all alike: the test accuracy of each is drawn from a bell curve (a normal distribution) with a
# standard deviation of 0.5 points. Someone tries them all, once each, and reports the best. By how many points is that above the truth, on
# average? (`torch.randn` helps.)

# %%
answer = ...   # a number of points
se.teach.check("05.3", answer)

# %% [markdown]
# ## 4 · Which way bears more?
#
# Each step sends activations forward and gradients back. Are they equally sensitive? Two of the five sets of chains use top 25 % with 8
# bits one way only: `forward=` is for activations and outputs, `backward=` for the two gradients. The other way travels raw.
#
# **Predict:** which of the two loses more? All the layers behind it see an activation; a gradient is only a direction for a small step.

# %%
table = study.table.set_index("chain")
for way in one_way:
    pairs = accuracy[way] - accuracy["raw"]
    points = ", ".join(f"{value:+.1f}" for value in pairs)
    print(f"{way:13} {table.bytes[way]:5,.0f} bytes a sample; by seed {points}: "
          f"mean {pairs.mean():+.1f} ± {pairs.sem():.1f}")
pairs = accuracy["only backward"] - accuracy["only forward"]
print(f"backward less forward: mean {pairs.mean():+.1f} ± {pairs.sem():.1f} points (± one standard error)")
pairs = accuracy["only backward"] - accuracy["top 25 %"]
print(f"backward less both ways: mean {pairs.mean():+.1f} ± {pairs.sem():.1f} points")

# %% [markdown]
# **Explain:** here the gradients bear less. The bytes are nearly the same, forward loses nothing that we can see, and backward loses with
# every seed. One explanation: an activation without its small entries is wrong in the same way in training and afterwards, and the layers
# behind it learn to live with that. A gradient without its small entries points elsewhere at every step, always favours the same few, and
# nothing corrects it. Rudakov et al. ([arXiv 2401.07788](https://arxiv.org/abs/2401.07788)) found gradients to bear less on larger networks
# too.
#
# What four seeds cannot show: how much. They range from two points to seventeen. Nor that coarse messages both ways (`top 25 %` in section
# 2) do better than backward alone, as the means have it: that difference, in the last line, is within two standard errors. And it is no
# law. Put `digits_cnn` with the cut `("pool", "flatten")` in place of the small network, and see whether you can still tell the two ways
# apart.
#
# ## 5 · Choose here, report there
#
# A sweep divides the pictures in three: one part trains, one part (**validation**) chooses, and the **test** pictures are looked at once,
# for what was chosen. We looked at them above to learn about luck; in a study you would not. `study.best(points=1)` takes the chain with
# the fewest bytes among those that lose at most one point of *validation* accuracy, and then shows what it does on the test set.
#
# **Predict:** which of the five will it take?

# %%
best = study.best(points=1.0).iloc[0]
print(f"chosen: {best.chain}, {best.saving:.1f} times fewer bytes, "
      f"{100 * best.validation_difference:+.2f} points on validation")
print(f"reported: {100 * best.test_difference:+.2f} points on the test set, {100 * best.test_accuracy:.1f} %")
study.plot_frontier()

# %% [markdown]
# **Explain:** `4 bits` sends the fewest bytes within a point. It even *gains* a little, on validation and on test; by now you know what to
# think of a gain of 0.3 points with a standard error as large. Mind the bars: they are the spread of the runs as heaps, which makes all
# chains look alike. The pairs of section 2 see more.
#
# **Exercise 05.4.** Another study, with ten seeds. The rule: the fewest bytes among the chains that lose at most 1.0 point. Which chain do
# you choose?
#
# | chain | bytes a sample | validation, points against raw | test, points against raw |
# | --- | --- | --- | --- |
# | raw | 12,300 | 0.0 | 0.0 |
# | 8 bits | 3,100 | −0.1 | +0.1 |
# | 4 bits | 1,600 | −0.4 | −0.6 |
# | top 10 % | 700 | −0.8 | −1.3 |
# | PCA 16 | 400 | −1.4 | −0.7 |
# | top 1 % | 120 | −9.6 | −9.1 |

# %%
answer = ...   # the name of a chain
se.teach.check("05.4", answer)

# %% [markdown]
# ## 6 · Time to accuracy
#
# Bytes are a means. What one wants is an accurate network soon. A step's time is its computing, plus its bytes divided by the bandwidth,
# plus a round trip for each call. A chain adds computing and takes away bytes; and if it makes learning slower, it needs more steps. So the
# fair picture has **accuracy against seconds**.
#
# Two trainings, validated after every epoch; the link is WebPageTest's *cable* (5 Mbit/s down, 1 Mbit/s up, 28 ms): not emulated, but
# computed from the bytes that were counted.
#
# **Predict:** how many times sooner does the 4-bit chain reach 90 %?

# %%
link = se.LINKS["cable"]
held_out = torch.utils.data.TensorDataset(*(t[-288:] for t in train.tensors))
learning = torch.utils.data.TensorDataset(*(t[:-288] for t in train.tensors))
curves = {}
for name in ("raw", "4 bits"):
    torch.manual_seed(0)
    split = se.split(small(), at=("pool", "relu2"), input_shape=(1, 8, 8))
    codecs = se.Codecs(forward=chains[name], backward=chains[name]) if name != "raw" else None
    with se.Trainer(split, codecs=codecs, optimizer=settings) as trainer:
        batches = se.data.loader(learning, batch=64, seed=0, drop_last=True)
        log = trainer.fit(batches, epochs=6, validation=se.data.loader(held_out, 64, seed=0), progress=False)
    sent = log.summary()["frame"]                               # mean bytes of a step, by message
    up = round(sent["activations"] + sent["output_gradients"])  # what the device sends
    down = round(sent["outputs"] + sent["input_gradients"])
    computing, waiting = log.seconds()["total"], link.seconds(up, down, calls=2)
    seconds = [0.0] + [(e.step + 1) * (computing + waiting) for e in log.evaluations]
    curves[name] = seconds, [10.0] + [100 * e.accuracy for e in log.evaluations]
    print(f"{name:7} {up:,} bytes up, {down:,} down; a step takes {1e3 * waiting:.0f} ms on the link "
          f"(of which {2 * link.rtt_ms:.0f} ms are two round trips)")

# %%
reached = {name: next(s for s, a in zip(*curve, strict=True) if a >= 90) for name, curve in curves.items()}
picture = Picture(figsize=(7, 3.6), layout="constrained")
axes = picture.subplots()
for (name, (seconds, scores)), color in zip(curves.items(), ("black", "#2f7fd6"), strict=True):
    axes.plot(seconds, scores, "o-", color=color, ms=4, label=name)
axes.axhline(90, color="#888888", lw=0.8, ls=":")
axes.set(xlabel="seconds on the link, computing included", ylabel="validation accuracy, %")
axes.set_title(f"90 % after {reached['4 bits']:.0f} s in place of {reached['raw']:.0f} s",
               loc="left", fontsize=11)
axes.legend(frameon=False, fontsize=9, loc="lower right")
axes.spines[["top", "right"]].set_visible(False)
picture.alt = (
    "Validation accuracy against seconds on a cable link: with 4 bits 90 per cent are reached after "
    f"{reached['4 bits']:.0f} seconds, raw after {reached['raw']:.0f}."
)
picture

# %% [markdown]
# **Explain:** the 4-bit chain takes as many epochs as `raw` to get there (count the points), and each of its steps is some six times
# shorter. Not ten times, as the bytes are: the two round trips stay, 56 ms together, and so does the computing. One seed each: that a step
# is shorter follows from bytes and holds for every seed; that both need equally many epochs is a single observation.
#
# `plot_time` draws the seconds of a step for links of any bandwidth.
#
# **Predict:** on a fast link, is the chain with the fewest bytes still the fastest?

# %%
study.plot_time()

# %% [markdown]
# **Explain:** on the left, bytes decide, and lines are as far apart as their bytes. On the right, nobody waits for bytes: the lines run
# into the floor of computing and round trips, and what a chain costs to compute is all that is left of it. Where it crosses `raw` depends
# on this machine; on which side your link lies is the whole question.
#
# **Exercise 05.5.** Uncompressed, a step of 32 samples sends 12,000 bytes **a sample**, up and down together; a chain sends 2,000. It costs
# 4 ms more computing **a step**. Below which bandwidth, in Mbit/s and the same both ways, is the chain faster? (8 bits make a byte. Round
# trips are the same for both.)

# %%
answer = ...   # a number of Mbit/s
se.teach.check("05.5", answer)

# %% [markdown]
# ## What you have seen
#
# - Split training equals whole training to the bit: what costs accuracy is the codec. Or it is luck.
# - Compare runs of the same seed, and give the standard error: s / √n. Four seeds tell apart what is gross, and no more.
# - The best of many equal runs looks better than it is. Choose on validation, report on test, and say how many you tried.
# - Forward and backward need not be equally sensitive. Which bears more may depend on the network: measure it.
# - Judge by accuracy against seconds. A chain pays below a bandwidth that you can compute.
#
# **Go on** with `06_who_sees_what.ipynb`.
#
# *References:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy*, HotMobile '21, [arXiv 2011.04232](https://arxiv.org/abs/2011.04232),
# whose Figure 3 shows accuracy with and without the split. Rudakov et al., on compressing activations and gradients, [arXiv
# 2401.07788](https://arxiv.org/abs/2401.07788).
