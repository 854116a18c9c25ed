# %% [markdown]
# # Where to cut
#
# Any two operations of a network can be parted, but not all cuts are equal. In one place a batch of pictures is 200 MB of numbers, in
# another 13 MB; here the device computes almost nothing, there almost everything.
#
# **You will learn**
# 1. to read, for every possible cut, how much would cross the wire: **B·R·C·F**;
# 2. why the best cut is a compromise between bytes, the device's work, and what the server gets to see;
# 3. to find cuts with a few lines of code, in the paper's networks and in your own.
#
# It takes ten minutes, computes for under a minute, and needs no internet.

# %%
import spliteasy as se

# %% [markdown]
# ## 1 · The explorer
#
# Each bar is one place to cut ResNet-50; its height is what would cross there, for a batch of 32 pictures. Blue operations run on the **device** (A),
# orange ones on the **server** (B).
#
# - **Drag the scissors** below the bars, or type a number or a name. Watch the product, the shares and the seconds.
# - **double** brings the last layers back to the device (C): then neither pictures nor labels leave it.
# - **Measure** sends photographs through the device's part and tries the codec chain on what really crosses.
# - Another network? Type its name: `densenet121`, `vgg11`, `timm/inception_resnet_v2` …

# %%
explorer = se.explore("resnet50", at="maxpool")
explorer

# %% [markdown]
# Without a running kernel there is nothing to drag. This is the same picture, standing still:

# %%
se.explore("resnet50", at=("maxpool", "flatten")).figure()

# %% [markdown]
# ## 2 · Read it off
#
# A feature map has **B** samples, **R** rows, **C** columns and **F** filters. Its B·R·C·F numbers of four bytes each cross the cut twice in every step
# of training: once as activations on the way up, once as gradients on the way down.

# %%
cuts = se.find_cuts(se.load_model("resnet50"), input_shape=(3, 224, 224), batch=32)

for name in ["input", "conv1", "maxpool", "layer1.0.conv2", "layer1", "layer4", "flatten"]:
    cut = cuts[name]
    work = cut.macs_before / (cut.macs_before + cut.macs_after)
    print(f"{name:15} {cut.shapes:30} {cut.nbytes / 1e6:6.1f} MB   {work:6.1%} of the work on the device")

# %% [markdown]
# Three things to notice:
#
# - The **first** layers make the data larger: 32 pictures are 19 MB, behind `conv1` they are 103 MB. Pooling brings them down again.
# - **Inside a residual block** (`layer1.0.conv2`) two tensors are alive, the block's own and the one that skips it, and both must cross.
# - The **last** cuts are tiny, but then the device computes everything, and there was no need for a server.
#
# **Predict:** the device should do at most a tenth of the work, and the pictures themselves must not leave it. Which cut sends the least?
# Choose one in the explorer before you run the next cell.

# %%
total = cuts["input"].macs_after
cheap = [cut for cut in cuts if cut.name != "input" and cut.macs_before <= 0.10 * total]
best = min(cheap, key=lambda cut: cut.nbytes)
print(f"{len(cheap)} cuts leave the device at most 10 % of the work")
print(f"{best.name} sends the least: {best.nbytes / 1e6:.1f} MB")

# %% [markdown]
# **Answer:** `maxpool`, which is where the paper cuts too: the only narrow place among the first layers. It still sends more than the pictures themselves
# (25.7 against 19.3 MB). What a split buys here is not fewer bytes: it is that the pictures stay. Fewer bytes is what codecs are for.

# %%
explorer.state.update(chain="topk(0.1) | fp16 | zstd(1)")
for row in explorer.measure().messages:
    print(f"{row.message} at {row.cut}: {row.ratio:.1f} times smaller, relative error {row.relative_l2:.2f}")

# %% [markdown]
# ## 3 · The paper's Table 2
#
# The paper lists the first seven layers of InceptionResNetV2 for pictures of 299×299, and cuts after the first, the fourth and the seventh (its Figure 4a).
# Nothing is computed to find them: the network is traced on PyTorch's *meta* device, where tensors have shapes but no numbers.

# %%
inception = se.load_model("timm/inception_resnet_v2")
cuts = se.find_cuts(inception, input_shape=(3, 299, 299), batch=1)

table = {   # as the paper prints it
    "conv2d_1a": "149·149·32", "conv2d_2a": "147·147·32", "conv2d_2b": "147·147·64", "maxpool_3a": "73·73·64",
    "conv2d_3b": "73·73·80", "conv2d_4a": "71·71·192", "maxpool_5a": "35·35·192",
}
for layer, (name, paper) in enumerate(table.items(), start=1):
    filters, rows, columns = cuts[name].tensors[0].shape[1:]
    found = f"{rows}·{columns}·{filters}"
    agrees = "as in the paper" if found == paper else f"the paper: {paper}"
    print(f"layer {layer}  {name:11} {found:11} {agrees}  {cuts[name].nbytes / 1e6:5.2f} MB a picture")

# %% [markdown]
# **Predict:** on a link of 12 Mbit/s up and down, how much longer does a step take if you cut after layer 1 instead of layer 7?

# %%
link = se.LINKS["lte"]
seconds = {}
for name in ("conv2d_1a", "maxpool_3a", "maxpool_5a"):
    seconds[name] = link.seconds(up_bytes=cuts[name].nbytes, down_bytes=cuts[name].nbytes)
    print(f"{name:11} {seconds[name]:.2f} s a picture on the link")
print(f"{seconds['conv2d_1a'] / seconds['maxpool_5a']:.1f} times as long")

# %% [markdown]
# **Answer:** almost three times, in proportion to the bytes: the time follows the size of what is sent, as in the paper's Figure 4a.
#
# ## 4 · Your own network
#
# Any `nn.Module` that PyTorch can trace works: `se.explore(my_network, input_shape=(3, 32, 32))`. Everything the explorer shows can be had as code:

# %%
print(explorer.snippet())

# %% [markdown]
# ## What you have seen
#
# - What crosses a cut is **B·R·C·F** numbers for every tensor alive there, up as activations and down as gradients.
# - Narrow places (behind pooling, between blocks) are good cuts; inside a block more than one tensor crosses.
# - Cutting early keeps the device's work small and hides the pictures, but it does not save bytes. Codecs do.
#
# *Reference:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*, HotMobile '21,
# [arXiv 2011.04232](https://arxiv.org/abs/2011.04232).
