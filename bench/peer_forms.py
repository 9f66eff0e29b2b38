"""LCFT as a user of transformers and peft would write it, in two forms; only the token ids come from this project.

published   what the authors' published code does: both rows of a pair in one batch, padded on the left, logits of
            all positions over the whole vocabulary; evaluation by generate(max_new_tokens=5), 8 prompts at a time
expert      padded on the right, so that no attention mask is needed; lm_head only at the positions that the loss
            uses; a forward pass without gradients for a side that the loss detaches; evaluation by one forward pass
            over batches of similar length, optionally with the prefix that all prompts share computed once
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

PUBLISHED_BATCH, EXPERT_BATCH = 8, 32  # prompts
KL_CAP = 10_000.0  # nats, as in the published code
IGNORED = -100  # the target that cross_entropy ignores


def load_peer(folder: Path, dtype: torch.dtype, device: torch.device, lora: tuple, checkpointing: bool) -> PeftModel:
    """The checkpoint with a fresh adapter as peft makes it, A and B in float32. lora: (targets, r, alpha, dropout)."""
    disable_progress_bar()
    base = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(device)
    return with_adapter(base, lora, checkpointing)


def drawn_peer(shape: dict, device: torch.device, lora: tuple) -> PeftModel:
    """The same of the shape of a config.json, with random weights in bf16 that are drawn on the device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            base = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="sdpa"))
    finally:
        torch.set_default_dtype(before)
    return with_adapter(base, lora, checkpointing=False)


def with_adapter(base: LlamaForCausalLM, lora: tuple, checkpointing: bool) -> PeftModel:
    """The base with a fresh adapter; see load_peer."""
    targets, r, alpha, dropout = lora
    config = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def padded(rows: list[Sequence[int]], left: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), (B, T) int64 each; the mask is 1 at real tokens. left: pad on the left."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, at] = torch.tensor(row)
        mask[i, at] = 1
    return ids.to(device), mask.to(device)


def hidden_states(model: PeftModel, rows: list[Sequence[int]]) -> Tensor:
    """(B, T, D), rows padded on the right: under causal attention no real token sees the padding."""
    ids, _ = padded(rows, left=False, device=model.device)
    return model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), (..., V) each to (...)."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


# ---- training: a loss with its graph ------------------------------------------------------------


def expert_loss(model: PeftModel, pairs: list, objective: str, kl_weight: float) -> Tensor:
    """CE+ + CE- - lambda KL per pair, over the answers; objective: own, shared, or released."""
    if objective == "released":
        return expert_released_loss(model, pairs, kl_weight)
    rows = [pair.positive for pair in pairs] + [pair.negative for pair in pairs]
    sequences = [[*row.prompt, *row.answer] for row in rows]
    answers = [list(row.answer) for row in rows]
    prompts = [len(row.prompt) for row in rows]
    if objective == "shared":
        sequences += [[*pair.negative.prompt, *pair.positive.answer] for pair in pairs]
        answers += [list(pair.positive.answer) for pair in pairs]
        prompts += [len(pair.negative.prompt) for pair in pairs]
    hidden = hidden_states(model, sequences)  # (B, T, D)
    longest = max(map(len, answers))
    filled = [answer + [IGNORED] * (longest - len(answer)) for answer in answers]
    targets = torch.tensor(filled, device=hidden.device)  # (B, A)
    first = torch.tensor(prompts, device=hidden.device)[:, None] - 1  # (B, 1)
    columns = first + torch.arange(longest, device=hidden.device)  # (B, A)
    each_row = torch.arange(len(answers), device=hidden.device)[:, None]
    at = hidden[each_row, columns.clamp(max=hidden.shape[1] - 1)]  # (B, A, D)
    log_p = F.log_softmax(model.get_base_model().lm_head(at).float(), dim=-1)  # (B, A, V)
    P = len(pairs)
    ce = F.nll_loss(log_p[: 2 * P].flatten(0, 1), targets[: 2 * P].flatten(), ignore_index=IGNORED, reduction="sum")
    other = slice(2 * P, 3 * P) if objective == "shared" else slice(P, 2 * P)
    compared = (targets[:P] != IGNORED) & (targets[other] != IGNORED)
    kl = divergence(log_p[:P], log_p[other])[compared].sum()
    return (ce - kl_weight * kl) / P


def expert_released_loss(model: PeftModel, pairs: list, kl_weight: float) -> Tensor:
    """The published objective on right-padded rows: lm_head at real positions, no graph for the detached side."""
    lm_head, device = model.get_base_model().lm_head, model.device
    positive, negative = (
        [[*row.prompt, *row.answer] for row in rows]
        for rows in zip(*((pair.positive, pair.negative) for pair in pairs))
    )
    with torch.no_grad():
        hidden_neg = hidden_states(model, negative)
    hidden_pos = hidden_states(model, positive)
    # Both rows of a pair end together; if the negative row is shorter, the first positions have no partner.
    places = [
        (row, column, column - len(positive[row]) + len(negative[row]))
        for row in range(len(pairs))
        for column in range(len(positive[row]))
    ]
    row, column, column_neg = torch.tensor(places, device=device).unbind(1)  # (N,) each
    following = torch.tensor([token for ids in positive for token in (*ids[1:], IGNORED)], device=device)  # (N,)
    log_p = F.log_softmax(lm_head(hidden_pos[row, column]).float(), dim=-1)  # (N, V)
    with torch.no_grad():
        log_q = F.log_softmax(lm_head(hidden_neg[row, column_neg.clamp(min=0)]).float(), dim=-1)
    ce = F.nll_loss(log_p, following, ignore_index=IGNORED)
    kl = (divergence(log_q, log_p) * (column_neg >= 0)).sum() / len(pairs)
    return ce - kl_weight * kl.clamp(max=KL_CAP)


