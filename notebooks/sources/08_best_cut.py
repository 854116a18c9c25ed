# %% [markdown]
# # The best cut
#
# The people who wrote the paper tried cuts by hand until they found a good one, and said that a computer could do it. Here it does: you measure a
# network once, and then every cut, every codec and every link costs nothing more than arithmetic. At the end you check the arithmetic on a real link.
#
# **You will learn**
# 1. what the seconds of a step are made of, and how to predict them for every cut;
# 2. to find the best cut, chain and mode with `se.plan`;
# 3. how the best cut moves with the link, the device and the chain;
# 4. what a limit costs: labels that stay, a deeper A, fewer bytes, a small memory;
# 5. how far a prediction can be trusted.
#
# It takes twenty-five minutes, computes for under half a minute, and needs no internet.

# %%
import pandas
import torch

import spliteasy as se
from spliteasy.pictures import Picture  # a matplotlib Figure that shows itself
from spliteasy.planning import predict_step

torch.set_num_threads(1)                             # device and server share this machine
torch.manual_seed(0)
BLUE, ORANGE, GREY, PURPLE, LILAC, DARK = "#2f7fd6", "#e8912d", "#9aa0a6", "#7b4fa3", "#c39bd8", "#5f6368"
SHAPE, BATCH = (3, 64, 64), 8
CHAINS = ["raw", "fp16 | zstd(1)", "int8 | zstd(1)"]
model = se.load_model("resnet18", num_classes=10)
cuts = se.find_cuts(model, input_shape=SHAPE, batch=BATCH)
print(f"{len(cuts)} cuts, {len(cuts) * (len(cuts) - 1) // 2:,} pairs of cuts")

# %% [markdown]
# ## 1 · What a step is made of
#
# In a step of split learning, device and server take turns: while one computes, the other waits. So nothing overlaps, and the times add up:
#
# > **step = computing + codecs + bytes + round trips**
#
# - *computing*: A (and C) on the device, divided by the speed of the device; B on the server, divided by its speed;
# - *codecs*: encoding and decoding each message;
# - *bytes*: what goes up by the bandwidth up, what comes down by the bandwidth down;
# - *round trips*: one a call, so one in a single split and two in a double split.
#
# For the first part we must know what each operation takes. `se.profile` trains a copy of the network for a few steps and reads the clock
# between all operations, forward and backward.
#
# **Predict:** this network has a first convolution on large feature maps, and late ones with most of the weights. Where is the time spent?

# %%
profile = se.profile(model, SHAPE, batch=BATCH, repeats=3, cache=False, progress=False)
before = profile.before(profile.forward + profile.backward + profile.update)    # seconds before each cut
nbytes = [cut.nbytes for cut in cuts]

picture = Picture(figsize=(9, 3.4), layout="constrained")
axes = picture.subplots()
axes.fill_between(range(len(cuts)), [size / 1e6 for size in nbytes], step="mid", color=PURPLE, alpha=0.5)
axes.set(xlabel="cut, in execution order", ylabel="MB at the cut", xlim=(0, len(cuts) - 1))
axes.yaxis.label.set_color(PURPLE)
share = axes.twinx()
share.plot(100 * before / profile.seconds, color=BLUE, lw=2)
share.set(ylabel="% of the step's computing before it", ylim=(0, 100))
share.yaxis.label.set_color(BLUE)
axes.set_title("Later cuts send less, and leave more of the work to the device", fontsize=11)
middle = cuts["layer2.1.relu_1"]
picture.alt = (
    f"Bytes at {len(cuts)} cuts, falling from {max(nbytes) / 1e6:.1f} MB early to {nbytes[-1]} B at the end, and the "
    f"share of computing before each cut, rising to 100 %; at {middle.name} "
    f"{100 * before[middle.index] / profile.seconds:.0f} %."
)
print(f"an unsplit step of {BATCH} images takes {1000 * profile.seconds:.0f} ms here")
picture

