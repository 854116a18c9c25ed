# %% [markdown]
# # Solutions: split learning in ten minutes
#
# Try the lesson `00_quickstart.ipynb` first. Each cell below computes an answer, so that you can change it and look.

# %%
import spliteasy as se

model = se.load_model("digits_cnn")

# %% [markdown]
# **00.1** Bytes at a cut are B·F·R·C values of four bytes each. At `relu3` a picture has 64 maps of 4 × 4 values, so 1,024 values and
# 4,096 bytes. The batch has 64 of them. `find_cuts` says the same if you give it the batch.

# %%
answer = se.find_cuts(model, input_shape=(1, 8, 8), batch=64)["relu3"].nbytes
print(f"{answer:,} bytes, which is {64 * 64 * 4 * 4 * 4:,}")
se.teach.check("00.1", answer)

# %% [markdown]
# **00.2** The loss is computed by C, on the device, from the labels. Its gradient with respect to C's input is the first thing that leaves
# the device after that. The `activations` were sent before any label was looked at. The `input_gradients` depend on the labels too, but
# they travel the other way: the server sends them.

# %%
answer = "output_gradients"
se.teach.check("00.2", answer)

# %% [markdown]
# **00.3** The device sends `activations` (A → B) and `output_gradients` (C → B). `forward=` would also name the `outputs`, which come down,
# and `backward=` the `input_gradients`. Halving the numbers' width is not enough for the gradients: they have no zeros to gain from.
# Eight bits are a quarter of 32, and zstd takes what the rectifier's zeros leave.

# %%
answer = se.Codecs(activations="int8 | zstd(1)", output_gradients="topk(0.25) | int8 | zstd(1)")
se.teach.check("00.3", answer)
