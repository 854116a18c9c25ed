# %% [markdown]
# # The gradient across a cut
#
# Training a network needs a gradient for every weight. When the network lies in two processes, the last layers have the loss and the first
# layers have nothing but a message. How does learning get across? There is an exact way, there is the paper's way, and between them lie a
# wrong sign and some lost digits that you can measure.
#
# **You will learn**
# 1. where automatic differentiation stops, and the one line that carries it on: the vector-Jacobian product;
# 2. how the paper does it with an *auxiliary label*, why its sign as printed climbs the loss, and what a mean or a forgotten ½ does;
# 3. what rounding costs on that way, in 32 and in 16 bits, and how to read it in a run's log;
# 4. why gradients need a scale before they are sent in half precision.
#
# It takes twenty minutes, computes for half a minute, and needs no internet.

# %%
import torch
import torch.nn.functional as F
from torch import nn

import spliteasy as se
from spliteasy.pictures import Picture  # a matplotlib Figure that shows itself

# %% [markdown]
# ## 1 · Where autograd stops
#
# Two tiny segments: **A** is on the device and **B**, with the loss, on the server. What lies between them is a socket, and a socket knows
# bytes. The function below does what it does: numbers become bytes, and bytes become numbers again.
#
# **Predict:** after `loss.backward()`, which weights have a gradient?

# %%
torch.manual_seed(0)
x, y = torch.randn(32, 8), torch.randint(0, 4, (32,))      # 32 samples with 8 features, in 4 classes
A = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
B = nn.Linear(16, 4)


def over_the_wire(tensor):
    """Numbers to bytes, bytes to numbers."""
    message = bytearray(tensor.detach().numpy().tobytes())
    return torch.frombuffer(message, dtype=tensor.dtype).view(tensor.shape)


sent = A(x)
received = over_the_wire(sent)
loss = F.cross_entropy(B(received), y)
loss.backward()

print("the same numbers:       ", torch.equal(sent, received))
print("where `sent` came from: ", type(sent.grad_fn).__name__)
print("and `received`:         ", received.grad_fn)
print("B has a gradient:       ", B.weight.grad is not None)
print("A has a gradient:       ", A[0].weight.grad is not None)

# %% [markdown]
# **Explain:** PyTorch writes down, for each tensor, the operation that made it (`grad_fn`), and `backward()` walks that chain back from the
# loss. The numbers crossed the wire, the chain did not. For B, `received` is a constant. So B learns and A does not, and nothing complains.
#
# ## 2 · The exact way
#
# B can find out how the loss depends on what it received, if it asks: `received.requires_grad_()`. The answer, `received.grad`, has the
# shape of what was sent. It is the message that goes back (`input_gradients`). A hands it to autograd as the start of its own walk.
#
# **Predict:** how near do the two halves come to the gradients of the whole network: to a few digits, to seven, or to the last bit?

# %%
B.zero_grad()
received.requires_grad_()
F.cross_entropy(B(received), y).backward()      # on the server
g = over_the_wire(received.grad)                # back to the device
sent.backward(g)                                # on the device: the walk goes on

pieces = [p.grad.clone() for p in (*A.parameters(), *B.parameters())]
A.zero_grad(), B.zero_grad()
F.cross_entropy(B(A(x)), y).backward()          # the network as a whole
whole = [p.grad for p in (*A.parameters(), *B.parameters())]
print("equal to the bit:", [torch.equal(one, two) for one, two in zip(pieces, whole, strict=True)])

# %% [markdown]
# **Explain:** to the last bit. `sent.backward(g)` is called a **vector-Jacobian product**. The Jacobian of A holds the derivative of each
# number that A sends with respect to each weight of A; the gradient of the loss is that table multiplied by the vector g. Below, the table
# is built for once, which autograd never does: it computes the product straight away, in the very order in which it would have done so
# inside the whole network.

# %%
weight, bias = A[0].weight.detach(), A[0].bias.detach()
jacobian = torch.autograd.functional.jacobian(lambda w: torch.tanh(F.linear(x, w, bias)), weight)
by_hand = torch.einsum("so,sowi->wi", g, jacobian)      # samples, outputs; the weight's rows and columns
print(f"sent back: {g.numel():,} numbers; A's Jacobian for one layer: {jacobian.numel():,} numbers")
difference = (by_hand - whole[0]).abs().max()
print(f"largest difference from autograd: {difference:.0e}, of gradients up to {whole[0].abs().max():.2f}")

