# %% [markdown]
# # Solutions to lesson 08: the best cut
#
# Each answer is computed, and each comes with the reason. Try for yourself first.

# %%
import torch

import spliteasy as se

torch.set_num_threads(1)
torch.manual_seed(0)
cuts = se.find_cuts(se.load_model("resnet18", num_classes=10), input_shape=(3, 64, 64), batch=8)

# %% [markdown]
# **08.1.** Five terms. A takes five times 0.03 s on the slow device, B half of 0.09 s on the fast server. The activations go up, and a gradient of
# the same size comes down, each with its own bandwidth, and bandwidths are in bits. One call, so one round trip.

# %%
size = cuts["layer2.1.relu_1"].nbytes
terms = {"A": 0.03 * 5, "B": 0.09 / 2, "up": 8 * size / 20e6, "down": 8 * size / 50e6, "round trip": 0.040}
for name, seconds in terms.items():
    print(f"{name:10} {seconds:.4f} s")
answer = sum(terms.values())
print(f"{'a step':10} {answer:.4f} s")
se.teach.check("08.1", answer)

# %% [markdown]
# **08.2.** The same sum for every cut, and the place of the least. What does not depend on the cut (the round trip) could be left out: it moves
# nothing. The server's part must not be left out: what the device does not compute, the server does.

# %%
def my_plan(before, total, nbytes, link, device):
    """The number of the cut with the least seconds a step."""
    pairs = zip(before, nbytes, strict=True)
    steps = [a / device + (total - a) + link.seconds(size, size, calls=1) for a, size in pairs]
    return steps.index(min(steps))


answer = my_plan
se.teach.check("08.2", answer)

# %% [markdown]
# **08.3.** A cut further back means more computing on the device and fewer bytes. That is worth it when the device's computing becomes cheaper
# beside the bytes: with a faster device. The other changes make bytes cheaper, computing dearer, or move nothing. To see it, we take the
# multiply-accumulates for the computing, and our own planner, on `lte`.

# %%
split_here = list(cuts)[1:]                                          # not at the input
before = [6e-10 * cut.macs_before for cut in split_here]
total = before[-1]
sizes = [cut.nbytes for cut in split_here]
lte = se.LINKS["lte"]
for words, link, device in [
    ("as it is", lte, 0.1),
    ("a faster link", se.Link(240, 240, 70), 0.1),
    ("a slower device", lte, 0.005),
    ("a faster device", lte, 1.0),
    ("a longer round trip", se.Link(12, 12, 1400), 0.1),
]:
    number = my_plan(before, total, sizes, link, device)
    print(f"{words:20} cut {split_here[number].index:2} of {len(split_here)}: {split_here[number].name}")
answer = "a faster device"
se.teach.check("08.3", answer)

# %% [markdown]
# **08.4.** Three limits, one argument each. `max_bytes` is for all messages of a step together, both ways, in bytes.

# %%
answer = se.Constraints(labels_on_device=True, min_operations=3, max_bytes=500_000)
se.teach.check("08.4", answer)

# %% [markdown]
# **08.5.** One that was predicted slower is the fastest in truth, if it takes up to 5 % less than predicted while the first takes up to 5 % more.
# So compare the fastest that it can be with the slowest that the first can be. All that pass this test are equal as far as the prediction
# can say.

# %%
predicted = [0.400, 0.415, 0.428, 0.439, 0.445, 0.470]
slowest_of_first = 1.05 * min(predicted)
for seconds in predicted:
    found = "possible" if 0.95 * seconds <= slowest_of_first else "no"
    print(f"{seconds:.3f} s may be {0.95 * seconds:.4f} s: {found}")
answer = sum(0.95 * seconds <= slowest_of_first for seconds in predicted)
se.teach.check("08.5", answer)
