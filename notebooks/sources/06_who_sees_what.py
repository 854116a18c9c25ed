# %% [markdown]
# # Single, double, none: who sees what, and what it costs
#
# Split learning is sold with one sentence: the data stays on the device. True, and yet the server receives something that was computed from the
# data. In this lesson you are the server. You take what it receives, and try to get the pictures and the labels back.
#
# **You will learn**
# 1. what the device computes and what the server sees without a split, in a single split and in a double split;
# 2. to rebuild pictures from activations with twenty lines of linear algebra, and how that depends on the cut;
# 3. whether a codec in between protects;
# 4. how the server can guess labels that nobody sent;
# 5. what each arrangement costs, in bytes, calls and seconds.
#
# It takes twenty-five minutes, computes for under half a minute, and needs no internet.

# %%
import pandas
import safetensors.torch
import torch
from torch.utils.data import TensorDataset

import spliteasy as se
from spliteasy.pictures import Picture  # a matplotlib Figure that shows itself

torch.set_num_threads(1)                             # a small network is faster on one
BLUE, ORANGE, GREEN, GREY = "#2f7fd6", "#e8912d", "#1fa187", "#777777"
train, test = se.data.digits()
pictures, labels = train.tensors
mine, mine_y = pictures[:719], labels[:719]          # the device's pictures, which must not leave it
own, own_y = pictures[719:], labels[719:]            # pictures that the server has from elsewhere
sgd = {"name": "SGD", "lr": 0.02, "momentum": 0.9}
server = se.LocalServer().start()


def digits_model(seed=0):
    """The digits network with initial weights of its own."""
    torch.manual_seed(seed)
    return se.load_model("digits_cnn")


def cut(model, at):
    """The network, cut; the segments share the model's weights."""
    return se.split(model, at=at, input_shape=(1, 8, 8))


def written(table, formats):
    """The table with its numbers written as a reader wants them."""
    return table.assign(**{column: table[column].map(text.format) for column, text in formats.items()})


print(f"{len(mine)} pictures on the device, {len(own)} others at the server, {len(test)} to test on")

# %% [markdown]
# ## 1 · Three arrangements
#
# | | on the device | at the server |
# |---|---|---|
# | **no split**, on the device | everything | nothing |
# | **no split**, at the server | nothing | everything; it is sent pictures and labels |
# | **single split** A&#124;B | A | B and the loss; it is sent activations and labels |
# | **double split** A&#124;B&#124;C | A, C and the loss | B; it is sent activations and output gradients |
#
# **Predict:** order the four by the bytes that a training step sends. Where do the pictures of 8·8 values come?

# %%
x, y = mine[:32], mine_y[:32]
cuts = se.find_cuts(digits_model(), input_shape=(1, 8, 8), batch=32)
whole = cuts["classifier"].macs_before               # multiply-accumulates, the usual measure of work


def observed(at):
    """Three training steps through a recorder: the device's share of the work, and what was on the wire."""
    split = cut(digits_model(), at)
    with se.teach.Recorder(server.url, keep=True) as wire, se.Trainer(split, server=wire.url) as trainer:
        seconds = sorted(trainer.step(x, y).seconds["total"] for _ in range(3))[1]
    step = [call for call in wire.calls if call.name.startswith("step 2 ")]
    sent = b"".join(call.request_data for call in wire.calls)
    first, last = split.cuts[0], split.cuts[-1]
    work = cuts[first].macs_before + (whole - cuts[last].macs_before if len(split.cuts) == 2 else 0)
    return {"work on the device": work / whole, "calls": len(step), "B up": sum(call.up for call in step),
            "B down": sum(call.down for call in step), "pictures sent": x.numpy().tobytes() in sent,
            "labels sent": y.numpy().tobytes() in sent, "seconds": seconds}


nothing = {"calls": 0, "B up": 0, "B down": 0, "pictures sent": False, "labels sent": False}
batch = {"calls": 1, "B up": x.nbytes + y.nbytes, "B down": 0, "pictures sent": True, "labels sent": True}
arrangements = pandas.DataFrame({
    "no split, device": {"work on the device": 1.0, **nothing},
    "no split, server": {"work on the device": 0.0, **batch},
    "single at pool": observed("pool"),
    "double at pool, flatten": observed(("pool", "flatten")),
}).T
numbers = {"work on the device": "{:.0%}", "B up": "{:,}", "B down": "{:,}"}
written(arrangements.drop(columns="seconds"), numbers)