# %% [markdown]
# **Exercise 04.1.** In a double split there are two cuts: A and C are on the device, B is on the server. Write a function `f(a, b, c, x,
# y)` that runs one forward and one backward over three segments with the loss `F.cross_entropy`, such that all parameters of `a`, `b` and
# `c` end with the gradients of the whole network. No segment may see where its input came from: what enters `b` and `c` must have no
# history (`detach()` will do as a wire).

# %%
answer = ...   # a function f(a, b, c, x, y); it need not return anything
se.teach.check("04.1", answer)

# %% [markdown]
# ## 3 · The paper's way: an auxiliary label
#
# The paper lets ordinary training machinery do the job, which trains towards a *label*. So each segment without a loss of its own gets one.
# With c, what the segment sent, and g, the gradient that came back, it makes a label ĉ near c and the loss
#
# **L = ½ Σ (ĉ − c)²**
#
# and trains on that. The paper prints ĉ = c + g (its Eq. 5). Hold ĉ still and differentiate: ∂L/∂c = −(ĉ − c). With ĉ = c + g this is −g.
#
# **Predict:** four rules for the same job, on pictures of digits: the sign as printed; the other sign, with ½ and a sum; a mean in place of
# the sum, as a loss called "mean squared error" computes it; a sum without the ½. B stands still, so that only A learns, from what comes
# back across the cut. What does the loss do under each?

# %%
train, test = se.data.digits()
digits, labels = train.tensors[0][:256], train.tensors[1][:256]

rules = {
    "c + g, ½ sum (as printed)": lambda c, g: ((c + g).detach() - c).square().sum() / 2,
    "c − g, mean": lambda c, g: ((c - g).detach() - c).square().mean(),
    "c − g, ½ sum": lambda c, g: ((c - g).detach() - c).square().sum() / 2,
    "c − g, sum without ½": lambda c, g: ((c - g).detach() - c).square().sum(),
}


