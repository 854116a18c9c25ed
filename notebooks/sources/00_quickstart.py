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
# It runs in under a minute on a laptop, without internet.

# %%
import copy

import torch
import torch.nn.functional as F

import spliteasy as se

torch.manual_seed(0)
model = se.load_model("digits_cnn")     # a small network for 8×8 pictures of digits
train, test = se.data.digits()          # 1,438 pictures to learn from, 359 to test on
len(train), len(test)

# %% [markdown]
# ## 1 · Where can it be cut?
#
# Between any two operations. Each line below is one place; the shape is **B·F·R·C**: samples in the batch, feature maps, rows, columns.
# Their product is the number of values that would cross the wire there, in every step, in each direction.

# %%
se.find_cuts(model, input_shape=(1, 8, 8), batch=32)

# %% [markdown]
# **Predict** before you go on: the pooling layer (`pool`) halves rows and columns. By what factor do the bytes at the cut shrink
# compared with `relu2` just before it? *(Answer: 2·2 = 4. Look at the MB column: 0.262 → 0.066.)*
#
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
# That was the way forward. Training also needs the way back: B computes the gradient of the loss at the cut and sends it to A,
# which goes on from there. Below, one network is trained as a whole and its copy in segments. Every parameter, every
# batch-norm statistic and the optimizer's momentum must agree, and *agree* means `torch.equal`, not "nearly".

# %%
whole = copy.deepcopy(model).train()
optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
trainer = se.Trainer(split, optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9})   # no server: one process

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
# ## 3 · A real server
#
# Now A and B run in two processes and talk over HTTP. And we cut twice: **A** and **C** on the device, **B** on the server
# (a *double split*, also called U-shaped). In a single split the server holds the loss, so the labels travel with the activations.
# In a double split the last layers and the loss are back on the device: **neither pictures nor labels leave it**.
#
# | message | from → to | what it is |
# |---|---|---|
# | `activations` | A → B | the output of the device's first layers |
# | `outputs` | B → C | the output of the server's layers |
# | `output_gradients` | C → B | the loss's gradient at the second cut |
# | `input_gradients` | B → A | the loss's gradient at the first cut |

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
# `http` is what really went over the socket, with all headers. The small surplus over `raw` is the price of describing each message.

# %%
raw.plot()

# %% [markdown]
# ## 4 · Send less
#
# A **codec** shrinks what is sent, and codecs are chained: `topk(0.1)` keeps the largest tenth of each sample's values, `fp16` halves the
# numbers' width, `zstd(1)` is a lossless compressor. Each of the four messages can have a chain of its own. **Predict:** what happens to the
# bytes, and what to the accuracy?

# %%
few = se.Codecs(
    activations="topk(0.25) | fp16 | zstd(1)",
    outputs="fp16 | zstd(1)",
    output_gradients="fp16 | zstd(1)",
    input_gradients="topk(0.25) | fp16 | zstd(1)",
)
compressed, compressed_accuracy = run(few)
print(f"test accuracy {100 * compressed_accuracy:.1f} % (raw: {100 * raw_accuracy:.1f} %)")
compressed

# %%
server.stop()
compressed.plot()

# %% [markdown]
# ## What you have seen
#
# - A network can be cut between any two operations; trained in segments it equals the whole network **to the bit**.
# - In a double split only activations and gradients leave the device; pictures and labels never do.
# - What is sent can be compressed, and both the saving and its price can be measured.
#
# **Go on** with `01_where_to_cut.ipynb`: the best place to cut is not the first one that comes to mind.
#
# *Reference:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*, HotMobile '21,
# [arXiv 2011.04232](https://arxiv.org/abs/2011.04232).
