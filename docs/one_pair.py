# %% [markdown]
"""# One pair, from a user to the gradient

Every step that `train.py` takes with one pair, with the project's own functions, small enough to look at. The model is
the built-in demo model and the viewers are simulated: look at how things work, not at how good the figures are.

This notebook is made from `docs/one_pair.py` by `python -m docs.make_notebook`; edit that file.
"""

# %%
import sys

sys.path[:0] = ["..", "."]  # a notebook starts in docs/, a program in the project's folder

import matplotlib.pyplot as plt
import numpy as np
import torch

from cli.data import load_data
from cli.train import TrainFlags
from data.pairs import collate, encode_pairs
from data.prompts import prompt_pair
from lora.inject import add_lora
from loss import answer_terms, log_probabilities, paper_loss
from model.llama import rope_tables, rotate
from run.base import load_base
from tensors import trainable_parameters

DATA, MODEL, ROW = "demo", "demo", 3  # "movie" for MovieLens-100K, a folder for a real LLaMA, any row of the test split

# %% [markdown]
"""## A row of ratings

A row is a user, what the user rated before, and a target with its label.
"""

# %%
data = load_data(vars(TrainFlags(data=DATA)))
row = data.test[ROW]
print(f"{data.name} ({data.source}), user {row.user}")
for item, liked in row.history:
    print("  liked   " if liked else "  disliked", data.catalogue[item].title)
print("  target  ", data.catalogue[row.target].title, "-", "liked" if row.label else "not liked")

# %% [markdown]
"""## Two prompts

The same question, asked both ways: X⁺ and X⁻, with opposite right answers Y⁺ and Y⁻ (`data/prompts.py`).
"""

# %%
prompts = prompt_pair(row, data)
print(prompts.positive + prompts.answer_positive)
print("\n---- and the negative prompt differs here ----")
for ours, other in zip(prompts.positive.splitlines(), prompts.negative.splitlines()):
    if ours != other:
        print(other)
print("answer:", prompts.answer_negative)

# %% [markdown]
"""## Tokens

Both prompts and answers become token ids. A batch holds the positive row, then the negative one (`data/pairs.py`).
`positions` says where the hidden states predict the answer's tokens.
"""

# %%
model, tokenizer = load_base(MODEL, "fp32", torch.device("cpu"))
(pair,), _ = encode_pairs([row], data, tokenizer, "tallrec", 512)
batch = collate([pair])
yes_no = [tokenizer.encode(prompts.positive + answer)[len(pair.positive.prompt)] for answer in ("Yes.", "No.")]
names = [tokenizer.piece(token) for token in yes_no]
print("input_ids", tuple(batch.input_ids.shape))
print("positions", batch.positions.tolist(), " targets", batch.targets.tolist())
print("the tokens of the answers:", dict(zip(names, yes_no)))

# %% [markdown]
"""## What the answer looks at

Attention of the last token of the prompt, which predicts the answer, over the prompt: softmax(q kᵀ / √Dh) of each head
(`model/llama.py`, `causal_attention`). Hooks keep what `q_proj` and `k_proj` compute.
"""


