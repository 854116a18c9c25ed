# %% [markdown]
# # Solutions: where to cut
#
# Try the lesson `01_where_to_cut.ipynb` first. Each cell below computes an answer, so that you can change it and look.

# %%
import spliteasy as se

# %% [markdown]
# **01.1** One cut, `.nbytes`, and twice: the activations go up, their gradient has the same shape and comes down. `nbytes` is for the whole
# batch if `find_cuts` was given it.

# %%
densenet = se.find_cuts(se.load_model("densenet121"), input_shape=(3, 224, 224), batch=16)
answer = 2 * densenet["features.pool0"].nbytes / 1e6
print(f"{answer:.2f} MB")
se.teach.check("01.1", answer)

# %% [markdown]
# **01.2** Two tensors are alive: what entered the block (512 maps, and the addition at its end still needs it) and what the block's first
# convolution made of it (128 maps). So four fifths are only passing by. A cut at the end of the block would send 512 maps and nothing else.

# %%
resnet = se.find_cuts(se.load_model("resnet50"), input_shape=(3, 224, 224), batch=1)
for tensor in resnet["layer2.1.conv1"].tensors:
    print(tensor.name, tensor.shape, f"{tensor.nbytes:,} bytes")
skips, inside = resnet["layer2.1.conv1"].tensors
answer = skips.nbytes / (skips.nbytes + inside.nbytes)
se.teach.check("01.2", answer)

# %% [markdown]
# **01.3** Keep what is allowed, then take the smallest. The first allowed cut is usually large and the last one need not be narrow. Work is
# multiply-accumulates, not parameters: most parameters sit in the last layers, most work in the first.

# %%
def best_cut(cuts, share):
    total = cuts["input"].macs_after
    allowed = [cut for cut in cuts if cut.name != "input" and cut.macs_before <= share * total]
    return min(allowed, key=lambda cut: cut.nbytes).name


print(best_cut(densenet, 0.5), best_cut(resnet, 0.1))
answer = best_cut
se.teach.check("01.3", answer)

# %% [markdown]
# **01.4** Try one batch after the other until the link is busy for too long. Both directions count, `Link` is in megabits, and the result is
# rounded down. By hand: ten seconds less one round trip of 0.17 s, times 9 Mbit/s, by 2 · 8 · 802,816 bits a picture.

# %%
link, one = se.LINKS["4g"], resnet["maxpool"].nbytes
batch = 0
while link.seconds(up_bytes=(batch + 1) * one, down_bytes=(batch + 1) * one) <= 10:
    batch += 1
answer = batch
print(f"{answer} pictures: {link.seconds(answer * one, answer * one):.1f} s")
se.teach.check("01.4", answer)
