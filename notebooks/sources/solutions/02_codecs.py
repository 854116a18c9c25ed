# %% [markdown]
# # Solutions: codecs
#
# Try the lesson `02_codecs.ipynb` first. Each cell below computes an answer, so that you can change it and look.

# %%
import torch
import torch.nn.functional as F

import spliteasy as se

# %% [markdown]
# **02.1** Count bits for each element. One says whether it was kept. A tenth of the time 16 more follow. So 2.6 bits instead of 32. The values alone
# would make it 20 times: the positions are not free, and at small shares they are most of the frame.

# %%
answer = 32 / (1 + 0.1 * 16)
print(f"{answer:.1f} times")
se.teach.check("02.1", answer)

# %% [markdown]
# **02.2** Rounding stops at some 12 times. Leaving values out loses the faint ones, which are many in feature maps of photographs. But these maps are
# *smooth*: neighbours are alike, so a few low frequencies say most. On 8 × 8 digits the same chain would gain much less.

# %%
torch.manual_seed(0)
split = se.split(se.load_model("resnet18", num_classes=10), at="maxpool", input_shape=(3, 224, 224))
activation = split.a(se.data.photos(4, 224)).detach()
for chain in ["int4(64) | zstd(1)", "topk(0.1) | fp16 | zstd(1)", "dct(16) | fp16", "dct(16) | int8 | zstd(1)"]:
    row = se.measure(chain, activation, repeats=1)
    print(f"{chain:28} {row.ratio:5.1f} times smaller, relative error {row.relative_l2:.2f}")
answer = "dct(16) | int8 | zstd(1)"
se.teach.check("02.2", answer)

# %% [markdown]
# **02.3** For one MB: without, 8 / b seconds at b Mbit/s. With, 1 / 200 + 1 / 400 seconds of computing and a tenth of the sending. Equal when
# 0.9 · 8 / b = 0.0075, so at 960 Mbit/s. On a gigabit network this chain is not worth its time; on any radio link it is.

# %%
answer = 8 * (1 - 1 / 10) / (1 / 200 + 1 / 400)
print(f"{answer:.0f} Mbit/s")
se.teach.check("02.3", answer)

# %% [markdown]
# **02.4** Follow one kept value: it appears in four places of the output, so its gradient is the **sum** of the four. A value that was left
# out appears nowhere, so its gradient is **zero**. Such a map is called the *adjoint*. It needs one value for each square, as many as before.

# %%
def input_gradient(output_gradient):
    total = torch.zeros_like(output_gradient)
    total[..., ::2, ::2] = 4 * F.avg_pool2d(output_gradient, 2)
    return total


answer = input_gradient
se.teach.check("02.4", answer)