# %% [markdown]
# **Explain:** the rows with a split were recorded on the socket, and the pictures and labels were searched for in every byte that was sent. The
# two rows without a split are what must be sent there: nothing, or the batch itself. The surprise is the second row: **sending the pictures
# themselves takes far fewer bytes than either split.** Here a split does not save bytes. It decides who sees what, and who computes what.
#
# In the single split the labels are found, in the double split they are not. The pictures are in neither.
#
# **Exercise 06.1.** Neither pictures nor labels may be sent, the weights of the `classifier` stay on the device, and the device may do at most
# 60 % of the work. Which two cuts send the fewest bytes in a step? *(`se.find_cuts` lists them; `cuts[name].nbytes`,
# `cuts[name].macs_before`.)*

# %%
answer = ...   # a pair of names, such as ("relu1", "flatten")
se.teach.check("06.1", answer)

# %% [markdown]
# ## 2 · What the server sees
#
# We train a double split for a while, with a real server. Then the device sends its pictures through A once more, and we read the activations
# **off the wire**: what you see is what the server got, nothing else.
#
# **Predict:** the network is cut after its first layer, in the middle, or late. From where on would you not recognise your own handwriting?

# %%
model = digits_model()
with se.Trainer(cut(model, ("pool", "flatten")), server=server.url, optimizer=sgd) as trainer:
    trainer.fit(se.data.loader(TensorDataset(mine, mine_y), batch=32, seed=0), epochs=5, progress=False)
    accuracy = trainer.evaluate(se.data.loader(test, batch=359, seed=0)).accuracy
model.eval()


def on_the_wire(at):
    """Activations and outputs of the device's pictures, as they were in the frames of an evaluation."""
    split = cut(model, (at, "classifier"))
    with se.teach.Recorder(server.url, keep=True) as wire, se.Trainer(split, server=wire.url) as trainer:
        trainer.evaluate([(mine, mine_y)])
    call = next(call for call in wire.calls if call.name == "evaluate")
    found = []
    for body, note in [(call.request_data, call.request), (call.answer_data, call.answer)]:
        found.append(safetensors.torch.load(body)["0:values"].view(note.shapes[0]))
    return found


DEPTHS = ["conv1", "relu1", "relu2", "pool", "conv3", "relu3"]
seen = {name: on_the_wire(name)[0] for name in DEPTHS}
seen["classifier"] = on_the_wire("pool")[1]           # the outputs, if C is nothing but the loss
print(f"test accuracy {accuracy:.1%}")
for name, tensor in seen.items():
    print(f"{name:10} {tuple(tensor.shape)}")

# %%
shown, digit = ["conv1", "pool", "relu3"], 5
picture = Picture(figsize=(9, 3.9), layout="constrained")
for row, (axes, name) in enumerate(zip(picture.subplots(3, 9), shown, strict=True)):
    maps = seen[name][digit]
    lively = maps.flatten(1).std(1).argsort(descending=True)[:8]
    for column, axis in enumerate(axes):
        axis.imshow(mine[digit, 0] if column == 0 else maps[lively[column - 1]], cmap="gray")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_title("the picture" if row == 0 else "", fontsize=9)
    size = "×".join(map(str, maps.shape[1:]))
    axes[4].set_title(f"sent at {name}: 8 of {len(maps)} feature maps of {size}", fontsize=9)
picture.suptitle("Early feature maps are the picture again; late ones no longer look like it", fontsize=11)
picture.alt = (
    f"A handwritten {mine_y[digit]} and eight feature maps at three cuts: at conv1 the digit is plain to see in the "
    "8 by 8 maps, at pool it is at best a coarse 4 by 4 outline, at relu3 the 4 by 4 maps show no digit."
)
picture

# %% [markdown]
# **Explain:** a convolution keeps the place of things. After `conv1` each map is the picture, filtered; anyone who looks can read it. Later
# maps are coarser and mix more and more of the picture. But what an eye does not see may still be there. So let us compute.
#
# ## 3 · An attack
#
# The server wants a **decoder**: a function that turns activations back into pixels. To learn one it needs pairs of both. Suppose that it can
# get them: it has pictures of its own (the other half of the digits), and it knows A, because it also owns a device that takes part. A system
# with many devices makes that easy.
#
# The simplest decoder is linear: pixels ≈ activations · W. **Ridge regression** finds the W with the least squared error, plus a small penalty
# for large weights, which keeps W steady where activations are nearly dependent. We score it with a **likeness**: the cosine between the guess
# and the picture, after the mean digit was taken from both. 1 is the picture itself; 0 is no better than the mean digit.
#
# **Predict:** the likeness at `conv1`, at `pool`, at `relu3`, and from ten class scores.