# %% [markdown]
# **Explain:** the two curves pull in opposite directions. An early cut spares the device and floods the link, a late one the other way round.
# Which side wins depends on numbers that are not in the network: how fast the link is, and how slow the device.
#
# `predict_step` puts the numbers together for one cut. Below, for all of them: a device **ten times slower** than this machine, on a link with
# 18 Mbit/s up, 120 down and a round trip of 15 ms (`home-wifi`), without a codec.
#
# **Predict:** the bars below are stacked from the parts of a step. Which part is largest at an early cut, which at a late one?

# %%
LINK, SLOW = se.LINKS["home-wifi"], 0.1
PARTS = {
    "device computes": (("a", "c"), BLUE), "codecs": (("encode", "decode"), GREY), "bytes up": (("up",), PURPLE),
    "bytes down": (("down",), LILAC), "round trips, calls": (("trips", "calls"), DARK),
    "server computes": (("b",), ORANGE),
}


def stacked(axes, **settings):
    """The parts of a step at every cut of a single split, one on the other; the predictions."""
    choices = [predict_step(profile, cut.name, **settings) for cut in cuts]
    bottom = [0.0] * len(choices)
    for name, (parts, color) in PARTS.items():
        top = [low + sum(choice.parts[part] for part in parts) for low, choice in zip(bottom, choices, strict=True)]
        axes.fill_between(range(len(cuts)), bottom, top, step="mid", color=color, label=name, linewidth=0)
        bottom = top
    axes.set(xlim=(0, len(cuts) - 1), ylim=(0, None), xlabel="cut, in execution order")
    return choices


picture = Picture(figsize=(9, 3.8), layout="constrained")
axes = picture.subplots()
choices = stacked(axes, link=LINK, device=SLOW, chain="raw")
axes.set_ylabel("seconds a step")
best = min(choices[1:], key=lambda choice: choice.seconds)
axes.annotate(f"{best.cuts[0]}\n{best.seconds:.2f} s", (best.numbers[0], best.seconds), (0.45, 0.8),
              textcoords="axes fraction", arrowprops={"arrowstyle": "->"}, fontsize=9)
axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
axes.set_title("A step on home-wifi, raw, device ten times slower: bytes early, computing late", fontsize=11)
picture.alt = (
    f"Stacked seconds a step over the cuts: {choices[1].seconds:.2f} s at {choices[1].cuts[0]}, least "
    f"{best.seconds:.2f} s at {best.cuts[0]}, {choices[-1].seconds:.2f} s at the last cut. Early the bytes are the "
    "largest part, late the device's computing."
)
picture

# %% [markdown]
# **Explain:** early on, the bytes up are most of the step; every operation behind adds to the blue part, where the device computes. Good cuts
# lie just *behind* a place where the bytes drop: there the link has become cheaper, and the device has not worked much yet. (At cut 0 the input
# itself is sent, which is no split; we leave it out.)
#
# **Exercise 08.1.** Do one sum by hand. A takes 0.03 s on this machine and B takes 0.09 s, forward and backward together. The device is
# **5 times slower** than this machine, the server **twice as fast**. The cut is `layer2.1.relu_1` (with `BATCH`), the split single, the chain
# `raw`; the link has 20 Mbit/s up, 50 Mbit/s down and a round trip of 40 ms. How many seconds does a step take? *(Leave out headers, labels and
# the work of a call; `cuts[name].nbytes`.)*

# %%
answer = ...   # seconds
se.teach.check("08.1", answer)

# %% [markdown]
# ## 2 · Let it be computed
#
# `se.plan` does that for every cut, every pair of cuts, every chain that you give it and every mode, and keeps the least. For the chains it
# encodes and decodes what really crosses a few cuts, once.
#
# **Predict:** with two chains more to choose from, how many seconds of the best step above are left? Will the best be a single split, a double
# split or none?

# %%
A_DEEP = se.Constraints(min_operations=1)            # A has an operation at least: the input itself is not sent
plan = se.plan(profile, link=LINK, device=SLOW, chains=CHAINS, constraints=A_DEEP, runners_up=3, progress=False)
print(plan)

# %%
plan.plot()