def published_loss(model: PeftModel, pairs: list, objective: str, kl_weight: float) -> Tensor:
    """The published objective: mean CE over tokens of the positive rows - lambda KL(neg || pos) at all positions."""
    if objective != "released":
        raise ValueError(f"the published code has one objective, not {objective}")
    rows = [[*row.prompt, *row.answer] for pair in pairs for row in (pair.positive, pair.negative)]
    ids, mask = padded(rows, left=True, device=model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()  # (2P, T, V)
    positive, negative = logits[0::2], logits[1::2].detach()
    labels = ids[0::2].masked_fill(mask[0::2] == 0, IGNORED)
    # The published code also trains BOS to follow padding, and compares padding with padding. Both are left out here,
    # as in ours, so that the values of the loss are equal. This changes neither time nor memory.
    labels[:, 1:] = labels[:, 1:].masked_fill(mask[0::2, :-1] == 0, IGNORED)
    ce = F.cross_entropy(positive[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    per_position = F.kl_div(positive.log_softmax(-1), negative.softmax(-1), reduction="none").sum(-1)  # (P, T)
    kl = (per_position * (mask[0::2] * mask[1::2])).sum() / len(pairs)
    return ce - kl_weight * kl.clamp(max=KL_CAP)


LOSSES = {"published": published_loss, "expert": expert_loss}

# ---- evaluation: the log-odds of Yes for every prompt, (N,) float64 -----------------------------


@torch.inference_mode()
def published_scores(model: PeftModel, prompts: list[Sequence[int]], yes: int, no: int) -> np.ndarray:
    """Generates five tokens and uses the scores of the first.

    A tuned model ends after "Yes." and saves two of the five; a model with random weights hardly ever ends.
    """
    greedy = GenerationConfig(
        max_new_tokens=5,
        num_beams=1,
        do_sample=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    log_odds = []
    for start in range(0, len(prompts), PUBLISHED_BATCH):
        ids, mask = padded(prompts[start : start + PUBLISHED_BATCH], left=True, device=model.device)
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
        log_odds.append(output.scores[0][:, yes] - output.scores[0][:, no])
    return torch.cat(log_odds).double().cpu().numpy()


@torch.inference_mode()
def expert_scores(model: PeftModel, prompts: list[Sequence[int]], yes: int, no: int) -> np.ndarray:
    """One forward pass; the logits of the last position."""
    return _by_length(prompts, lambda rows: _log_odds(model, hidden_states(model, rows), rows, yes, no))


@torch.inference_mode()
def expert_prefix_scores(model: PeftModel, prompts: list[Sequence[int]], yes: int, no: int) -> np.ndarray:
    """The same, with the keys and values of the common prefix computed once and expanded to each batch."""
    shared = common_prefix(prompts)
    decoder = model.get_base_model().model
    ids, _ = padded([prompts[0][:shared]], left=False, device=model.device)
    prefix = decoder(input_ids=ids, use_cache=True).past_key_values

    def scores(rows: list[Sequence[int]]) -> Tensor:
        rest = [row[shared:] for row in rows]
        size = (len(rows), -1, -1, -1)
        cache = DynamicCache([(layer.keys.expand(size), layer.values.expand(size)) for layer in prefix.layers])
        ids, _ = padded(rest, left=False, device=model.device)
        hidden = decoder(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        return _log_odds(model, hidden, rest, yes, no)

    return _by_length(prompts, scores)


def common_prefix(prompts: list[Sequence[int]]) -> int:
    """Number of tokens that all prompts begin with; at least one token of each prompt remains."""
    first, last = min(prompts), max(prompts)  # the first and the last in lexicographic order share what all share
    same = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return min(same, min(map(len, prompts)) - 1)


def _log_odds(model: PeftModel, hidden: Tensor, rows: list[Sequence[int]], yes: int, no: int) -> Tensor:
    last = torch.tensor([len(row) - 1 for row in rows], device=hidden.device)
    each_row = torch.arange(len(rows), device=hidden.device)
    logits = model.get_base_model().lm_head(hidden[each_row, last]).float()  # (B, V)
    return logits[:, yes] - logits[:, no]


def _by_length(prompts: list[Sequence[int]], scores) -> np.ndarray:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    log_odds = np.empty(len(prompts))
    for start in range(0, len(order), EXPERT_BATCH):
        batch = order[start : start + EXPERT_BATCH]
        log_odds[batch] = scores([prompts[i] for i in batch]).double().cpu().numpy()
    return log_odds


SCORES = {"published": published_scores, "expert": expert_scores, "expert, prefix by hand": expert_prefix_scores}
