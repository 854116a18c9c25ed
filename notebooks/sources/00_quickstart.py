# %% [markdown]
# # Split learning in ten minutes
#
# A phone has the pictures, a server has the power. **Split learning** trains one network on both: the first layers run on the
# *device*, the rest on a *server*, and only the tensors at the cut travel. The pictures stay where they are.
#
# **You will learn**
# 1. how to cut a network in two or three segments, and that nothing about its arithmetic changes, to the last bit;
# 2. how to train it across two real processes, and what crosses the wire in each step;
# 3. how much a codec saves, and what it costs.
#
# It takes ten minutes, computes for less than one, and needs no internet. **How to use it:** make up your mind at every *Predict*, run the
# cell, compare with *Explain*, and answer the exercises. `se.teach.check` tells you at once, with a hint if something is not right yet.

# %%
import copy

import torch
import torch.nn.functional as F

import spliteasy as se

torch.set_num_threads(1)                # small networks train faster on one
torch.manual_seed(0)
model = se.load_model("digits_cnn")     # a small network for 8×8 pictures of digits
train, test = se.data.digits()          # 1,438 pictures to learn from, 359 to test on
len(train), len(test)

# %% [markdown]
# ## 1 · Where can it be cut?
#
# Between any two operations. Each line of the table is one such place, called a **cut**. The shape is **B·F·R·C**: samples in the batch,
# feature maps, rows, columns. Their product is the number of values that cross the wire there.
#
# **Predict:** the pooling layer (`pool`) keeps one value of every 2 × 2 square. By what factor do the bytes shrink there?

# %%
se.find_cuts(model, input_shape=(1, 8, 8), batch=32)

# %% [markdown]
# **Explain:** by four, from 0.262 to 0.066 MB: half the rows and half the columns. Note also that the cut after `conv1` is sixteen times as
# large as the input. The first layers of a network make data larger before they make it smaller.
#
# **Exercise 00.1.** How many bytes does A send for a batch of **64** pictures if the network is cut after `relu3` and nothing is compressed?

# %%
answer = ...   # a number of bytes
se.teach.check("00.1", answer)

# %% [markdown]
# ## 2 · Two segments equal one network
#
# We cut after `pool`. Segment **A** would run on the device, segment **B** on the server. Both share the parameters of `model`.

# %%
split = se.split(model, at="pool", input_shape=(1, 8, 8))
print(split)

x, y = next(iter(se.data.loader(test, batch=32, seed=0)))
split.eval()
crossing = split.a(x)                   # what A sends
whole, parts = model(x), split.b(crossing)
print("crossing the cut:", tuple(crossing.shape), "=", crossing.numel(), "values")
print("equal to the bit:", torch.equal(whole, parts))

# %% [markdown]
# That was the way forward. Training also needs the way back: B computes the gradient of the loss at the cut and sends it to A, which goes on
# from there. Below, one network is trained as a whole and its copy in segments, for one pass over the pictures.
#
# **Predict:** how far apart are the two networks afterwards? They have batch normalization, dropout and momentum, and small differences grow.

# %%
whole = copy.deepcopy(model).train()
optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
trainer = se.Trainer(split, optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9})     # one process