# %%
mean = own.mean(0)


def likeness(guess, truth=mine):
    """Cosine between guesses and pictures, both without the mean digit: averaged over the pictures."""
    guess, truth = (guess.reshape(len(truth), -1) - mean.reshape(-1), (truth - mean).flatten(1))
    return torch.nn.functional.cosine_similarity(guess, truth).mean().item()


def fit_decoder(features, targets, penalty=0.1):
    """Ridge regression from features to pixels: a function for new features."""
    features, targets = features.flatten(1).double(), targets.flatten(1).double()
    middle, base = features.mean(0), targets.mean(0)
    centred = features - middle
    kernel = centred @ centred.T                     # pictures × pictures, however many features
    kernel += penalty * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=torch.float64)
    weights = centred.T @ torch.linalg.solve(kernel, targets - base)
    return lambda new: ((new.flatten(1).double() - middle) @ weights + base).float().view(-1, 1, 8, 8)


def a_of(network, name):
    """What A makes of the server's own pictures, with the weights of ``network``."""
    with torch.no_grad():
        return cut(network, name).eval().a(own)


guesses = {name: fit_decoder(a_of(model, name), own)(tensor) for name, tensor in seen.items()}

places = ["conv1", "pool", "relu3", "classifier"]
scores = {name: likeness(guesses[name]) for name in seen}
rows = {"the picture": mine, **{f"from {name}\n{scores[name]:.2f}": guesses[name] for name in places}}
picture = Picture(figsize=(9, 4.9), layout="constrained")
for axes, (title, images) in zip(picture.subplots(len(rows), 10), rows.items(), strict=True):
    for axis, image in zip(axes, images[:10], strict=True):
        axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
picture.suptitle("The server rebuilds the device's pictures (beside them: the likeness over all 719)", fontsize=11)
found = ", ".join(f"{scores[name]:.2f} from {name}" for name in places)
picture.alt = (
    f"Ten digits and what the linear decoder makes of them. Likeness {found}: nearly perfect from the first three, a "
    "blurred, typical digit from the class scores."
)
picture

# %% [markdown]
# **Explain:** from `relu3`, behind the last convolution, where no eye recognises anything, a *linear* decoder still rebuilds the handwriting.
# From ten class scores it rebuilds a typical digit of that class: the kind of picture is known, the hand that wrote it is mostly gone.
#
# How much rests on the assumption that the server knows A? Below, a second server has no device of its own. It only knows A's *initial* weights
# (from the same seed), and trains its decoder on those.
#
# **Predict:** does the second server fail everywhere?

# %%
initial = digits_model()
names = list(seen)
known = [scores[name] for name in names]
stale = [likeness(fit_decoder(a_of(initial, name), own)(seen[name])) for name in names]
typical = torch.stack([own[own_y == digit].mean(0) for digit in range(10)])[mine_y]

picture = Picture(figsize=(9, 3.6), layout="constrained")
axes = picture.subplots()
axes.plot(names, known, "o-", color=ORANGE, label="the server knows A as it is now")
axes.plot(names, stale, "s--", color=GREY, label="the server only knows A's initial weights")
axes.axhline(likeness(typical), color=BLUE, linestyle=":", label="to compare: the mean picture of the true class")
axes.axhline(0, color="#bbbbbb", linewidth=0.8)
axes.set(xlabel="cut (deeper to the right)", ylabel="likeness of the rebuilt pictures")
axes.set_ylim(min(0, *stale) - 0.1, 1.08)
axes.set_title("Depth hardly protects from a server that knows A, somewhat from one that does not", fontsize=11)
axes.legend(fontsize=8, frameon=False, loc="center left")
with_a, with_old_a = (", ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True))
                      for values in (known, stale))
picture.alt = f"Likeness by depth of the cut. With A known: {with_a}. With A's initial weights only: {with_old_a}."
picture

