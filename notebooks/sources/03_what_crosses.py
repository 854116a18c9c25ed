# %% [markdown]
# # What crosses the wire
#
# A training step of a split network is a conversation: four messages, carried by two calls. Here you stand between device and server, note
# every byte that passes, and open a message with your own hands. After that, no figure about split learning will be a rumour to you.
#
# **You will learn**
# 1. to follow one training step, message by message, as it was recorded on a socket;
# 2. to read a frame without this package, in five lines;
# 3. where every byte goes: the tensors' **B·R·C·F**, and a surplus that you can name;
# 4. what a single split sends that a double split does not, and what a chain of codecs changes in the frame;
# 5. when the number of calls matters (the paper makes four, this package two unless it is told to do as the paper), and when it does not.
#
# It takes twenty minutes, computes for under half a minute, and needs no internet.

# %%
import json

import numpy as np
import pandas
import torch

import spliteasy as se
from spliteasy.pictures import Picture  # a matplotlib Figure that shows itself

train, test = se.data.digits()          # 8×8 pictures of handwritten digits
x, y = next(iter(se.data.loader(train, batch=32, seed=0)))
sgd = {"name": "SGD", "lr": 0.05, "momentum": 0.9}


def digits_split(at):
    """The digits network with the same initial weights each time, cut at one place or two."""
    torch.manual_seed(0)
    return se.split(se.load_model("digits_cnn"), at=at, input_shape=(1, 8, 8))


def written(table, formats):
    """The table with its numbers written as a reader wants them."""
    return table.assign(**{column: table[column].map(text.format) for column, text in formats.items()})


print(digits_split(("pool", "flatten")))

# %% [markdown]
# ## 1 · One step, recorded
#
# `se.LocalServer()` is a process of its own. `se.teach.Recorder` is a proxy: the device talks to it, it passes every byte on to the server and
# back, and it notes what passed. Neither side can tell the difference.
#
# **Predict:** a double split has four messages: `activations`, `outputs`, `output_gradients`, `input_gradients`. How many HTTP calls (a request
# and its answer) does one step need at least? What else has to be said, before the first step and after the last?

# %%
server = se.LocalServer().start()
split = digits_split(("pool", "flatten"))
expected = se.crossing_tensors(split, x, y)    # what the first step will send, computed here; changes nothing

with (
    se.teach.Recorder(server.url, keep=True) as recorder,
    se.Trainer(split, server=recorder.url, optimizer=sgd) as trainer,
):
    for _ in range(3):
        record = trainer.step(x, y)

sizes = ["request_head", "request_body", "answer_head", "answer_body"]
written(recorder.to_pandas()[["request", "answer", *sizes]], dict.fromkeys(sizes, "{:,}"))

# %% [markdown]
# **Explain:** two calls a step. A message that goes up is a request, and the next message down is its answer: while the server computes, the
# device simply waits for the answer. Before the first step, `open` sends the agreement (network, cuts, chains, optimizer) and B's initial
# weights. After the last one, `commit` settles the last update, `weights` brings B's weights home, and `close` ends the session.
#
# The four columns on the right are bytes on the socket. **Head** is what HTTP says about a message, **body** is the message itself.
#
# Here is the second step as a picture. Time goes downwards; the bars are work, the arrows are messages.

# %%
calls = {call.name: call for call in recorder.calls}
second = [calls["step 1 forward"], calls["step 1 backward"]]
recorder.chart(second, title="One step of a double split: two calls, four messages")

# %% [markdown]
# **Explain:** the two sides take turns. While B computes, the device has nothing to do, and the other way round. The milliseconds are those
# seen by the proxy, so they contain encoding, decoding and some waiting for a processor; longer bars are longer work, but not to scale.
#
# Inputs and labels are not in the picture: A starts from the inputs and C ends at the labels, and both are on the device.
#
# **Exercise 03.1.** The network is cut at `relu1` and `relu3` instead, with a batch of 48. How many bytes do the tensors of the four messages
# of one step take, before any codec and without headers? *(Lesson 01: B·R·C·F values at each cut. `se.find_cuts(model, input_shape, batch)`
# knows their sizes.)*

# %%
answer = ...   # bytes, a whole number
se.teach.check("03.1", answer)