for step, (x, y) in enumerate(se.data.loader(train, batch=32, seed=0)):
    torch.manual_seed(se.step_seed(0, step))          # dropout draws the same numbers in both
    loss = F.cross_entropy(whole(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    record = trainer.step(x, y)
    assert record.loss == loss.item()

parts = split.state_dict()
same = [torch.equal(value, parts[name]) for name, value in whole.state_dict().items()]
print(f"{step + 1} steps; {sum(same)} of {len(same)} tensors equal to the bit; loss {loss.item():.4f}")


# %% [markdown]
# **Explain:** not at all. Every parameter and every batch-norm statistic is equal by `torch.equal`. Cutting moves the same operations in the
# same order to two places, and what crosses the cut is sent as it is. So whatever differs later comes from compression, not from the split.
#
# ## 3 · A real server
#
# Now A and B run in two processes and talk over HTTP. And we cut twice: **A** and **C** on the device, **B** on the server (a *double split*,
# also called U-shaped). In a single split the server holds the loss, so the labels travel with the activations. In a double split the last
# layers and the loss are back on the device: **neither pictures nor labels leave it**. Four messages travel in every step:
#
# | message | from → to | what it is |
# |---|---|---|
# | `activations` | A → B | the output of the device's first layers |
# | `outputs` | B → C | the output of the server's layers |
# | `output_gradients` | C → B | the loss's gradient at the second cut |
# | `input_gradients` | B → A | the loss's gradient at the first cut |
#
# **Predict:** we cut after `pool` and after `flatten`. Which message has the most bytes? The table of section 1 has all you need.

# %%
def run(codecs, epochs=2):
    torch.manual_seed(0)
    split = se.split(se.load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))
    optimizer = {"name": "SGD", "lr": 0.05, "momentum": 0.9}
    with se.Trainer(split, server=server.url, codecs=codecs, optimizer=optimizer) as trainer:
        for epoch in range(epochs):
            log = trainer.fit(se.data.loader(train, batch=32, seed=epoch), progress=False)
        return log, trainer.evaluate(se.data.loader(test, batch=128, seed=0)).accuracy


server = se.LocalServer().start()       # a process of its own, on a free port of this machine
raw, raw_accuracy = run("raw")
print(f"test accuracy {100 * raw_accuracy:.1f} %")
raw

# %% [markdown]
# **Explain:** the two at the second cut. `flatten` has 1,024 values a picture, `pool` has 512. A gradient has the shape of what it is the
# gradient of, so the messages come in pairs of equal size. `raw` is the tensors alone, `frame` is with the words that describe them, and
# `http` is what really went over the socket, headers and all.

# %%
raw.plot()

# %% [markdown]
# **Exercise 00.2.** In a double split the labels stay on the device. Which of the four messages **that leaves the device** is computed
# from them?

# %%
answer = ...   # the name of a message, such as "activations"
se.teach.check("00.2", answer)

# %% [markdown]
# ## 4 · Send less
#
# A **codec** shrinks what is sent, and codecs are put in a row, a **chain**: `topk(0.25)` keeps the largest quarter of each sample's values,
# `fp16` halves the numbers' width, `zstd(1)` is a lossless compressor. Each of the four messages can have a chain of its own.
#
# **Predict:** what happens to the bytes, and what to the accuracy?

# %%
few = se.Codecs(
    activations="topk(0.25) | fp16 | zstd(1)",
    outputs="fp16 | zstd(1)",
    output_gradients="fp16 | zstd(1)",
    input_gradients="topk(0.25) | fp16 | zstd(1)",
)
compressed, compressed_accuracy = run(few)
server.stop()
print(f"test accuracy {100 * compressed_accuracy:.1f} % (raw: {100 * raw_accuracy:.1f} %)")
compressed

# %% [markdown]
# **Explain:** `saving` is how many times fewer bytes went over the socket. For the two messages at the first cut: a quarter of the values at
# half their width is eight times fewer, less what it takes to say *which* quarter. At the second cut zstd finds the zeros that the rectifier
# leaves in the `outputs`; their gradients have fewer, so they shrink less. The accuracy moved as well. With another
# seed it moves too, by a point or three: one run cannot tell harm from luck. Lesson 05 is about that.
#
# **Exercise 00.3.** Many links are slower up than down. Write an `se.Codecs` that makes **both messages that the device sends** at least three
# times smaller, and leaves both that it receives `raw`. An 8-bit codec is called `int8`.

# %%
answer = ...   # se.Codecs(...)
se.teach.check("00.3", answer)

# %% [markdown]
# ## What you have seen
#
# - A network can be cut between any two operations; trained in segments it equals the whole network **to the bit**.
# - In a double split only activations and gradients leave the device; pictures and labels never do.
# - Four messages travel in a step. Each has a size that follows from the cut, and a chain of its own.
# - What is sent can be compressed, and both the saving and its price can be measured.
#
# **Go on** with `01_where_to_cut.ipynb`: the best place to cut is not the first one that comes to mind. Answers and reasons are in
# `solutions/00_quickstart.ipynb`.
#
# *Reference:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*, HotMobile '21,
# [arXiv 2011.04232](https://arxiv.org/abs/2011.04232).