# %% [markdown]
# **Explain:** with A known, the likeness stays high down to the last convolution. With an old A, it is high after the first layer and falls
# behind it: later activations depend on more weights that training has changed. So what protects is mostly that the server does not know A, and
# in a system of many devices it may well. A cut after the first layer protects from neither of the two.
#
# And this is the weakest attacker who can compute: linear, 719 pictures, one pass. A trained network as decoder may well do better. **What a
# simple attack rebuilds is certainly not hidden; what it does not rebuild may still be there.**
#
# **Exercise 06.2.** There is an even simpler attack, without any fitting: for each activation, find the most similar activation of the server's
# own pictures, and return *that picture*. Write it as a function `attack(own_activations, own_pictures, seen_activations)` that returns a
# picture for each seen activation. *(`torch.cdist(a, b)` gives all distances between rows.)*

# %%
answer = ...   # a function: (own_activations, own_pictures, seen_activations) -> pictures
se.teach.check("06.2", answer)

# %% [markdown]
# ## 4 · Does a codec protect?
#
# A codec throws information away. Perhaps it is just the information that the attacker needs.
#
# **Predict:** `topk(0.01)` keeps a hundredth of the 512 values of each picture at `pool`. Which suffers more, the attacker's likeness or the
# network's accuracy when it is trained that way?

# %%
CHAINS = ["raw", "int8", "topk(0.1) | fp16", "topk(0.03) | fp16", "topk(0.01) | fp16"]


def through(chain, tensor):
    """What the server has of a tensor that was sent with this chain, and the bytes of the frame."""
    chain = se.codec(chain)
    frame = chain.encode(tensor.contiguous())
    return chain.decode(frame), len(bytes(frame))


def trained_with(chain):
    """Test accuracy after five epochs in which the activations went through this chain."""
    split, codecs = cut(digits_model(), ("pool", "flatten")), se.Codecs(activations=chain)
    with se.Trainer(split, server=server.url, optimizer=sgd, codecs=codecs) as trainer:
        trainer.fit(se.data.loader(TensorDataset(mine, mine_y), batch=32, seed=0), epochs=5, progress=False)
        return trainer.evaluate(se.data.loader(test, batch=359, seed=0)).accuracy


rows = []
for chain in CHAINS:
    received, size = through(chain, seen["pool"])
    decoder = fit_decoder(through(chain, a_of(model, "pool"))[0], own)    # the server knows the chain, of course
    rows.append({
        "chain": chain, "bytes a picture": size / len(mine), "likeness": likeness(decoder(received)),
        "test accuracy": accuracy if chain == "raw" else trained_with(chain),
    })
codecs = pandas.DataFrame(rows).set_index("chain")
written(codecs, {"bytes a picture": "{:,.0f}", "likeness": "{:.2f}", "test accuracy": "{:.1%}"})

# %%
picture = Picture(figsize=(9, 3.3), layout="constrained")
axes = picture.subplots()
size = codecs["bytes a picture"]
axes.plot(size, codecs["likeness"], "o-", color=ORANGE, label="likeness of the server's guess")
axes.plot(size, codecs["test accuracy"], "s-", color=GREEN, label="test accuracy when trained so")
for chain in CHAINS:
    axes.annotate(chain.split(" |")[0], (size[chain], 0.03), ha="center", fontsize=8, color="#555555")
axes.set(xscale="log", ylim=(0, 1.08), xlabel="bytes a picture in the frame", ylabel="likeness, accuracy")
axes.invert_xaxis()
axes.set_title("Fewer bytes leak less, yet no chain here hides the pictures and keeps the accuracy", fontsize=11)
axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 0.12))
found = [f"{chain}: {row.iloc[0]:,.0f} bytes, {row.iloc[1]:.2f}, {row.iloc[2]:.1%}" for chain, row in codecs.iterrows()]
picture.alt = f"Bytes a picture, likeness and test accuracy by chain. {'; '.join(found)}."
picture

# %% [markdown]
# **Explain:** eight bits cost the attacker nothing. Sparsifying does take something, step by step, and in the end it takes the accuracy too.
# There is no chain in this table that hides the pictures and leaves the accuracy. That is no accident: the network itself can only learn from
# what arrives. **Compression is not privacy.** It was made to save bytes.
#
# **Exercise 06.3.** One of these chains leaves the server with *nothing* at `pool`, a likeness of 0: `"int4"`, `"sign"`, `"topk(0.002) |
# fp16"`, `"bf16"`. Which? Before you try them with `through` and `fit_decoder`: what is special about the values that a rectifier (ReLU) lets
# through?

