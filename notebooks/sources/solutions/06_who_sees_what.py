# %% [markdown]
# # Solutions to lesson 06: who sees what, and what it costs
#
# Each answer is computed, and each comes with the reason. Try for yourself first.

# %%
import itertools

import torch

import spliteasy as se

torch.manual_seed(0)
torch.set_num_threads(1)
model = se.load_model("digits_cnn")
pictures, labels = se.data.digits()[0].tensors
own, mine = pictures[:300], pictures[300:600]        # the server's, and the device's

# %% [markdown]
# **06.1.** Labels stay only in a double split, and the classifier stays only if the second cut comes before it. Of the pairs that leave B
# enough of the work, we take the one with the fewest bytes. Bytes are counted at both cuts, so one of them should be at the narrow place behind
# the pooling. Several pairs are equally good.

# %%
cuts = se.find_cuts(model, input_shape=(1, 8, 8), batch=32)
whole = cuts["classifier"].macs_before
pairs = []
for first, second in itertools.combinations([cut for cut in cuts if cut.name not in ("input", "classifier")], 2):
    work = (first.macs_before + whole - second.macs_before) / whole
    if work <= 0.6:
        pairs.append((2 * (first.nbytes + second.nbytes), work, first.name, second.name))
least = min(pairs)[0]
for size, work, first, second in pairs:
    if size == least:
        print(f"{first}, {second}: {size:,} bytes a step, {work:.0%} of the work on the device")
answer = min(pairs)[2:]
se.teach.check("06.1", answer)

# %% [markdown]
# **06.2.** One row for each activation, all distances, the smallest in each row. Similar pictures make similar activations: otherwise the
# network could not classify them. That same property helps the attacker.

# %%
def attack(own_activations, own_pictures, seen_activations):
    distances = torch.cdist(seen_activations.flatten(1), own_activations.flatten(1))    # seen × own
    return own_pictures[distances.argmin(1)]


answer = attack
se.teach.check("06.2", answer)

# %% [markdown]
# **06.3.** A rectifier lets no negative value through. `sign` sends one bit for each value, and here they are all the same. What arrives does
# not depend on the picture, so no decoder can get anything from it. Neither can B: a network trained so learns nothing. `topk(0.002)` looks
# more radical, as it keeps a single value of 512. But its *position* depends on the picture.

# %%
a = se.split(model, at="pool", input_shape=(1, 8, 8)).eval().a
with torch.no_grad():
    sent = a(mine)
for text in ("int4", "sign", "topk(0.002) | fp16", "bf16"):
    chain = se.codec(text)
    received = chain.decode(chain.encode(sent))
    differing = (received != received[:1]).flatten(1).any(1).sum().item()
    print(f"{text:20} {differing} of {len(mine) - 1} other pictures arrive different from the first")
answer = "sign"
se.teach.check("06.3", answer)

# %% [markdown]
# **06.4.** The gradient of the cross-entropy for the class scores is (p − t)/B. All p are positive; only at the true class 1 is subtracted. So
# the smallest number of each row is at the label. `argmin` also works where rounding has made p equal to 1 and no number is negative.

# %%
def labels_from(gradients):
    return gradients.argmin(1)


split = se.split(model, at=("pool", "classifier"), input_shape=(1, 8, 8))
gradients = se.crossing_tensors(split, pictures, labels)["output_gradients"][0]
print(f"{(labels_from(gradients) == labels).float().mean():.1%} of {len(labels)} labels")
answer = labels_from
se.teach.check("06.4", answer)

# %% [markdown]
# **06.5.** What is sent at `pool` is the same in both. The double split adds the outputs (down), the output gradients (up), both of the size at
# `flatten`, and one call with its round trip.

# %%
extra = se.find_cuts(model, input_shape=(1, 8, 8), batch=8)["flatten"].nbytes
answer = se.LINKS["cable"].seconds(up_bytes=extra, down_bytes=extra, calls=1)
print(f"{extra:,} bytes each way and a round trip: {answer:.3f} s")
se.teach.check("06.5", answer)
