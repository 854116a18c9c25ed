# %% [markdown]
# # Solutions to lesson 03: what crosses the wire
#
# Each answer is computed, and each comes with the reason. Try for yourself first.

# %%
import json

import numpy as np
import torch

import spliteasy as se

# %% [markdown]
# **03.1.** Each cut is crossed twice: once by values on the way forward, once by their gradients on the way back, which have the same shape. So
# the answer is twice the sum of B·R·C·F at the two cuts, with four bytes for each value. That gradients come back is what is forgotten most
# often.

# %%
cuts = se.find_cuts(se.load_model("digits_cnn"), input_shape=(1, 8, 8), batch=48)
answer = 2 * (cuts["relu1"].nbytes + cuts["relu3"].nbytes)
print(f"{answer:,} bytes")
se.teach.check("03.1", answer)

# %% [markdown]
# **03.2.** The first eight bytes are the length of the header, the lowest byte first. Each entry of the header but `__metadata__` is a plane,
# and its two `data_offsets` are where it begins and ends. The difference is its size, whatever its type: no table of types is needed.

# %%
def planes(frame):
    length = int.from_bytes(frame[:8], "little")
    header = json.loads(frame[8 : 8 + length])
    del header["__metadata__"]
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: end - start for name, (start, end) in places.items()}


answer = planes
se.teach.check("03.2", answer)

# %% [markdown]
# **03.3.** The surplus is nearly the same for every batch, so it is enough to record it once. At `pool` a sample has 4·4·32 values of four
# bytes. The surplus is one per cent where the values are a hundred times as many bytes.

# %%
train, _ = se.data.digits()
x, y = next(iter(se.data.loader(train, batch=32, seed=0)))


def recorded(at):
    """The first call of a step, recorded."""
    split = se.split(se.load_model("digits_cnn"), at=at, input_shape=(1, 8, 8))
    with se.teach.Recorder(server.url, keep=True) as recorder, se.Trainer(split, server=recorder.url) as trainer:
        trainer.step(x, y)
    return recorder.calls[1]


server = se.LocalServer().start()
call = recorded(("pool", "flatten"))
surplus = call.up - call.request.plane_bytes
sample = call.request.plane_bytes / len(x)
print(f"surplus {surplus} bytes, a sample {sample:.0f} bytes")
answer = int(np.ceil(100 * surplus / sample))
print("from batch", answer)
se.teach.check("03.3", answer)

# %% [markdown]
# **03.4.** The plane is called `labels`. Its offsets count from the end of the header, so 8 bytes and the header's length come before them, and
# `I64` is an integer of eight bytes. Planes with wide elements come first in a frame, so in this one the labels happen to be the first; a
# function that relies on it fails when the values are `float64`.

# %%
def labels(frame):
    length = int.from_bytes(frame[:8], "little")
    start, end = json.loads(frame[8 : 8 + length])["labels"]["data_offsets"]
    return np.frombuffer(frame[8 + length :][start:end], dtype="<i8").tolist()


frame = recorded("pool").request_data
server.stop()
print(labels(frame)[:10], "the batch:", torch.equal(torch.tensor(labels(frame)), y))
answer = labels
se.teach.check("03.4", answer)

# %% [markdown]
# **03.5.** Two calls fewer are two round trips fewer. In that time, the link's bandwidth (bits a second, eight bits to a byte) could have
# carried this many bytes. Compare it with your messages: much smaller ones wait, much larger ones send.

# %%
link = se.LINKS["lte"]
seconds = link.seconds(0, 0, calls=4) - link.seconds(0, 0, calls=2)
answer = seconds * link.up_mbps * 1e6 / 8
print(f"{seconds:.2f} s, {answer:,.0f} bytes")
se.teach.check("03.5", answer)
