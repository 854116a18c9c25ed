# %% [markdown]
# # Solutions: does accuracy survive?
#
# Try first. Each answer below is computed, with a word on why.

# %%
import math
import statistics

import torch

import spliteasy as se

# %% [markdown]
# **05.1.** Match by seed, not by place in the list: a seed that diverged is missing, and the order may differ. A share times 100 is points.
# The standard deviation is that of the **differences**, estimated from a sample (n − 1), and the mean of n of them is √n times more certain
# than one.

# %%
def paired(chain, raw):
    differences = [100 * (chain[seed] - raw[seed]) for seed in chain if seed in raw]
    return statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5


se.teach.check("05.1", paired)

# %% [markdown]
# **05.2.** Two standard errors are 2 · 0.8 / √n, and shall be 0.25. So √n = 2 · 0.8 / 0.25 = 6.4, and n is its square, rounded up. Half the
# loss would take four times as many seeds.

# %%
seeds = math.ceil((2 * 0.8 / 0.25) ** 2)
print(seeds)
se.teach.check("05.2", seeds)

# %% [markdown]
# **05.3.** Draw ten, take the largest, many times. It is about one and a half standard deviations above the truth, though nobody did
# anything but choose.

# %%
draws = 0.5 * torch.randn(200_000, 10, generator=torch.Generator().manual_seed(0))
luck = draws.max(dim=1).values.mean()
print(f"{luck:.2f} points")
se.teach.check("05.3", luck)

# %% [markdown]
# **05.4.** Validation chooses: within one point are all but `PCA 16` and `top 1 %`, and of those `top 10 %` has the fewest bytes. Its test
# number, −1.3, is what you report. To go back to another chain because of it would be choosing by the test set; then −0.6 or −0.7 would be
# a lucky number, and no pictures would be left to say so.

# %%
table = {   # bytes a sample, points on validation
    "raw": (12300, 0.0), "8 bits": (3100, -0.1), "4 bits": (1600, -0.4),
    "top 10 %": (700, -0.8), "PCA 16": (400, -1.4), "top 1 %": (120, -9.6),
}
allowed = {chain: size for chain, (size, points) in table.items() if points >= -1.0}
chosen = min(allowed, key=allowed.get)
print(chosen)
se.teach.check("05.4", chosen)

# %% [markdown]
# **05.5.** The chain saves 10,000 bytes a sample, so 32 · 10,000 bytes a step, or 2,560,000 bits. It costs 0.004 s. Both are equal where
# 2,560,000 bits take 0.004 s. On a slower link those bits take longer than the computing that saves them.

# %%
saved_bits = 8 * 32 * (12_000 - 2_000)
mbps = saved_bits / 0.004 / 1e6
print(f"{mbps:.0f} Mbit/s")
se.teach.check("05.5", mbps)