# %% [markdown]
# ## 2 · Open a frame with your own hands
#
# The body of each message is a **frame**. It has the format of [safetensors](https://github.com/huggingface/safetensors): eight bytes that
# state the length of a header, the header as JSON text, and then the numbers. A stranger with any programming language can read it, and nothing
# in it is ever executed.
#
# **Predict:** what must a header say so that the other side can make a tensor of the bytes? And what should it say so that the other side can
# *refuse* them?

# %%
frame = calls["step 0 forward"].request_data        # the body of the first request, as it passed

length = int.from_bytes(frame[:8], "little")        # 1. how long is the header?
header = json.loads(frame[8 : 8 + length])          # 2. read it
about = json.loads(header.pop("__metadata__")["spliteasy"])
start, end = header["0:values"]["data_offsets"]     # 3. where are the numbers, counted from the header's end?
values = np.frombuffer(frame[8 + length :][start:end], dtype="<f4")

print("header:", header)
print("what the frame says about itself:")
for key, value in about.items():
    print(f"  {key:15} {value}")
print("the first numbers:", values[:6].round(3))
same = torch.equal(torch.tensor(values).view(32, 32, 4, 4), expected["activations"][0])
print("equal to A's output, to the bit:", same)

# %% [markdown]
# **Explain:** a **plane** is a named run of numbers in the frame. `0:values` is the only one here: the values of tensor 0, 16,384 numbers of
# four bytes, `F32`. What the frame says about itself:
#
# - `message`, `step`, `chain`, `tensors`: which message of which step this is, and what shape it has. The server knows what was agreed and
#   refuses anything else.
# - `commit`: the last step that the device has finished. The server applies its own update only then, so that a lost answer cannot leave the
#   two sides one step apart.
# - `needs_gradient`: for which tensors the device wants a gradient back.
#
# **Exercise 03.2.** Write a function that takes the bytes of any frame and returns the size in bytes of each of its planes, by name. For the
# frame above it would return `{"0:values": 65536}`. It needs no package but `json`.

# %%
answer = ...   # a function: frame (bytes) -> {name of plane: bytes}
se.teach.check("03.2", answer)

# %% [markdown]
# ## 3 · Every byte has a place
#
# What was counted on the socket must be explained to the last byte: the values (B·R·C·F times four bytes), the frame's header, the HTTP head.
#
# **Predict:** one message of this step has 65,536 bytes of values. How large is the surplus: 5 %, 1 %, 0.1 %? Does it grow with the batch?

# %%
def places(call):
    """Where the bytes of a call's two messages are."""
    rows = []
    for note, head, body in [(call.request, call.request_head, call.request_body),
                             (call.answer, call.answer_head, call.answer_body)]:
        rows.append({
            "message": note.message, "B·R·C·F": " · ".join(map(str, note.shapes[0])),
            "values": 4 * int(np.prod(note.shapes[0])), "frame header": note.header_bytes, "HTTP head": head,
            "on the socket": head + body,
        })
    return rows


table = pandas.DataFrame(places(calls["step 2 forward"]) + places(calls["step 2 backward"]))
table = table.set_index("message")
table["surplus"] = table["on the socket"] - table["values"]
table["surplus %"] = 100 * table["surplus"] / table["values"]
assert (table[["values", "frame header", "HTTP head"]].sum(axis=1) == table["on the socket"]).all()
assert table["on the socket"].to_dict() == {name: size.http for name, size in record.bytes.items()}
whole = dict.fromkeys(["values", "frame header", "HTTP head", "on the socket", "surplus"], "{:,}")
written(table, {**whole, "surplus %": "{:.2f}"})

# %% [markdown]
# **Explain:** the two assertions hold. The parts add up to what passed the socket, and what passed the socket is what the trainer had written
# into its own record (`record.bytes[...].http`). The surplus is some hundred bytes for each message, whatever its size.
#
# **Predict:** then what is it for a batch of one?

# %%
def surplus(batch):
    """The surplus of the activations for a batch of this size, recorded."""
    split = digits_split(("pool", "flatten"))
    with se.teach.Recorder(server.url) as one, se.Trainer(split, server=one.url) as trainer:
        trainer.step(x[:batch], y[:batch])
    call = one.calls[1]                             # calls[0] opened the session
    return call.up - call.request.plane_bytes, call.request.plane_bytes