def train_two(rule, steps=60, b_learns=False):
    """The loss before each step of plain gradient descent with a rule for A."""
    torch.manual_seed(0)
    a, b = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, 10)
    optimizer = torch.optim.SGD([*a.parameters(), *(b.parameters() if b_learns else ())], lr=0.3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        c = a(digits)
        received = c.detach().requires_grad_()
        loss = F.cross_entropy(b(received), labels)
        loss.backward()
        rule(c, received.grad).backward()       # the exact way would be: c.backward(received.grad)
        optimizer.step()
        losses.append(loss.item())
    return losses


curves = {name: train_two(rule) for name, rule in rules.items()}
exact = train_two(lambda c, g: (c * g).sum())   # its gradient at c is g: the vector-Jacobian product
for name, losses in curves.items():
    print(f"{name:26} loss {losses[0]:.3f} → {losses[-1]:.3f}")
print(f"{'exact':26} loss {exact[0]:.3f} → {exact[-1]:.3f}")

# %%
picture = Picture(figsize=(7, 3.8), layout="constrained")
axes = picture.subplots()
colors = dict(zip(curves, ("#c62828", "#888888", "#2f7fd6", "#e8912d"), strict=True))
for name, losses in curves.items():
    axes.plot(losses, color=colors[name], lw=2, label=name)
axes.plot(exact, color="black", ls=":", lw=2, label="exact")
axes.set(xlabel="step", ylabel="loss (logarithmic)", yscale="log")
axes.set_yticks([1, 2, 3, 5, 10], ["1", "2", "3", "5", "10"])
axes.minorticks_off()
axes.set_title("The sign as printed climbs, a mean stands still, a forgotten ½ runs ahead",
               loc="left", fontsize=11)
axes.legend(frameon=False, fontsize=9)
axes.spines[["top", "right"]].set_visible(False)
ends = "; ".join(f"{name} ends at {losses[-1]:.2f}" for name, losses in curves.items())
picture.alt = f"Loss by step for four rules, all starting at the same loss: {ends}; exact ends at {exact[-1]:.2f}."
picture

# %% [markdown]
# **Explain:** with ĉ = c − g the gradient at c is +g, and the curve lies on the exact one. As printed it is −g, and A walks uphill. A mean
# divides by the number of elements, here 256 · 32 = 8,192, and A hardly moves. Without the ½ the gradient is 2g: A takes double steps. That
# looks like a gain here, but it is only a higher learning rate that nobody chose, and another one for each segment. The paper's public code
# has the right sign and no ½.
#
# **Predict:** let B learn as well, with its own, correct gradient. Would you notice the wrong sign in A?

# %%
right = train_two(rules["c − g, ½ sum"], b_learns=True)
wrong = train_two(rules["c + g, ½ sum (as printed)"], b_learns=True)
print(f"right sign: loss {right[0]:.3f} → {right[-1]:.3f}")
print(f"wrong sign: loss {wrong[0]:.3f} → {wrong[-1]:.3f}")

# %% [markdown]
# **Explain:** the loss still falls a little, since B learns against A. A wrong gradient seldom looks like a crash; it looks like a network
# that learns badly. This is why the package compares split training with the whole network to the last bit, and does not trust a falling
# loss.
#
# **Exercise 04.2.** Write the auxiliary loss yourself: a function `f(c, g)` that returns one number (a tensor) whose `backward()` gives c
# the gradient g. Use an auxiliary label; think of what autograd sees.

# %%
answer = ...   # a function f(c, g) of two tensors of one shape
se.teach.check("04.2", answer)

# %% [markdown]
# **Exercise 04.3.** A colleague forgot the ½, so that all gradients of one segment are doubled. With one of these optimizers the training
# is nearly the same as without the mistake: `"SGD"`, `"SGD with momentum"`, `"Adam"`. Which one? You can try: `torch.optim` has all three,
# and one parameter is enough.

# %%
answer = ...   # one of the three names
se.teach.check("04.3", answer)

# %% [markdown]
# ## 4 · What rounding costs
#
# On paper, c − (c − g) = g. A computer rounds after each operation, and floating-point numbers are not equally dense: near c they are a
# **spacing** apart that grows with c. For 32 bits it is about c / 8,000,000, for 16 bits much more. c − g must land on one of them.
#
# **Predict:** c is 1. What is left of g = 0.001, of 0.0000001, and of 0.00000001?

# %%
types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
for name, dtype in types.items():
    print(f"{name}: numbers just above 1 are {torch.finfo(dtype).eps:.2g} apart")
    for size in (1e-1, 1e-3, 1e-5, 1e-7, 1e-8):
        c, small = torch.tensor(1.0, dtype=dtype), torch.tensor(size, dtype=dtype)
        print(f"    g = {size:.0e}    c − (c − g) = {float(c - (c - small)):.3g}")

# %% [markdown]
# **Explain:** what comes back is g rounded to a multiple of the spacing around c − g. A g much larger than the spacing keeps most of its
# digits. One below half a spacing is gone: c − g rounds to c, and the label says "you are there".
#
# Now with real messages. `se.crossing_tensors` runs one training step of a split network and returns what crosses: we take c from `outputs` (B
# → C) and g from `output_gradients` (C → B), and let g shrink, as gradients do when a network has learned, or a batch is large.
#
# **Predict:** the errors of three number formats, drawn against the size of g: three curves far apart. What if the size of g is counted in
# spacings of c?

# %%
torch.manual_seed(0)
split = se.split(se.load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))
messages = se.crossing_tensors(split, digits[:32], labels[:32])
(c,), (g,) = messages["outputs"], messages["output_gradients"]


def size(tensor):
    """The root of the mean square: how large an element is."""
    return float(tensor.double().square().mean().sqrt())


def spacing(tensor):
    """How far each element is from the next larger number of its type."""
    below = torch.exp2(torch.frexp(tensor.double())[1] - 1.0)   # the power of two at or below it
    return torch.finfo(tensor.dtype).eps * below * (tensor != 0)


def label_error(c, g, dtype):
    """The relative L2 error of c − (c − g) in a number format: the error's length by that of g."""
    c, exact = c.to(dtype), g.double()
    recovered = (c - (c - g.to(dtype))).double()
    return float((recovered - exact).norm() / exact.norm())