# %% [markdown]
# **Explain:** the chain with the fewest bytes won, though it takes time to encode and decode: compare the two lines of *codecs* with what is left of
# the bytes. Look at *best of each mode*: no split leaves the slow device with everything. A double split pays a second round trip and two more
# messages, and the device computes C. So it is slower; it is chosen for what it hides (lesson 06).
#
# The plan looks at time alone. What a lossy chain does to accuracy is the question of lesson 05, and a chain that you would not train with has no
# place in the list.
#
# **Exercise 08.2.** Write the planner yourself, for a single split and the chain `raw`. Given the seconds before each cut on this machine, the
# seconds of everything, the raw bytes at each cut, a link and the speed of the device, return the **number of the best cut**. The server is as
# fast as this machine. *(`link.seconds(up_bytes, down_bytes, calls)`; the arguments `before` and `nbytes` are lists.)*

# %%
def my_plan(before, total, nbytes, link, device):
    """The number of the cut with the least seconds a step."""
    return ...


answer = ...   # my_plan, once it works
se.teach.check("08.2", answer)

# %% [markdown]
# ## 3 · How the best cut moves
#
# The profile is measured, the chains are measured. Now links and devices cost nothing: below are thirty-six plans.
#
# **Predict:** a link gets ten times slower. Does the best cut move towards the input or towards the output? And if the device gets slower?

# %%
LINKS = ["lan", "home-wifi", "lte", "cable"]
SPEEDS = {"as fast": 1.0, "10 times slower": 0.1, "50 times slower": 0.02}


def best_cut(link, speed, chain):
    """The best single split."""
    return se.plan(profile, link=link, device=speed, chains=[chain], modes=("single",), constraints=A_DEEP,
                   progress=False).best


found = {(name, speed, chain): best_cut(name, SPEEDS[speed], chain)
         for name in LINKS for speed in SPEEDS for chain in CHAINS}
told = {key: f"{choice.cuts[0]}  {choice.seconds:.2f} s" for key, choice in found.items()}
table = pandas.DataFrame([
    {"link": name, "device": speed, **{chain: told[name, speed, chain] for chain in CHAINS}}
    for name in LINKS for speed in SPEEDS
])
table.set_index(["link", "device"])

# %%
picture = Picture(figsize=(9, 3.2), layout="constrained")
for axes, chain in zip(picture.subplots(1, 2, sharey=True), ("raw", "int8 | zstd(1)"), strict=True):
    for (speed, _), color in zip(SPEEDS.items(), (DARK, BLUE, PURPLE), strict=True):
        places = [100 * found[name, speed, chain].numbers[0] / (len(cuts) - 1) for name in LINKS]
        axes.plot(LINKS, places, "o-", color=color, label=f"device {speed}")
    axes.set(title=f"chain {chain}", ylim=(-5, 105), xlabel="link, slower to the right")
axes.legend(fontsize=8, frameon=False)
picture.axes[0].set_ylabel("best cut, % of the way")
picture.suptitle("A slower link pushes the cut back, a slower device pulls it forward", fontsize=11)
told = "; ".join(f"{name}, device {speed}: {found[name, speed, 'raw'].cuts[0]}" for name in LINKS for speed in SPEEDS)
picture.alt = f"Place of the best cut by link, for three devices and two chains. With raw: {told}."
picture

# %% [markdown]
# **Explain:** on a slow link bytes are dear, so the cut moves to where few are sent: late. On a slow device computing is dear, so it moves to where
# little is computed: early. A device that is as fast as the server may just as well compute everything, and then send the few bytes of the end.
# A codec makes bytes cheap, which is like a faster link: on `cable` it pulls the cut forward. On `lan` there is nothing to gain: a slow device takes about
# as long to encode as the bytes would have taken. The round trip of a single split is the same at every cut. It makes every step longer and
# moves nothing.
#
# **Exercise 08.3.** Which change moves the best cut of a single split **towards the output**: `"a faster link"`, `"a slower device"`,
# `"a faster device"`, `"a longer round trip"` or `"a slower server and a slower device, both by the same factor"`?

# %%
answer = ...   # one of the five
se.teach.check("08.3", answer)