# %%
def attention_of(layer: int, ids: torch.Tensor, position: int) -> torch.Tensor:
    """(heads, position + 1): how much the token at `position` attends to each token up to itself."""
    attention, kept = model.model.layers[layer].self_attn, {}
    hooks = [
        getattr(attention, name).register_forward_hook(lambda module, args, out, name=name: kept.update({name: out}))
        for name in ("q_proj", "k_proj")
    ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    cos, sin = rope_tables(model.config, ids.shape[1], like=kept["q_proj"])
    q, k = (rotate(kept[name].unflatten(-1, (-1, attention.head_dim)), cos, sin)[0] for name in ("q_proj", "k_proj"))
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # each key head serves several query heads
    scores = torch.einsum("hd,thd->ht", q[position], k[: position + 1]) / attention.head_dim**0.5
    return scores.softmax(-1)


answers_at = int(batch.positions[0, 0])
layers = len(model.model.layers)
figure, axes = plt.subplots(2, 1, figsize=(10, 5), layout="constrained")
for panel, layer in zip(axes, (layers // 2, layers - 1)):
    weights = attention_of(layer, batch.input_ids[:1], answers_at)
    panel.imshow(weights**0.5, aspect="auto", cmap="Blues", interpolation="nearest")
    panel.set(title=f"layer {layer + 1} of {layers}", xlabel="position in X⁺", ylabel="head")
    named: list[int] = []  # the tokens with most attention, not too close together to be read
    for place in weights.mean(0).argsort(descending=True).tolist():
        if len(named) < 6 and all(abs(place - other) > 5 for other in named):
            named.append(place)
    for place in named:
        piece = tokenizer.piece(int(batch.input_ids[0, place])).replace("▁", " ").replace("<0x0A>", "↵")
        panel.text(place, -0.6, piece, rotation=45, fontsize=8)
figure.suptitle("Attention of the answer's position; the square root, so that small weights show")

# %% [markdown]
"""## When the model makes up its mind

The logit lens: the hidden state after each layer, through the final norm and `lm_head`, as if the model ended
there. The untuned model draws almost the same line for both questions: it hardly reads the word that differs.
"""

# %%
states = []
hooks = [layer.register_forward_hook(lambda module, args, out: states.append(out)) for layer in model.model.layers]
with torch.no_grad():
    logits = model(batch.input_ids, batch.positions[:, :1])[:, 0]  # (2, V)
    for hook in hooks:
        hook.remove()
    ends = batch.positions[:, 0]
    lens = torch.stack([model.lm_head(model.model.norm(h[torch.arange(2), ends])) for h in states])  # (layers, 2, V)
assert torch.allclose(lens[-1], logits, atol=1e-4)  # after the last layer it is the model itself
odds = lens[:, :, yes_no[0]] - lens[:, :, yes_no[1]]  # (layers, 2)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for side, label in enumerate(("z⁺, will like?", "z⁻, will dislike?")):
    axes.plot(range(1, layers + 1), odds[:, side], "o-", label=label)
axes.axhline(0, color="grey", linestyle=":")
axes.set(xlabel="after layer", ylabel="log-odds of Yes against No", xticks=range(1, layers + 1))
axes.legend(frameon=False)

# %% [markdown]
"""## The loss

Eq. 1 to 3 of this pair (`loss.py`), and once more by hand from the log-probabilities.
"""

# %%
KL_WEIGHT = 1e-4
torch.manual_seed(0)
add_lora(model, r=8, alpha=16, dropout=0.0)  # from here on only A and B can learn
# A fresh B is zero: it changes nothing, and A has no gradient. This is how it may be after some steps.
for name, tensor in trainable_parameters(model).items():
    if name.endswith("lora_B"):
        torch.nn.init.normal_(tensor, std=0.02, generator=torch.Generator().manual_seed(0))
terms = answer_terms(model(batch.input_ids, batch.positions), batch.targets, 1)
loss = paper_loss(terms, KL_WEIGHT, 1)
log_p, log_q = log_probabilities(model(batch.input_ids, batch.positions)).detach()  # (A, V) each
steps = range(len(pair.positive.answer))
by_hand = {
    "CE+": -sum(log_p[t, pair.positive.answer[t]] for t in steps),
    "CE-": -sum(log_q[t, pair.negative.answer[t]] for t in steps),
    "KL": sum((log_p[t].exp() * (log_p[t] - log_q[t])).sum() for t in steps),
}
for (name, value), term in zip(by_hand.items(), terms):
    print(f"{name:4}{term.sum().item():10.6f}   by hand {value.item():10.6f}")
    assert torch.isclose(term.sum(), value, atol=1e-5)
print(f"L   {loss.item():10.6f} = CE+ + CE- - lambda KL")

# %% [markdown]
"""## The landscape of Eq. 3

L of a model that can say Yes and No alone, over its two log-odds, with a λ large enough to be seen. There is no lowest
point: where both answers are right, L falls on without end. `docs/explorer.html` has the same with sliders.
"""

# %%
sides, large = torch.linspace(-8, 8, 81, dtype=torch.float64), 0.3
grid = torch.cartesian_prod(sides, sides)  # (81 * 81, 2): z+, z-
two = torch.stack([grid.T, torch.zeros_like(grid.T)], -1).reshape(-1, 1, 2)  # (2P, 1, 2): logits of Yes and No
right = torch.tensor([0, 1] if row.label else [1, 0]).repeat_interleave(len(grid)).unsqueeze(1)
of_grid = answer_terms(two, right, len(grid))
heights = (of_grid.ce_pos + of_grid.ce_neg - large * of_grid.kl).reshape(81, 81).T
figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
lines = axes.contourf(sides, sides, heights, levels=np.linspace(-4, 16, 21), cmap="viridis_r", extend="both")
z_pos, z_neg = (float(side[0, yes_no[0]] - side[0, yes_no[1]]) for side in (log_p, log_q))
axes.plot(z_pos, z_neg, "o", color="red", label="this pair")
axes.axhline(0, color="white", linewidth=0.8)
axes.axvline(0, color="white", linewidth=0.8)
axes.set(xlabel="z⁺", ylabel="z⁻", title=f"L with λ = {large}; same answer to both: top right, bottom left")
axes.legend(loc="upper left")
figure.colorbar(lines, label="nats")

# %% [markdown]
"""## The gradient

One backward pass gives the gradient of L for every A and B: this is what the optimizer gets. One entry is checked by a
central difference, in float64: a difference of two losses in float32 keeps too few digits.
"""

# %%
loss.backward()
parameters = trainable_parameters(model)
norms = {name: float(tensor.grad.norm()) for name, tensor in parameters.items()}
figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
for kind, color in (("lora_A", "tab:blue"), ("lora_B", "tab:orange")):
    of_kind = {name.split("layers.")[1].replace(f".{kind}", ""): n for name, n in norms.items() if name.endswith(kind)}
    shift = -0.2 if kind == "lora_A" else 0.2
    axes.bar(np.arange(len(of_kind)) + shift, list(of_kind.values()), 0.4, label=kind[-1], color=color)
places = [name.split(".") for name in of_kind]  # "0.self_attn.q_proj"
axes.set_xticks(range(len(places)), [f"{int(place[0]) + 1}\n{place[-1]}" for place in places], fontsize=8)
axes.set(ylabel="norm of the gradient", title="Where this pair pulls: layer and matrix")
axes.legend(frameon=False)

name, tensor = next((name, tensor) for name, tensor in parameters.items() if name.endswith("lora_B"))
entry = int(tensor.grad.abs().argmax())
model.double()
found = []
for change in (1e-2, -1e-2):
    with torch.no_grad():
        tensor.view(-1)[entry] += change
        moved = answer_terms(model(batch.input_ids, batch.positions), batch.targets, 1)
        found.append(paper_loss(moved, KL_WEIGHT, 1).item())
        tensor.view(-1)[entry] -= change
difference, gradient = (found[0] - found[1]) / 2e-2, tensor.grad.view(-1)[entry].item()
print(f"{name}[{entry}]: gradient {gradient:.6f}, central difference {difference:.6f}")
assert abs(gradient - difference) < 1e-3 * abs(gradient)