points = {}
for name, dtype in types.items():
    apart = size(spacing(c.to(dtype)))
    rows = []
    for power in torch.linspace(-2, 3, 21).tolist():
        smaller = g * (10**power * apart / size(g))     # a hundredth of a spacing to a thousand
        rows.append((size(smaller), size(smaller) / apart, label_error(c, smaller, dtype)))
    points[name] = rows
    print(f"{name}: c is about {size(c):.2f}, spacing {apart:.1e}; "
          f"g is about {size(g):.1e}, error {label_error(c, g, dtype):.2g}")
print(f"zeros in c: {(c == 0).double().mean():.0%}")

# %%
picture = Picture(figsize=(9, 3.7), layout="constrained")
left, right = picture.subplots(1, 2, sharey=True)
marks = {"fp32": ("o", "#2f7fd6"), "fp16": ("s", "#e8912d"), "bf16": ("^", "#1fa187")}
for name, rows in points.items():
    mark, color = marks[name]
    sizes, spacings, errors = zip(*rows, strict=True)
    left.plot(sizes, errors, mark, ls="-", color=color, ms=4, label=name)
    right.plot(spacings, errors, mark, ls="", color=color, ms=5, mfc="none", label=name)
left.axvline(size(g), color="#888888", ls=":")
left.text(size(g) * 1.3, 1.5e-3, "g as it\ncrossed", fontsize=9, color="#555555")
ruler = torch.logspace(-0.4, 3, 20)
right.plot(ruler, 0.29 / ruler, color="black", lw=1, label="0.29 / (size of g in spacings)")
left.set(xscale="log", yscale="log", xlabel="size of g (root mean square)",
         ylabel="relative L2 error of the gradient")
right.set(xscale="log", xlabel="size of g / spacing of the numbers around c")
left.set_title("Counted in g: three curves", loc="left", fontsize=11)
right.set_title("Counted in spacings: one curve for all formats", loc="left", fontsize=11)
for axes in (left, right):
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
picture.alt = (
    "Relative error of the recovered gradient against its size. In units of the spacing around c the points of "
    "fp32, fp16 and bf16 lie on one line, 0.29 by the size; below half a spacing nearly all is lost."
)
picture

# %% [markdown]
# **Explain:** one curve. A rounding error is as likely to be anywhere within half a spacing as anywhere else, and the root mean square of
# such an error is the spacing divided by √12: 0.29 of it. So the relative error is 0.29 · spacing / size of g. It grows tenfold when
# gradients shrink tenfold, until around one spacing nearly all is lost. (Not quite all here: about half of c are the exact zeros of a
# rectifier, and around zero numbers are as dense as one needs. At the far right the points of bf16 leave the line, since g itself is
# rounded to its 8 bits there.) In 32 bits there is room for four digits. In bf16, which has the fewest, more than half of this gradient is
# lost, in the very first step. The exact way adds no error of its own, in any format.
#
# ## 5 · In a run
#
# `se.Trainer(backward="auxiliary-label")` trains the paper's way (with the sign that descends and the ½). Each step's record tells the
# relative L2 error that it added to the gradients: `gradient_error`. We train twice, with the same seed, against a real server process.
#
# **Predict:** which of the two reaches the higher accuracy? And as the network learns, does the error grow, shrink, or stay?

# %%
def digits_split(dropout=0.25):
    torch.manual_seed(0)
    model = se.load_model("digits_cnn", dropout=dropout)
    return se.split(model, at=("pool", "flatten"), input_shape=(1, 8, 8))


def train_digits(backward, server, epochs=4):
    split, optimizer = digits_split(), {"name": "SGD", "lr": 0.05, "momentum": 0.9}
    with se.Trainer(split, server=server.url, backward=backward, optimizer=optimizer) as trainer:
        log = trainer.fit(se.data.loader(train, batch=32, seed=0), epochs=epochs, progress=False)
        return split, log, trainer.evaluate(se.data.loader(test, batch=128, seed=0)).accuracy