# %% [markdown]
# ## 4 · What a limit costs
#
# The fastest choice may not be allowed. Labels may have to stay, A may have to be deep enough to hide something, the data plan may be small, the
# memory too. Each limit rules out choices, so it can only make the best one slower: the difference is its **price**.
#
# **Predict:** order these by price: labels stay on the device · A has at least 20 operations · at most 100 kB a step.

# %%
WISHES = {
    "none but A ≥ 1 operation": A_DEEP,
    "labels stay": se.Constraints(min_operations=1, labels_on_device=True),
    "A ≥ 20 operations": se.Constraints(min_operations=20),
    "at most 100 kB a step": se.Constraints(min_operations=1, max_bytes=100_000),
    "labels stay, at most 100 kB": se.Constraints(min_operations=1, labels_on_device=True, max_bytes=100_000),
}
rows = {}
for name, wish in WISHES.items():
    limited = se.plan(profile, link=LINK, device=SLOW, chains=CHAINS, modes=("single", "double"), constraints=wish,
                      progress=False).best
    rows[name] = {"mode": limited.mode, "cuts": ", ".join(limited.cuts), "chain": limited.chain,
                  "kB a step": f"{limited.bytes_total / 1000:.0f}", "seconds": limited.seconds}
table = pandas.DataFrame(rows).T
table["price"] = [f"{1000 * (seconds - table['seconds'].iloc[0]):.0f} ms" for seconds in table["seconds"]]
table["seconds"] = table["seconds"].map("{:.3f}".format)
table

# %% [markdown]
# **Explain:** that labels stay is cheap here: C is a small layer at the end, so a round trip and two small messages are all it takes. A deeper A is
# dear, because the slow device computes it. Two limits together cost at least as much as either alone. (To see the price of a limit, ask for the
# plan without it.)
#
# Memory is a limit too. Training needs the parameters, their gradients, and everything that the backward pass will need again. A `se.Device` says
# how much of its memory an app gets, and a plan keeps to it.
#
# **Predict:** how small may the memory of the device be, until no split of this network fits any more?

# %%
for megabytes in (200, 40, 5, 2):
    small = se.Device("small", speed=SLOW, memory_bytes=megabytes * 1_000_000)
    try:
        limited = se.plan(profile, link=LINK, device=small, chains=CHAINS, constraints=A_DEEP, progress=False)
        print(f"{megabytes:4} MB: {limited.best}")
        print(f"         modes that fit: {', '.join(choice.mode for choice in limited.by_mode)}")
    except se.errors.PlanError as error:
        print(f"{megabytes:4} MB: {error}")

# %% [markdown]
# **Explain:** without a split the device holds the whole network, so "none" is the first to go. The peak of a training step counts, not the size of
# the weights: a short A with large feature maps needs its megabytes too. Where nothing fits, the plan does not return something bad; it says which
# limit cannot be met, and by how much.
#
# **Exercise 08.4.** Write the limits for this wish: *labels stay on the device; A has at least three operations; a step sends and receives at most
# half a megabyte.*

# %%
answer = ...   # se.Constraints(...)
se.teach.check("08.4", answer)

# %% [markdown]
# ## 5 · Is it true?
#
# A prediction is worth what a measurement says. We train real steps: a server process, a real socket, and a link that makes the bytes of each step
# take as long as they would on `home-wifi`. Device and server are this machine, since we cannot slow it down. But other programs can: so beside each
# step we time an unsplit one, and tell the prediction how fast this machine is *now*, relative to when it was profiled.
#
# **Predict:** by how many per cent will the prediction be wrong at the worst of three choices?

