# %% [markdown]
# # Solutions: the gradient across a cut
#
# Try first. Each answer below is computed, with a word on why.

# %%
import math

import torch
import torch.nn.functional as F

import spliteasy as se

# %% [markdown]
# **04.1.** Each tensor that arrives is a leaf without history, and asks for its gradient. C's backward fills the gradient of what C
# received; that is the message to B, which starts B's backward, which fills the gradient of what B received, and so on to A. Forward A, B,
# C; backward C, B, A.

# %%
def three_segments(a, b, c, x, y):
    sent = a(x)
    entering_b = sent.detach().requires_grad_()         # over the wire
    outputs = b(entering_b)
    entering_c = outputs.detach().requires_grad_()      # over the wire
    F.cross_entropy(c(entering_c), y).backward()
    outputs.backward(entering_c.grad)                   # output_gradients: C → B
    sent.backward(entering_b.grad)                      # input_gradients: B → A


se.teach.check("04.1", three_segments)

# %% [markdown]
# **04.2.** The square brings down a 2, so ½ cancels it. A sum leaves each element its own gradient. The label is a constant for autograd
# (`detach`): if it moved with c, their distance would always be g, whatever c does, and the gradient 0. And minus: c must move *against*
# the gradient, so the label lies at c − g.

# %%
def auxiliary_loss(c, g):
    label = (c - g).detach()
    return (label - c).square().sum() / 2


se.teach.check("04.2", auxiliary_loss)

# %% [markdown]
# **04.3.** SGD's step is the gradient times the learning rate, with momentum a weighted sum of such steps: twice the gradient, twice the
# step. Adam divides the mean of past gradients by the root of the mean of their squares; both double, and the factor cancels.

# %%
def distance(make, factor):
    """How far one parameter goes in ten steps with its gradient multiplied."""
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = make([parameter])
    for step in range(10):
        parameter.grad = torch.full((1,), factor * (1 + 0.1 * step))
        optimizer.step()
    return 1 - parameter.item()


optimizers = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
ratio = {name: distance(make, 2.0) / distance(make, 1.0) for name, make in optimizers.items()}
print({name: round(value, 3) for name, value in ratio.items()})
se.teach.check("04.3", min(ratio, key=lambda name: abs(ratio[name] - 1)))

# %% [markdown]
# **04.4.** With 256 pictures in place of 16 the mean divides each picture's gradient by 16 times more. The size of c, and so the spacing
# around it, does not change. The error is spacing by size of g: 16 times larger.

# %%
def first_error(batch):
    torch.manual_seed(0)
    split = se.split(se.load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))
    images, labels = se.data.digits()[0].tensors
    with se.Trainer(split, backward="auxiliary-label") as trainer:
        return trainer.step(images[:batch], labels[:batch]).gradient_error


factor = first_error(256) / first_error(16)
print(f"{factor:.2f}")
se.teach.check("04.4", factor)

# %% [markdown]
# **04.5.** The largest magnitude decides, whatever its sign: it must stay below 65,504. `math.frexp` splits it into a number in [0.5, 1)
# and an exponent e, so it is below 2ᵉ. Times 2¹⁵⁻ᵉ it is below 2¹⁵ = 32,768, with room for rounding. Everything else comes up by as much.
# The codec `fp16` does the same.

# %%
def scale(g):
    _, exponent = math.frexp(float(g.abs().max()))
    return 2.0 ** (15 - exponent)


se.teach.check("04.5", scale)