with se.LocalServer() as server:
    trained, exact_log, exact_accuracy = train_digits("exact", server)
    _, label_log, label_accuracy = train_digits("auxiliary-label", server)

errors = torch.tensor([record.gradient_error for record in label_log])
print(f"exact:           test accuracy {exact_accuracy:.1%}, "
      f"largest gradient error {max(record.gradient_error for record in exact_log)}")
print(f"auxiliary label: test accuracy {label_accuracy:.1%}, largest gradient error {errors.max():.1e}")
for epoch, part in enumerate(errors.chunk(4), start=1):
    print(f"    epoch {epoch}: median {part.median():.1e}, from {part.min():.1e} to {part.max():.1e}")
pairs = zip(exact_log.losses, label_log.losses, strict=True)
parted = next(step for step, (one, two) in enumerate(pairs) if one != two)
print(f"the losses are equal to the last bit until step {parted}, and differ from step {parted + 1} on")

# %% [markdown]
# **Explain:** the auxiliary label learns as well: in 32 bits the error is small, as it was for the paper's networks. A few last digits of
# the gradients differ in the first step, and some hundred steps later the two networks are not the same. **Do not read the accuracies as a
# verdict**: one run each cannot tell harm from luck, and lesson 05 shows how far luck alone goes.
#
# The error neither grows nor shrinks for good. Section 4 says what it should follow: the size of g, counted in spacings of c. So we watch
# both: before each step, `se.crossing_tensors` gives c and g of both cuts, and the step's record gives the error. (The network has no dropout
# here, so that both see the same one.)
#
# **Predict:** where will the points lie?

# %%
split, optimizer = digits_split(dropout=0.0), {"name": "SGD", "lr": 0.05, "momentum": 0.9}
sizes, recorded = [], []
with se.Trainer(split, backward="auxiliary-label", optimizer=optimizer) as trainer:
    for epoch in range(3):
        for x, y in se.data.loader(train, batch=32, seed=epoch):
            messages = se.crossing_tensors(split, x, y)
            pairs = (("activations", "input_gradients"), ("outputs", "output_gradients"))
            counted = [size(messages[g][0]) / size(spacing(messages[c][0])) for c, g in pairs]
            sizes.append(min(counted))      # the record, too, has the worse of the two cuts
            recorded.append(trainer.step(x, y).gradient_error)

picture = Picture(figsize=(7, 3.6), layout="constrained")
axes = picture.subplots()
dots = axes.scatter(sizes, recorded, c=range(len(sizes)), cmap="viridis", s=14)
ends = torch.tensor([min(sizes), max(sizes)])
axes.plot(ends, 0.29 / ends, color="black", lw=1, label="0.29 / (size of g in spacings)")
axes.set(xscale="log", yscale="log", ylabel="gradient_error of the step",
         xlabel="size of g / spacing of the numbers around c (the worse of the two cuts)")
axes.set_title("The error in the log follows the size of the gradients", loc="left", fontsize=11)
axes.legend(frameon=False, fontsize=9)
axes.spines[["top", "right"]].set_visible(False)
picture.colorbar(dots, label="step")
picture.alt = (
    f"The recorded gradient error of {len(sizes)} steps against the size of the gradients in spacings of c: the "
    f"points lie near the line 0.29 by the size, from {min(recorded):.0e} to {max(recorded):.0e}."
)
picture

# %% [markdown]
# **Explain:** near the line of section 4. The first steps (dark) lie in its middle: the last layers' weights are small still, and so is
# what they send back. Then gradients grow, and the points go down to the right. Late steps (light) lie at both ends. A batch that brings
# something new has large gradients; one that the network knows already has tiny ones, while c is as large as before. The error is **largest
# where the least is left to learn**.
#
# **Exercise 04.4.** The loss is a *mean* over the batch. Take `digits_cnn` as it starts (`torch.manual_seed(0)` before `load_model`), split
# at `("pool", "flatten")`, and one `step` with `backward="auxiliary-label"`: once on the first 16 training pictures, once on the first 256,
# each time with a fresh split. By what factor is `gradient_error` larger on the large batch? Predict it, then compute it.

# %%
answer = ...   # a number: error with 256 pictures / error with 16 pictures
se.teach.check("04.4", answer)

