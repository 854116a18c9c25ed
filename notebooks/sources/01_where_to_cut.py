# %% [markdown]
# # Where to cut
#
# Any two operations of a network can be parted, but not all cuts are equal. In one place a batch of pictures is 200 MB of numbers, in
# another 13 MB; here the device computes almost nothing, there almost everything.
#
# **You will learn**
# 1. to read, for every possible cut, how much would cross the wire: **B·R·C·F**;
# 2. why the best cut is a compromise between bytes, the device's work, and what the server gets to see;
# 3. to find cuts with a few lines of code, in the paper's networks and in others;
# 4. to turn bytes into seconds on a link.
#
# It takes fifteen minutes, computes for less than one, and needs no internet.

# %%
import spliteasy as se

# %% [markdown]
# ## 1 · The explorer
#
# Each bar is one place to cut ResNet-50. Its height is what would cross there, for a batch of 32 pictures. Blue operations run on the
# **device** (A), orange ones on the **server** (B).
#
# - **Drag the scissors** below the bars, or type a number or a name. Watch the product, the shares and the seconds.
# - **double** brings the last layers back to the device (C, green): then neither pictures nor labels leave it.
# - Each of the **four messages** has a chain of its own, with presets to start from.
# - Choose a link, and read the **budget of one step on the link**: where its seconds go.
# - **Measure** runs a training step on photographs and tries the chains on what really crosses. **Train a few steps** does so in
#   earnest. **Cancel** stops either. **Save picture** and **Show code** take home what you see.
# - Another network? Type its name: `densenet121`, `vgg11`, `timm/inception_resnet_v2` …
#
# **Predict** before you drag: where are the bars highest, at the beginning, in the middle, or at the end?

# %%
explorer = se.explore("resnet50", at="maxpool")
explorer

# %% [markdown]
# Without a running kernel there is nothing to drag. This is the same picture for a double split, standing still:

# %%
se.explore("resnet50", at=("maxpool", "flatten")).figure()

# %% [markdown]
# **Explain:** at the beginning. The first layers make many feature maps and keep them large; each stage of the network then halves rows and
# columns and only doubles the maps. The spikes are the insides of the residual blocks; section 2 says why.
#
# ## 2 · Read it off
#
# A feature map has **B** samples, **R** rows, **C** columns and **F** filters. Its B·R·C·F numbers of four bytes each cross the cut twice in
# every step of training: once as activations on the way up, once as gradients on the way down.
#
# **Predict:** 32 pictures are 19 MB. How much is it behind the first convolution, which halves rows and columns and makes 64 maps of three?

# %%
cuts = se.find_cuts(se.load_model("resnet50"), input_shape=(3, 224, 224), batch=32)

for name in ["input", "conv1", "maxpool", "layer1.0.conv2", "layer1", "layer4", "flatten"]:
    cut = cuts[name]
    work = cut.macs_before / (cut.macs_before + cut.macs_after)
    print(f"{name:15} {cut.shapes:30} {cut.nbytes / 1e6:6.1f} MB   {work:6.1%} of the work on the device")

# %% [markdown]
# **Explain:**
#
# - The **first** layers make the data larger: a quarter of the places, but 64 maps instead of 3. Pooling brings it down again.
# - **Inside a residual block** (`layer1.0.conv2`) two tensors are alive, the block's own and the one that skips it, and both must cross.
# - The **last** cuts are tiny, but then the device computes everything, and there was no need for a server.
#
# *Work* is counted in multiply-accumulates (`macs_before`, `macs_after`) of one picture's way forward; `cuts[name].tensors` lists the tensors
# alive at a cut, each with its name, shape and bytes.
#
# **Exercise 01.1.** DenseNet-121 is cut after `features.pool0` in a single split, batch **16**, pictures of 3 × 224 × 224. How many MB
# (10⁶ bytes) cross the wire in one training step, **both directions** together, nothing compressed?

# %%
answer = ...   # a number of MB
se.teach.check("01.1", answer)

# %% [markdown]
# **Exercise 01.2.** ResNet-50 is cut inside a block, after `layer2.1.conv1`. Which share of the bytes there belongs to the tensor that
# *skips* the block?

# %%
answer = ...   # a share, from 0 to 1
se.teach.check("01.2", answer)

# %% [markdown]
# ## 3 · Let code choose
#
# The device should do at most a tenth of the work, and the pictures themselves must not leave it.
#
# **Predict:** which cut of ResNet-50 sends the least? Choose one in the explorer, or from the picture, before you run the next cell.

# %%
total = cuts["input"].macs_after
cheap = [cut for cut in cuts if cut.name != "input" and cut.macs_before <= 0.10 * total]
best = min(cheap, key=lambda cut: cut.nbytes)
print(f"{len(cheap)} cuts leave the device at most 10 % of the work")
print(f"{best.name} sends the least: {best.nbytes / 1e6:.1f} MB")

