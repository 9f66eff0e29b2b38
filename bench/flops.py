"""How many floating-point operations a step needs, counted from shapes: the numerator of model FLOPs utilisation.

A product of (m, k) and (k, n) takes 2mkn operations. Let N be the parameters of all linear layers of the decoder,
H Dh the width of all heads together, L the layers, and a the keys that a token attends to, including itself:

    forward    2 N + 4 H Dh L a      every weight is used once per token; q k^T, and the attention weights times v
    backward   2 N + 8 H Dh L a      gradients with respect to inputs only, since the base is frozen: one product for
                                     each one of the forward pass, and two in attention, where both factors depend
                                     on the input
    logit      2 D, and again 2 D backward

Not counted: recomputation (it is not work of the model), norms, rotary embedding, softmax, the product in SwiGLU, and
LoRA (r (in + out) parameters next to in x out: 0.1 % of LLaMA-7B). Counted although it could be saved: gradients
with respect to the inputs of q, k and v of the first layer, which nothing needs.

Tokens are counted in two ways. Plain: all real tokens of all rows. Distinct: rows with a common beginning share the
hidden states of its tokens, so every different prefix counts once; these are the nodes of the prefix tree of the rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.pairs import EncodedPair
from model.llama import LlamaConfig


@dataclass(frozen=True)
class Tokens:
    """The input of the model. attended: number of keys that each token attends to. positions: of lm_head."""

    attended: list[int]
    positions: int


def linear_parameters(config: LlamaConfig) -> int:
    """Parameters of the linear layers of the decoder, without embedding, norms and lm_head."""
    D, Dh = config.hidden_size, config.head_dim
    attention = 2 * D * Dh * (config.num_attention_heads + config.num_key_value_heads)  # q and o, k and v
    return config.num_hidden_layers * (attention + 3 * D * config.intermediate_size)


def forward_flops(config: LlamaConfig, tokens: Tokens, vocabulary: int | None = None) -> int:
    """Of these tokens. vocabulary: how many rows of lm_head are used; None for all."""
    return _flops(config, tokens, 4, vocabulary)


def backward_flops(config: LlamaConfig, tokens: Tokens, vocabulary: int | None = None) -> int:
    """Of these tokens; the caller leaves out those that need no gradient."""
    return _flops(config, tokens, 8, vocabulary)


def _flops(config: LlamaConfig, tokens: Tokens, attention: int, vocabulary: int | None) -> int:
    width = config.num_attention_heads * config.head_dim
    linear = 2 * linear_parameters(config) * len(tokens.attended)
    logits = 2 * config.hidden_size * (config.vocab_size if vocabulary is None else vocabulary) * tokens.positions
    return linear + attention * width * config.num_hidden_layers * sum(tokens.attended) + logits


def plain_tokens(rows: Iterable[tuple[Sequence[int], Iterable[int]]]) -> Tokens:
    """All tokens of all rows. rows: (ids, positions whose logits are needed)."""
    attended, positions = [], 0
    for ids, asked in rows:
        attended += range(1, len(ids) + 1)
        positions += len(list(asked))
    return Tokens(attended, positions)


def distinct_tokens(rows: Iterable[tuple[Sequence[int], Iterable[int]]]) -> Tokens:
    """The same with every different prefix once. A node of the prefix tree is (parent, token)."""
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
    """(rows with gradients, rows without), each row as (ids, positions of lm_head).

    case: own, shared, released or eval.
    """

    def row(prompt: Sequence[int], answer: Sequence[int]) -> tuple[list[int], range]:
        ids = [*prompt, *answer]
        return ids, range(len(ids)) if case == "released" else range(len(prompt) - 1, len(ids) - 1)

    if case == "eval":
        return [], [(pair.positive.prompt, [len(pair.positive.prompt) - 1]) for pair in pairs]
    positive = [row(pair.positive.prompt, pair.positive.answer) for pair in pairs]
    negative = [row(pair.negative.prompt, pair.negative.answer) for pair in pairs]
    if case == "released":  # the negative side is detached
        return positive, negative
    third = [row(pair.negative.prompt, pair.positive.answer) for pair in pairs] if case == "shared" else []
    return positive + negative + third, []


def step_flops(config: LlamaConfig, case: str, pairs: list[EncodedPair], distinct: bool) -> int:
    """Forward, and backward if there is one. distinct: an evaluation uses two rows of lm_head; otherwise all."""
    count, vocabulary = (distinct_tokens, 2 if case == "eval" else None) if distinct else (plain_tokens, None)
    trained, detached = rows_of(case, pairs)
    return forward_flops(config, count(trained + detached), vocabulary) + backward_flops(config, count(trained))