# %% [markdown]
# ## 6 · Gradients in half precision
#
# Another place where small gradients get lost is the wire itself. Half precision (fp16) sends two bytes a number in place of four. Its
# normal numbers reach down to 2⁻¹⁴ = 0.00006. Below that are the **subnormals**, which lose one bit of precision for each halving, and
# below 2⁻²⁵ = 0.00000003 everything rounds to zero.
#
# **Predict:** DenseNet-121, cut behind its first pooling, four photographs, the first step of training. What share of the gradients that
# come back is too small for a normal fp16 number?

# %%
torch.manual_seed(0)
model = se.load_model("densenet121", num_classes=10)
densenet = se.split(model, at="features.pool0", input_shape=(3, 224, 224))
(gradient,) = se.crossing_tensors(densenet, se.data.photos(4, 224), torch.arange(4))["input_gradients"]

subnormal = (gradient.abs() < 2**-14).double().mean()
print(f"{tuple(gradient.shape)}: {gradient.numel():,} gradients, the largest {gradient.abs().max():.1e}")
print(f"below 2⁻¹⁴: {subnormal:.0%}")


def element_errors(decoded, exact):
    """The relative error of each element that is not zero."""
    return ((decoded - exact).abs() / exact.abs())[exact != 0]


scaled = se.codec("fp16")
plain_errors = element_errors(gradient.half().float(), gradient)
scaled_errors = element_errors(scaled.decode(scaled.encode(gradient)), gradient)
print(f".half():          {(plain_errors > 0.01).double().mean():.0%} of the gradients are off by more than 1 %")
print(f'se.codec("fp16"): {(scaled_errors > 0.01).double().mean():.1%} of them')

# %%
picture = Picture(figsize=(7, 3.6), layout="constrained")
axes = picture.subplots()
magnitudes = gradient[gradient != 0].abs().log2()
shift = 14 - int(magnitudes.max().floor())      # so the largest comes to lie in [2¹⁴, 2¹⁵)
axes.axvspan(-42, -25, color="#c62828", alpha=0.15, lw=0)
axes.axvspan(-25, -14, color="#e8912d", alpha=0.15, lw=0)
axes.axvspan(-14, 16, color="#1fa187", alpha=0.12, lw=0)
axes.hist(magnitudes, bins=100, color="#333333")
axes.hist(magnitudes + shift, bins=100, color="#2f7fd6")
top = axes.get_ylim()[1] * 1.4
axes.set(xlim=(-34, 16), ylim=(0, top), xlabel="magnitude, as a power of two", ylabel="number of gradients")
for place, text in ((-33.6, "becomes 0 in fp16"), (-24.7, "subnormal"), (-13.7, "normal")):
    axes.text(place, top * 0.94, text, fontsize=9.5)
axes.text(-24, top * 0.8, "as they are: .half()", fontsize=9.5, color="#333333", weight="bold")
axes.text(-1.5, top * 0.8, f"times 2^{shift}: codec fp16", fontsize=9.5, color="#2f7fd6", weight="bold")
axes.set_title(f"{subnormal:.0%} of the gradients are subnormal in fp16; a power of two moves them all",
               loc="left", fontsize=11)
axes.spines[["top", "right"]].set_visible(False)
picture.alt = (
    f"Histogram of gradient magnitudes: as they are, {subnormal:.0%} lie below 2 to the power of −14, in the subnormal "
    f"range of fp16; multiplied by 2 to the power of {shift}, nearly all lie in the normal range."
)
picture

# %% [markdown]
# **Explain:** the codec multiplies the tensor by a power of two that brings its largest magnitude near the top of fp16, and sends that
# number along (four bytes). A power of two changes the exponent only, so the scaling itself loses nothing. Mixed-precision training does
# the same to the loss (Micikevicius et al., [arXiv 1710.03740](https://arxiv.org/abs/1710.03740)).
#
# Does it matter? The relative L2 error of the whole tensor hardly shows it, because a few large gradients make up most of its length. It
# shows where gradients are small: in pictures that the network knows already. Below are the gradients of 256 pictures at the cut of the
# network that you trained in section 5, picture by picture.
#
# **Predict:** for how many of the 256 pictures does plain `.half()` lose more than a tenth of the gradient?

