# %% [markdown]
# # Solutions to lesson 09: the paper, checked
#
# Each answer is computed, and each comes with the reason. Try for yourself first.

# %%
import spliteasy as se
from spliteasy.reproduce.paper_numbers import TABLE_1

# %% [markdown]
# **09.1.** Layer 4 is the first max pooling: 73·73·64 values, four bytes each, eight pictures. In training the gradient comes back, and it is as
# large as what it is the gradient of: twice.

# %%
answer = 2 * 8 * 73 * 73 * 64 * 4
se.teach.check("09.1", answer)

# %% [markdown]
# **09.2.** A mean divides the sum by the number of its terms, and with it every gradient. All of B then learns with a rate that much smaller, and
# one that depends on the place of the cut. C's update is right, so the loss still goes down, and nobody notices.

# %%
answer = 16 * 2048
se.teach.check("09.2", answer)

# %% [markdown]
# **09.3.** Four calls less two calls: half of what lies between the columns. A third of a second a call is far more than a round trip to a data
# centre takes. It is what that whole system took: encoding, notification, the browser's engine.

# %%
calls = [(row.communication_double - row.communication_single) / 2 for row in TABLE_1.values()]
answer = sum(calls) / len(calls)
print(f"{answer:.3f} s a call; the networks lie between {min(calls):.3f} and {max(calls):.3f}")
se.teach.check("09.3", answer)

# %% [markdown]
# **09.4.** Everything, divided by what is left without bytes. Activations go up and gradients come down, 32 times the bytes of one picture. With one
# picture the factor is under 1.5: the call is most of it.

# %%
link = se.LINKS["aws"]
nbytes = se.find_cuts(se.load_model("resnet50"), (3, 224, 224), batch=32)["maxpool"].nbytes
answer = link.seconds(nbytes, nbytes, 1) / link.seconds(0, 0, 1)
print(f"{answer:.1f} times; with one picture {link.seconds(nbytes // 32, nbytes // 32, 1) / link.seconds(0, 0, 1):.2f}")
se.teach.check("09.4", answer)

# %% [markdown]
# **09.5.** The weights are a fixed cost, the activations grow with the batch, and larger pictures make them grow faster. Two pictures are enough.

# %%
LEAN = {"aux_logits": False, "init_weights": False}
for batch in (1, 2, 3):
    resnet = se.training_memory(se.load_model("resnet50"), (), (3, 224, 224), batch)[0].total
    inception = se.training_memory(se.load_model("inception_v3", **LEAN), (), (3, 299, 299), batch)[0].total
    print(f"batch {batch}: ResNet50 {resnet / 1e6:.1f} MB, InceptionV3 {inception / 1e6:.1f} MB")
    if inception > resnet:
        break
answer = batch
se.teach.check("09.5", answer)