# %%
answer = ...   # one of the four, as text
se.teach.check("06.3", answer)

# %% [markdown]
# ## 5 · Labels that nobody sent
#
# In a single split the server is told the labels. In a double split it is not. But it does get `output_gradients`, and they were computed
# *from* the labels.
#
# Take the smallest C there is: nothing but the loss, cut at `classifier`. For cross-entropy, the gradient of a sample's ten class scores is (p
# − t)/B: the predicted probabilities p, minus 1 at the true class (t is 1 there and 0 elsewhere), divided by the batch B.
#
# **Predict:** which signs do the ten numbers have?

# %%
def step_on_the_wire(network, at):
    """The messages of one training step on all of the device's pictures, read off the wire."""
    split = cut(network, at)
    with se.teach.Recorder(server.url, keep=True) as wire, se.Trainer(split, server=wire.url) as trainer:
        trainer.gradients(mine, mine_y)                # all of a step but its update
    found = {}
    for call in wire.calls:
        for body, note in [(call.request_data, call.request), (call.answer_data, call.answer)]:
            if note is not None and note.message:
                found[note.message] = safetensors.torch.load(body)["0:values"].view(note.shapes[0])
    return found


loss_only = step_on_the_wire(digits_model(), ("pool", "classifier"))["output_gradients"]
print("the very first step: B × output gradients of four samples")
for gradient, label in zip(loss_only[:4], mine_y, strict=False):
    print(" ".join(f"{len(mine) * value:+.2f}" for value in gradient.tolist()), f"  label {label}")
negative = (loss_only < 0).sum(1)
print(f"samples with exactly one negative number: {(negative == 1).float().mean():.1%}")

# %% [markdown]
# **Explain:** probabilities are positive, and minus 1 makes exactly one of them negative: the true one. No training is needed for that, nor any
# example. Where C is only the loss, the labels are as good as sent.
#
# **Exercise 06.4.** Write the function that reads them: it takes the output gradients of a batch (a tensor B × classes) and returns the labels.

# %%
answer = ...   # a function: output gradients (B × classes) -> labels (B)
se.teach.check("06.4", answer)

# %% [markdown]
# So C should hold more: at least the classifier with its weights, which the server does not know. Then the output gradients have 1,024 numbers,
# of no obvious sign. But gradients of the same class point the same way. A server that has a few examples with known labels (from its own
# device again) compares: it takes the **nearest centroid**, the class whose mean is closest.
#
# **Predict:** with one known example of each class, how many of the 719 labels does it guess? From which message best?

# %%
hidden = step_on_the_wire(model, ("pool", "flatten"))
theirs = se.crossing_tensors(cut(model, ("pool", "flatten")), own, own_y)    # from the server's own device
chances = {"activations": "at pool", "outputs": "at flatten", "output_gradients": "at flatten"}


def guessed(message, examples):
    """The share of labels that the nearest centroid gets right, with some known examples of each class."""
    known, unknown = (torch.nn.functional.normalize(tensor.flatten(1), dim=1)
                      for tensor in (theirs[message][0], hidden[message]))
    centroids = torch.stack([known[own_y == digit][:examples].mean(0) for digit in range(10)])
    return (torch.cdist(unknown, centroids).argmin(1) == mine_y).float().mean().item()


table = pandas.DataFrame({
    heading: {f"{message} ({place})": guessed(message, count) for message, place in chances.items()}
    for heading, count in [("1 known of each class", 1), ("5 known of each class", 5), ("all 719 known", None)]
})
rule = (loss_only.argmin(1) == mine_y).float().mean().item()
written(table, dict.fromkeys(table, "{:.1%}"))

# %%
bars = {"pure chance": 0.1, **table.iloc[:, 0].to_dict()}
bars |= {"output gradients, C only the loss": rule, "single split: labels are sent": 1.0}
picture = Picture(figsize=(9, 2.9), layout="constrained")
axes = picture.subplots()
axes.barh(list(bars), list(bars.values()), color=["#bbbbbb", BLUE, BLUE, BLUE, ORANGE, ORANGE])
for row, value in enumerate(bars.values()):
    axes.text(value + 0.01, row, f"{value:.0%}", va="center", fontsize=9)
axes.invert_yaxis()
axes.set(xlim=(0, 1.12), xlabel="share of the 719 labels that the server knows or guesses")
axes.set_title("The server guesses most labels, with one known example of each class", fontsize=11)
found = ", ".join(f"{name}: {value:.0%}" for name, value in bars.items())
picture.alt = f"Bars: share of labels known to the server or guessed by it. {found}."
picture