for batch in (1, 4, 32):
    more, planes = surplus(batch)
    print(f"batch {batch:2}: {planes:6,} bytes of values, {more} more: {more / planes:6.2%}")

# %% [markdown]
# **Explain:** the surplus is nearly constant, so its share falls as the batch or the network grows. Training with one small sample at a time is
# not only slow, it also sends a quarter more than it must.
#
# **Exercise 03.3.** From which batch on is the surplus of the `activations` at `pool` at most **one per cent** of the values? Count all of the
# surplus: frame header and HTTP head.

# %%
answer = ...   # a number of samples
se.teach.check("03.3", answer)

# %% [markdown]
# ## 4 · What a chain changes in the frame
#
# A chain of codecs is agreed for each message when the session opens. It does not change the calls. It changes which planes are in the frame.
#
# **Predict:** `topk(0.1)` keeps the largest tenth of the values. Must a frame say anything beyond these values? And what does `fp16 | zstd(1)`
# change behind it?

# %%
chains = ["raw", "fp16", "int8", "topk(0.1)", "topk(0.1) | fp16", "topk(0.1) | fp16 | zstd(1)"]
frames = {}
for chain in chains:
    split = digits_split(("pool", "flatten"))
    with se.teach.Recorder(server.url) as one, se.Trainer(split, server=one.url, codecs=chain) as trainer:
        trainer.step(x, y)
    frames[chain] = one.calls[1]

for chain, call in frames.items():
    planes = call.request.planes.items()
    print(f"{chain:27} " + ", ".join(f"{name} {plane.dtype} {plane.nbytes:,} B" for name, plane in planes))

# %% [markdown]
# The number before the colon is the tensor, the one before the dot the stage of the chain that wrote the plane.

# %%
parts = {"values": [], "what the decoder needs beside them": [], "frame header": [], "HTTP head": []}
for call in frames.values():
    values = sum(plane.nbytes for name, plane in call.request.planes.items() if name.endswith("values"))
    beside = call.request.plane_bytes - values
    counted = [values, beside, call.request.header_bytes, call.request_head]
    for sizes, size in zip(parts.values(), counted, strict=True):
        sizes.append(size)

picture = Picture(figsize=(9, 3.4), layout="constrained")
axes = picture.subplots()
left = np.zeros(len(chains))
for (name, sizes), color in zip(parts.items(), ["#2f7fd6", "#9dc3ee", "#777777", "#cccccc"], strict=True):
    axes.barh(chains, sizes, left=left, color=color, label=name)
    left += sizes
for row, total in enumerate(left):
    axes.text(total + 600, row, f"{total:,.0f} B", va="center", fontsize=9)
axes.invert_yaxis()
axes.set_xlim(0, 80_000)
axes.set_xlabel("bytes of the activations on the socket, batch 32")
axes.set_title("The smaller the values, the more everything else counts", fontsize=11)
axes.legend(fontsize=8, frameon=False, loc="lower right")
share = 100 * (1 - parts["values"][-1] / left[-1])
picture.alt = ("Stacked bars: bytes of one message on the socket by chain. "
               + ", ".join(f"{chain}: {total:,.0f}" for chain, total in zip(chains, left, strict=True))
               + f". In the last one {share:.0f} % are not values but positions and headers.")
picture

# %% [markdown]
# **Explain:** whoever sends some of the values must say *which*: `positions` is a plane of its own. After `fp16` the values take half as much,
# the positions just as much as before. `zstd` writes a plane compressed only if that makes it smaller. Headers now are a good part of the
# message. This is why this package counts on the socket: a ratio computed from the values alone would look far better than what the link gets
# to feel.
#
# ## 5 · Single or double: the labels
#
# In a **single split** there is no C. The loss is computed on the server, so the server must know the labels.
#
# **Predict:** how many calls does a step of a single split need? Which plane appears in its first frame, in which type, and how many bytes does
# it take for 32 labels?

# %%
with (
    se.teach.Recorder(server.url, keep=True) as listener,
    se.Trainer(digits_split("pool"), server=listener.url, optimizer=sgd) as trainer,
):
    for _ in range(3):
        trainer.step(x, y)