# %%
(known,) = se.crossing_tensors(trained, digits, labels)["input_gradients"]


def by_picture(decoded):
    """The relative L2 error of each picture's gradient."""
    return (decoded - known).flatten(1).norm(dim=1) / known.flatten(1).norm(dim=1)


halves = {".half()": known.half().float(), 'se.codec("fp16")': scaled.decode(scaled.encode(known))}
plain, with_scale = map(by_picture, halves.values())
for name, decoded in halves.items():
    lost = by_picture(decoded)
    print(f"{name:17} error of the whole tensor {float((decoded - known).norm() / known.norm()):.1e}; of 256 pictures "
          f"{int((lost > 0.1).sum())} lose more than a tenth, {int((lost == 1).sum())} lose all")

# %%
picture = Picture(figsize=(7, 3.7), layout="constrained")
axes = picture.subplots()
lengths = known.flatten(1).square().mean(1).sqrt()
axes.plot(lengths, plain, "o", ms=4, color="#333333", mfc="none", label=".half()")
axes.plot(lengths, with_scale, ".", ms=5, color="#2f7fd6", label="codec fp16")
axes.axvline(2**-14, color="#888888", ls=":")
axes.text(2**-14 * 0.8, 0.3, "2⁻¹⁴", fontsize=9, color="#555555", ha="right")
axes.set(xscale="log", yscale="log", xlabel="size of a picture's gradients (root mean square)",
         ylabel="relative L2 error")
lost = int((plain > 0.1).sum())
axes.set_title(f"Without a scale, {lost} of 256 pictures lose more than a tenth of their gradient",
               loc="left", fontsize=11)
axes.legend(frameon=False, fontsize=9)
axes.spines[["top", "right"]].set_visible(False)
picture.alt = (
    "Relative error of each picture's gradient against its size: with plain half precision it rises to 1 as "
    f"gradients shrink, and {lost} of 256 pictures lose more than a tenth; with the codec's scale "
    f"{int((with_scale > 0.1).sum())} do."
)
picture

# %% [markdown]
# **Explain:** what plain half precision loses is what the network has nearly learned. For one step that hardly matters. When all of a batch
# is nearly learned, when the batch is large (the mean again), or when the loss is averaged over many outputs, it is all there is. A scale
# costs four bytes. It is no magic: one scale serves the whole tensor, and a picture whose gradients are 2³⁹ times smaller than the largest
# ones is lost with it too.
#
# **Exercise 04.5.** Write the scale: a function `f(g)` that returns the power of two s with which `(g * s).half().float() / s` is as near
# to g as it can be. It must work for gradients of any size, also where one element is far larger than the rest. fp16 ends at 65,504.

# %%
answer = ...   # a function f(g) that returns a power of two, such as 1024.0
se.teach.check("04.5", answer)

# %% [markdown]
# ## What you have seen
#
# - Autograd stops at a cut. `output.backward(gradient)` carries it on: a vector-Jacobian product, equal to the whole network's gradient to
#   the bit.
# - The auxiliary label does it with a loss: ĉ = c − g, a sum, and ½. As printed it climbs, a mean stands still, and without the ½ every
#   step is doubled.
# - c − (c − g) rounds g to the spacing of numbers around c. The error is about 0.29 · spacing / size of g: small in 32 bits, ruinous in 16,
#   and it grows as gradients shrink.
# - A falling loss proves little. Compare gradients, or read `gradient_error`.
# - Half precision needs a scale for gradients, since small ones fall among the subnormals or to zero; a power of two costs nothing.
#
# **Go on** with `05_does_accuracy_survive.ipynb`: split training is exact, so what costs accuracy, and how would you know?
#
# *References:* Palanisamy, Khimani, Moti, Chatzopoulos, *SplitEasy*, HotMobile '21, [arXiv 2011.04232](https://arxiv.org/abs/2011.04232),
# section 2.1. Micikevicius et al., *Mixed Precision Training*, [arXiv 1710.03740](https://arxiv.org/abs/1710.03740). Kalamkar et al., *A
# Study of BFLOAT16 for Deep Learning Training*, [arXiv 1905.12322](https://arxiv.org/abs/1905.12322).