# %%
TRIALS = [("maxpool", "raw"), ("layer2.1.relu_1", "fp16 | zstd(1)"), ("avgpool", "int8 | zstd(1)")]
images, labels = se.data.photos(BATCH, size=64, seed=0), torch.arange(BATCH) % 10
rows = []
whole = se.Trainer(se.split(se.load_model("resnet18", num_classes=10), (), SHAPE))
with se.LocalServer() as server:
    for name, chain in TRIALS:
        split = se.split(se.load_model("resnet18", num_classes=10), at=name, input_shape=SHAPE)
        with se.Trainer(split, server=server.url, codecs=chain, link=LINK) as trainer:
            pairs = [[one.step(images, labels).seconds["total"] for one in (trainer, whole)] for _ in range(4)][1:]
        measured, unsplit = (sorted(seconds)[1] for seconds in zip(*pairs, strict=True))
        now = profile.seconds / unsplit
        forecast = predict_step(profile, name, link=LINK, chain=chain, device=now, server=now)
        rows.append({"cut": name, "chain": chain, "this machine": now, "predicted": forecast.seconds,
                     "measured": measured})
trials = pandas.DataFrame(rows)
trials["error"] = trials["predicted"] / trials["measured"] - 1
formats = {"this machine": "{:.2f} × as fast", "predicted": "{:.3f} s", "measured": "{:.3f} s", "error": "{:+.1%}"}
trials.assign(**{column: trials[column].map(text.format) for column, text in formats.items()})

# %%
picture = Picture(figsize=(9, 3.6), layout="constrained")
axes = picture.subplots()
for chain, color in zip(CHAINS, (DARK, BLUE, PURPLE), strict=True):
    now = trials["this machine"].median()
    line = [predict_step(profile, cut.name, link=LINK, chain=chain, device=now, server=now).seconds for cut in cuts]
    axes.plot(line, color=color, lw=1.4, label=f"predicted, {chain}")
    mine = trials[trials["chain"] == chain]
    axes.plot([cuts[name].index for name in mine["cut"]], mine["measured"], "o", ms=9, mfc="none", mew=2, color=color)
axes.plot([], [], "o", ms=9, mfc="none", mew=2, color="black", label="measured")
axes.set(xlabel="cut, in execution order", ylabel="seconds a step", ylim=(0, None), xlim=(0, len(cuts) - 1))
worst = trials["error"].abs().max()
axes.set_title(f"Three choices trained for real: the prediction is off by {worst:.0%} at most", fontsize=11)
axes.legend(fontsize=8, frameon=False)
found = ", ".join(f"{row.cut} with {row.chain} {row.predicted:.3f} s predicted, {row.measured:.3f} s measured"
                  for row in trials.itertuples())
picture.alt = f"Predicted seconds a step over all cuts for three chains, and measured ones as circles: {found}."
picture

# %% [markdown]
# **Explain:** what the prediction misses has causes that you can name. A chain's ratio was measured on the first step's
# tensors, and tensors change as the network learns. What a call costs besides the link was measured once, on another machine. And the
# largest: other programs take this machine's cores, more at one moment than at another. The column *this machine* says how far its speed has moved
# since the profile; without that, all computing would be off by this factor. None of it changes much which cuts are good. It can change the order
# of two that are nearly equal, and then either will do.
#
# **Exercise 08.5.** A plan lists six choices that would take `[0.400, 0.415, 0.428, 0.439, 0.445, 0.470]` seconds a step. Suppose that a real step
# may take up to 5 % less or up to 5 % more than predicted, each on its own. How many of the six could turn out to be the fastest?

# %%
answer = ...   # a number of choices
se.teach.check("08.5", answer)

# %% [markdown]
# ## What you have seen
#
# - A step is a **sum**: computing, codecs, bytes, round trips. Each part can be measured once and then moved to another link or device.
# - The best cut is a **balance** between what the device computes and what the link carries. A slower link moves it late, a slower device early,
#   a codec early.
# - `se.plan` compares **all** cuts, pairs, chains and modes; limits have a **price**, and one that cannot be met is named.
# - A prediction was **checked** on a real socket, and its error is known. Choices that differ by less than that are equal: choose between them
#   by what else you want.
# - In the explorer, `se.explore("resnet18")`, the button **Best cut** does this for the link and device that you chose there.
#
# **Go on** with your own network: `se.profile(model, input_shape, batch)`, then `se.plan`. On the command line it is `spliteasy plan`.
#
# *Reference:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*, HotMobile
# '21, [arXiv 2011.04232](https://arxiv.org/abs/2011.04232).