single = {call.name: call for call in listener.calls}
rows = []
for name, found in [("double", calls), ("single", single)]:
    step = [call for key, call in found.items() if key.startswith("step 1")]
    sent = b"".join(call.request_data for call in step)
    rows.append({
        "split": name, "calls": len(step), "B up": sum(c.up for c in step), "B down": sum(c.down for c in step),
        "labels among the bytes sent": y.numpy().tobytes() in sent,
        "pictures among them": x.numpy().tobytes() in sent,
    })
for name, plane in single["step 1 forward"].request.planes.items():
    print(f"{name:9} {plane}")
written(pandas.DataFrame(rows).set_index("split"), {"B up": "{:,}", "B down": "{:,}"})

# %%
listener.chart([single["step 1 forward"]], title="One step of a single split: one call, labels included")

# %% [markdown]
# **Explain:** one call instead of two, and half the waiting. The price is the plane `labels`, 64-bit integers, readable by anyone who reads the
# frame. The double split pays with a second round trip and two more messages, and its server has seen no label. (Lesson 06 asks whether it can
# guess them.)
#
# **Exercise 03.4.** Play the server's curious operator. Write a function that takes the bytes of the `activations` frame of a single split and
# returns the labels as a list of whole numbers. Your function should work wherever the plane lies in the frame. Try it on `single["step 1
# forward"].request_data`.

# %%
answer = ...   # a function: frame (bytes) -> list of labels
se.teach.check("03.4", answer)

# %% [markdown]
# ## 6 · Two calls or four
#
# The paper's system makes **four** calls a step. The device posts the activations; when B is done, the server sends a notice on a socket that
# is kept open; the device then *gets* the outputs; and the same again for the gradients. This package answers the call itself instead;
# `se.Trainer(..., protocol="four-call")` does as the paper does, with the same bits in the end.
#
# The left chart was **recorded** above. The right one was **not recorded**: it is drawn from the paper's description, and its bars
# have no times.

# %%
from spliteasy.teach.chart import Moment, draw_sequence, moments_of

paper = [
    Moment("device", "A forward"),
    Moment("up", "call 1: POST activations"),
    Moment("server", "B forward"),
    Moment("notice", "notice: outputs are ready"),
    Moment("up", "call 2: GET"),
    Moment("down", "outputs"),
    Moment("device", "C forward, loss,\nC backward"),
    Moment("up", "call 3: POST output_gradients"),
    Moment("server", "B backward,\nupdate"),
    Moment("notice", "notice: input_gradients are ready"),
    Moment("up", "call 4: GET"),
    Moment("down", "input_gradients"),
    Moment("device", "A backward,\nupdate"),
]
picture = Picture(figsize=(11, 5.2), layout="constrained")
left, right = picture.subplots(1, 2)
draw_sequence(left, moments_of(second, calls["step 0 backward"]), "recorded: this package, two calls")
draw_sequence(right, paper, "drawn from the paper: four calls and two notices")
picture.alt = (
    "Two sequence charts. Left, recorded: two calls, so the line between device and server is crossed four times in a "
    "step. Right, drawn from the paper: four calls with two notices, so it is crossed eight times before A can go on."
)
picture

# %% [markdown]
# **Explain:** count how often the line is crossed one after the other: four times on the left, eight times on the right (post, notice, get,
# answer; twice). Two crossings are one round trip. So the paper's step waits for four round trips and ours for two, even if nobody waits for
# the answers to the posts. The bytes of the tensors are the same.
#
# **Predict:** on which of these links does that matter most? For the small digits network, or for ResNet-50 cut at `maxpool` and `flatten`?

# %%
resnet = se.find_cuts(se.load_model("resnet50"), input_shape=(3, 224, 224), batch=32)
each_way = {
    "digits_cnn, batch 32": sum(tensor.nbytes for tensor in expected["activations"] + expected["outputs"]),
    "ResNet-50, batch 32": resnet["maxpool"].nbytes + resnet["flatten"].nbytes,
}
places = {name: se.LINKS[name] for name in ("lan", "fios", "cable", "lte", "4g", "3g")}
rows = []
for network, size in each_way.items():
    for name, link in places.items():
        four, two = (link.seconds(up_bytes=size, down_bytes=size, calls=number) for number in (4, 2))
        rows.append({"network": network, "link": name, "round trip ms": link.rtt_ms,
                     "4 calls, s": four, "2 calls, s": two, "saved": 1 - two / four})