# %% [markdown]
# **Explain:** the double split keeps labels off the wire, and that is worth something: nobody *reads* them. But a server that wants to know
# them, and has a handful of examples, guesses most. Gradients tell more than activations, because they were made from the labels. (And a good
# part needs no gradient at all: the pictures of a 3 look like other 3s. No protocol can change that.)
#
# ## 6 · What it costs
#
# Bytes and calls were recorded in section 1. On a link they become seconds. *Computing* is what a step took here, device and server on the same
# machine; it says nothing about a slow phone.
#
# **Predict:** how much longer than a single split does a double split take on a mobile link? Which part of that is waiting, which part is
# bytes?

# %%
sparse, half = "topk(0.25) | fp16 | zstd(1)", "fp16 | zstd(1)"
compact = se.Codecs(activations=sparse, outputs=half, output_gradients=half, input_gradients=sparse)
split = cut(digits_model(), ("pool", "flatten"))
with se.Trainer(split, server=server.url, codecs=compact) as trainer:
    sizes = [trainer.step(x, y) for _ in range(3)][-1].bytes
server.stop()

costs = {name: (row["calls"], row["B up"], row["B down"]) for name, row in arrangements.iterrows()}
costs["double, with codecs"] = (2, sizes["activations"].http + sizes["output_gradients"].http,
                                sizes["outputs"].http + sizes["input_gradients"].http)
links = [se.LINKS[name] for name in ("lan", "fios", "cable", "lte", "4g", "3g")]
seconds = pandas.DataFrame({
    link.name: {name: link.seconds(up, down, calls=calls) for name, (calls, up, down) in costs.items()}
    for link in links
})
more = seconds.loc["double at pool, flatten"] - seconds.loc["single at pool"]
waiting = pandas.Series({link.name: link.rtt_ms / 1000 for link in links}) / more
for name in ("single at pool", "double at pool, flatten"):
    print(f"computing a step, here: {1000 * arrangements.loc[name, 'seconds']:.0f} ms ({name})")
print("of what the double split takes longer, waiting is:",
      ", ".join(f"{name} {share:.0%}" for name, share in waiting.items()))
print("\nseconds on the link, for a training step of 32 pictures:")
written(seconds, dict.fromkeys(seconds, "{:.3f}"))

# %% [markdown]
# **Explain:** the double split pays a second round trip and two more messages. The printed line says how much of that is waiting: a good part
# where round trips are long (`lte`, `4g`), next to nothing where the line is slow (`fios`, `cable`). A codec takes away most of the bytes and
# none of the waiting.
#
# The paper measured whole systems, for an image of ResNet-50 (its Table 1): 9.6 s on the phone without a split, 2.55 s double, 1.74 s single,
# of which 1.60 s and 1.07 s were communication; 0.02 s at the server without a split. It names the double split as the setting for private use:
# what that costs more than the single split is the price of keeping the labels.
#
# **Exercise 06.5.** Cut at `pool`, or at `pool` and `flatten`, with a batch of **8** and the chain `raw`. On `se.LINKS["cable"]`, how many
# seconds more does a step of the double split spend on the link than one of the single split? Count the tensors only, and the calls.

# %%
answer = ...   # seconds
se.teach.check("06.5", answer)

# %% [markdown]
# ## What you have seen
#
# - **No split** on the device hides everything and leaves the device with all the work. At the server it sends few bytes, and hides nothing.
# - A **single split** sends activations, from which a decoder rebuilds the pictures, and it sends the labels.
# - A **double split** sends neither. Its server can still rebuild pictures if it knows A, and guess most labels if it knows a few.
# - A later cut and a codec make that harder. Neither makes it impossible, and both have a price.
# - So the right word is **privacy-aware, not privacy-preserving**. Who needs a guarantee needs more than a split: the paper names leakage as an
#   open problem, and NoPeek's distance correlation as one way to train A so that it reveals less.
#
# All of this was measured on small digits with a simple attack. Large photographs may be harder to rebuild. Do not take that for protection:
# measure it.
#
# **Go on** with lesson 07: your own network, your own codec, your own data.
#
# *Reference:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*, HotMobile
# '21, [arXiv 2011.04232](https://arxiv.org/abs/2011.04232).
