"""How many floating-point operations a step needs, counted from shapes: the numerator of model FLOPs utilisation.

A product of (m, k) and (k, n) is 2mkn. With N the parameters of all linear layers of the decoder, H Dh the width
of its heads together, L layers, and a token that attends to a keys (itself among them):

    forward    2 N + 4 H Dh L a      every weight meets the token once; q k^T, and the weights times v
    backward   2 N + 8 H Dh L a      gradients with respect to inputs alone, as the base is frozen: one product for
                                     every one of the forward pass; in attention two, as both its factors depend on the input
    logit      2 D, again 2 D backward

What is not counted: recomputation (it is not the model's work), norms, rotary embedding, softmax, SwiGLU's product,
and LoRA itself (r (in + out) parameters beside in x out: 0.1 % of LLaMA-7B's). What is counted although it could
be saved: gradients with respect to the inputs of the first layer's q, k and v, which nothing needs.

Tokens are counted in two ways. Plain: all real tokens of all rows. Distinct: two rows that begin alike share those
tokens' hidden states, so a token counts once for every prefix that is different: the nodes of the rows' prefix tree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.pairs import EncodedPair
from model.llama import LlamaConfig


@dataclass(frozen=True)
class Tokens:
    """What goes through the model. attended: for each token the keys that it attends to; positions: those that meet lm_head."""

    attended: list[int]
    positions: int


def linear_parameters(config: LlamaConfig) -> int:
    """Parameters of the decoder's linear layers; embedding, norms and lm_head left out."""
    D, Dh = config.hidden_size, config.head_dim
    attention = 2 * D * Dh * (config.num_attention_heads + config.num_key_value_heads)  # q and o, k and v
    return config.num_hidden_layers * (attention + 3 * D * config.intermediate_size)


def forward_flops(config: LlamaConfig, tokens: Tokens, vocabulary: int | None = None) -> int:
    """vocabulary: rows of lm_head that are looked at, all of them if None."""
    return _flops(config, tokens, 4, vocabulary)


def backward_flops(config: LlamaConfig, tokens: Tokens, vocabulary: int | None = None) -> int:
    """Of the same tokens; those that need no gradient are left out by the caller."""
    return _flops(config, tokens, 8, vocabulary)


def _flops(config: LlamaConfig, tokens: Tokens, attention: int, vocabulary: int | None) -> int:
    width = config.num_attention_heads * config.head_dim
    linear = 2 * linear_parameters(config) * len(tokens.attended)
    logits = 2 * config.hidden_size * (config.vocab_size if vocabulary is None else vocabulary) * tokens.positions
    return linear + attention * width * config.num_hidden_layers * sum(tokens.attended) + logits


def plain_tokens(rows: Iterable[tuple[Sequence[int], Iterable[int]]]) -> Tokens:
    """rows: (ids, positions whose logits are asked for)."""
    attended, positions = [], 0
    for ids, asked in rows:
        attended += range(1, len(ids) + 1)
        positions += len(list(asked))
    return Tokens(attended, positions)


def distinct_tokens(rows: Iterable[tuple[Sequence[int], Iterable[int]]]) -> Tokens:
    """The same with every different prefix once: a node of the prefix tree is its parent and its token."""
    nodes: dict[tuple[int, int], int] = {}
    attended, asked_of = [], set()
    for ids, asked in rows:
        path, parent = [], -1
        for depth, token in enumerate(ids, start=1):
            node = nodes.setdefault((parent, token), len(nodes))
            if node == len(attended):  # seen for the first time
                attended.append(depth)
            path.append(node)
            parent = node
        asked_of |= {path[position] for position in asked}
    return Tokens(attended, len(asked_of))


# ---- the work of one step -----------------------------------------------------------------------


def rows_of(case: str, pairs: list[EncodedPair]) -> tuple[list[tuple], list[tuple]]:
    """(rows whose gradients are needed, rows without) as (ids, positions that meet lm_head); case: own, shared, released or eval."""

    def row(prompt: Sequence[int], answer: Sequence[int]) -> tuple[list[int], range]:
        ids = [*prompt, *answer]
        return ids, range(len(ids)) if case == "released" else range(len(prompt) - 1, len(ids) - 1)

    if case == "eval":
        return [], [(pair.positive.prompt, [len(pair.positive.prompt) - 1]) for pair in pairs]
    positive = [row(pair.positive.prompt, pair.positive.answer) for pair in pairs]
    negative = [row(pair.negative.prompt, pair.negative.answer) for pair in pairs]
    if case == "released":  # the negative side is held still
        return positive, negative
    third = [row(pair.negative.prompt, pair.positive.answer) for pair in pairs] if case == "shared" else []
    return positive + negative + third, []


def step_flops(config: LlamaConfig, case: str, pairs: list[EncodedPair], distinct: bool) -> int:
    """Forward, and backward where there is one. Distinct, an evaluation needs two rows of lm_head; plain, all of them."""
    count, vocabulary = (distinct_tokens, 2 if case == "eval" else None) if distinct else (plain_tokens, None)
    trained, held = rows_of(case, pairs)
    return forward_flops(config, count(trained + held), vocabulary) + backward_flops(config, count(trained))