# %% [markdown]
# **Explain:** `maxpool` is the only narrow place among the first layers. It still sends more than the pictures themselves (25.7 against
# 19.3 MB). What a split buys here is not fewer bytes: it is that the pictures stay. Fewer bytes is what codecs are for. Here is what one
# chain makes of what goes up for a few photographs, and of the gradient that comes back:

# %%
explorer.state.update(chain="topk(0.1) | fp16 | zstd(1)")
for row in explorer.measure().messages:
    print(f"{row.message}: {row.ratio:.1f} times smaller, error {row.relative_l2:.2f}")

# %% [markdown]
# *Error* is the length of what is wrong by the length of the tensor. Whether a network minds is the question of the next lesson.
#
# **Exercise 01.3.** Write a function of `(cuts, share)` that returns the **name** of the cut that sends the fewest bytes while the device does
# at most that share of the multiply-accumulates. The input itself is not allowed. It is tried on networks that you have not seen here.

# %%
answer = ...   # a function: def best_cut(cuts, share): ...; then answer = best_cut
se.teach.check("01.3", answer)

# %% [markdown]
# ## 4 · The paper's Table 2, and seconds on a link
#
# The paper lists the first seven layers of InceptionResNetV2 for pictures of 299×299, and cuts after the first, the fourth and the seventh (its
# Figure 4a). Nothing is computed to find them: the network is followed on PyTorch's *meta* device, where tensors have shapes but no numbers.
#
# **Predict:** do the shapes agree with the paper's? It used another library, and this is a program's reading of the network.

# %%
inception = se.load_model("timm/inception_resnet_v2")
cuts = se.find_cuts(inception, input_shape=(3, 299, 299), batch=1)

table = {   # as the paper prints it
    "conv2d_1a": "149·149·32", "conv2d_2a": "147·147·32", "conv2d_2b": "147·147·64",
    "maxpool_3a": "73·73·64", "conv2d_3b": "73·73·80", "conv2d_4a": "71·71·192", "maxpool_5a": "35·35·192",
}
for layer, (name, paper) in enumerate(table.items(), start=1):
    filters, rows, columns = cuts[name].tensors[0].shape[1:]
    found = f"{rows}·{columns}·{filters}"
    agrees = "as in the paper" if found == paper else f"the paper: {paper}"
    print(f"layer {layer}  {name:11} {found:11} {agrees}  {cuts[name].nbytes / 1e6:5.2f} MB a picture")

# %% [markdown]
# **Explain:** all seven do. So the sizes of the paper's messages can be had without running its network.
#
# A **link** has a bandwidth up, one down, and a round-trip time. Bandwidths are in mega*bits* a second, and a byte has eight bits.
#
# **Predict:** on a link of 12 Mbit/s up and down, how many times longer is the link busy if you cut after layer 1 instead of layer 7?

# %%
link = se.LINKS["lte"]
seconds = {}
for name in ("conv2d_1a", "maxpool_3a", "maxpool_5a"):
    seconds[name] = link.seconds(up_bytes=cuts[name].nbytes, down_bytes=cuts[name].nbytes)
    print(f"{name:11} {seconds[name]:.2f} s a picture on the link")
print(f"{seconds['conv2d_1a'] / seconds['maxpool_5a']:.1f} times as long")

# %% [markdown]
# **Explain:** almost three times, in proportion to the bytes, but for one round trip. The time follows the size of what is sent, as in the
# paper's Figure 4a.
#
# **Exercise 01.4.** The link is `se.LINKS["4g"]`, ResNet-50 is cut after `maxpool` in a single split, nothing is compressed. A training step may
# spend **10 seconds** on the link (one call: one round trip). How many pictures can a batch have at most?

# %%
answer = ...   # a whole number of pictures
se.teach.check("01.4", answer)

# %% [markdown]
# Everything that the explorer shows can be had as code, to go on from:

# %%
print(explorer.snippet())

# %% [markdown]
# ## What you have seen
#
# - What crosses a cut is **B·R·C·F** numbers for every tensor alive there, up as activations and down as gradients.
# - Narrow places (behind pooling, between blocks) are good cuts; inside a block more than one tensor crosses.
# - Cutting early keeps the device's work small and hides the pictures, but it does not save bytes. Codecs do.
# - Seconds follow bytes: bandwidth is in bits, and every call pays one round trip.
#
# **Go on** with `02_codecs.ipynb`. Networks of your own come in `07_your_own.ipynb`; answers and reasons are in
# `solutions/01_where_to_cut.ipynb`.
#
# *Reference:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy: A Practical Approach for Training ML models on Mobile Devices*, HotMobile '21,
# [arXiv 2011.04232](https://arxiv.org/abs/2011.04232).