links = pandas.DataFrame(rows).set_index(["network", "link"])
three = "{:.3f}"
written(links, {"round trip ms": "{:.0f}", "4 calls, s": three, "2 calls, s": three, "saved": "{:.1%}"})

# %%
sizes = np.logspace(3, 8, 100)
picture = Picture(figsize=(9, 3.8), layout="constrained")
axes = picture.subplots()
colors = ["#1f4e8c", "#2f7fd6", "#1fa187", "#e8912d", "#c2571a", "#8c2d04"]
for (name, link), color in zip(places.items(), colors, strict=True):
    saved = [100 * (1 - link.seconds(s, s, calls=2) / link.seconds(s, s, calls=4)) for s in sizes]
    label = f"{name} ({link.up_mbps:g} up, {link.down_mbps:g} down Mbit/s, {link.rtt_ms:g} ms)"
    axes.plot(sizes, saved, color=color, label=label)
for network, size in each_way.items():
    axes.axvline(size, color="#888888", linewidth=0.8, linestyle=":")
    axes.text(size * 1.08, 51, network, fontsize=8, color="#555555")
axes.set(xscale="log", xlabel="bytes a step in each direction", ylabel="time on the link saved, %", ylim=(0, 56))
axes.set_title("Fewer calls save up to half of the time for small messages, nothing for large ones", fontsize=11)
axes.legend(fontsize=8, frameon=False)
small, large = (links.loc[(network, "4g"), "saved"] for network in each_way)
picture.alt = (
    "Lines: share of the time on the link saved by two calls instead of four, against bytes a step, for six links. "
    "All fall from 45 to 50 % at a kilobyte to nearly nothing at 100 MB. "
    f"On 4g: {small:.0%} for the digits network, {large:.1%} for ResNet-50."
)
picture

# %% [markdown]
# **Explain:** a round trip costs the same for one byte as for a million. Where the messages are small for the link, the waiting is the cost,
# and half of it goes away. For ResNet-50 the line is busy for a long time anyway, and two round trips more are not felt: there, **send less**.
# A good codec moves you to the left in this picture, to where calls count again.
#
# Do these formulas hold for a real step? A trainer with `link=` emulates the link: real processes, real sockets, and for every call the time
# that the link would take.

# %%
link = se.LINKS["lte"]
with se.Trainer(digits_split(("pool", "flatten")), server=server.url, link=link) as trainer:
    steps = [trainer.step(x, y) for _ in range(3)]
server.stop()

sent = steps[-1].bytes
up, down = (sum(sent[name].http for name in names)
            for names in [("activations", "output_gradients"), ("outputs", "input_gradients")])
print(f"computed from the bytes: {link.seconds(up, down, calls=2):.3f} s on the link")
spent = steps[-1].seconds
print(f"the step's record:       {spent['link']:.3f} s on the link, {spent['total']:.3f} s in all")

# %% [markdown]
# **Exercise 03.5.** On `se.LINKS["lte"]`, two calls instead of four save some time in every step. How many bytes could the device send **up**
# in that time?

# %%
answer = ...   # bytes, a number
se.teach.check("03.5", answer)

# %% [markdown]
# ## What you have seen
#
# - A step of a double split is two calls with four messages; a single split needs one call, and sends the labels.
# - A frame is eight bytes, a JSON header and planes of numbers. You can read it, and so can everyone it passes.
# - What passes the socket is B·R·C·F values and a surplus of some hundred bytes a message, explained to the last byte.
# - A chain changes the planes: sparse values need positions. Only bytes on the socket tell what was saved.
# - Round trips count where messages are small; bytes count where they are large.
#
# **Go on** with lesson 04: two of the four messages are gradients, and the paper has its own way to hand them on.
#
# *References:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*, HotMobile
# '21, [arXiv 2011.04232](https://arxiv.org/abs/2011.04232), whose four calls are drawn above. The format of frames:
# [safetensors](https://github.com/huggingface/safetensors).
