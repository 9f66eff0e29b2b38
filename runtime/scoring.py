"""One forward pass per prompt: what the model answers, in both polarities, as arrays.

Shape letters: N rows, B rows of a batch, V vocabulary.
"""

import numpy as np
import torch
from tqdm import tqdm

from data.pairs import EncodedPair, pad_right
from loss import log_probabilities, token_kl
from metrics import Scored
from model.llama import Llama
from runtime.flags import RunError

TOKENS_PER_BATCH = 8192


def score(
    model: Llama,
    pairs: list[EncodedPair],
    labels: list[bool],
    users: list,
    answers: dict[bool, list[int]],
    negatives: bool = True,
    progress: str | None = None,
) -> Scored:
    """The answer to every pair's positive prompt, and its negative one unless told otherwise.

    answers: token ids of the two answers (data.pairs.answer_ids); the first of each is looked at.
    progress: what to call the progress bar; none if None. The model is left in evaluation mode.
    """
    model.eval()
    yes, no = answers[True][0], answers[False][0]
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].length)  # little padding
    columns = ["log_yes_pos", "log_no_pos"] + (["log_yes_neg", "log_no_neg", "kl", "js"] if negatives else [])
    found = {name: np.empty(len(pairs)) for name in columns}
    # A score is a difference of logits: in bf16, logits around 16 are 1/16 apart. One float32 copy
    # of lm_head serves all batches; it meets a single position per prompt.
    lm_head = model.lm_head.weight.float()  # (V, D)
    with torch.inference_mode(), tqdm(total=len(pairs), desc=progress, unit="pair", leave=False, disable=None if progress else True) as bar:
        for batch in _batches(order, pairs, 2 if negatives else 1):
            prompts = [pairs[i].positive.prompt for i in batch]
            if negatives:
                prompts += [pairs[i].negative.prompt for i in batch]
            log_p = log_probabilities(_last_hidden(model, prompts).float() @ lm_head.T)  # (B, V)
            values = [log_p[: len(batch), yes], log_p[: len(batch), no]]
            if negatives:
                pos, neg = log_p[: len(batch)], log_p[len(batch) :]
                values += [neg[:, yes], neg[:, no], token_kl(pos, neg), jensen_shannon(pos, neg)]
            for name, value in zip(columns, values):
                found[name][batch] = value.double().cpu().numpy()
            refuse_non_finite(found, batch, pairs)
            bar.update(len(batch))
    return Scored(list(users), np.array(labels, dtype=bool), **found)


def refuse_non_finite(found: dict[str, np.ndarray], batch: list[int], pairs: list[EncodedPair]) -> None:
    """Raises RunError naming the first pair whose scores are not finite: no metric could use them."""
    for i in batch:
        bad = [name for name, values in found.items() if not np.isfinite(values[i])]
        if bad:
            raise RunError(f"{bad[0]} of {pairs[i].name} is {found[bad[0]][i]}; the adapter or the base is damaged")


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, in nats; (B, V) each to (B,)."""
    log_m = torch.logaddexp(log_p, log_q) - np.log(2.0)
    return 0.5 * (token_kl(log_p, log_m) + token_kl(log_q, log_m))


def _last_hidden(model: Llama, prompts: list[list[int]]) -> torch.Tensor:
    device = model.lm_head.weight.device
    last = torch.tensor([len(ids) - 1 for ids in prompts], device=device)
    hidden_states = model.model(pad_right(prompts).to(device))  # (B, T, D)
    return hidden_states[torch.arange(len(prompts), device=device), last]  # (B, D)


def _batches(order: list[int], pairs: list[EncodedPair], rows_per_pair: int):
    """Runs of `order`, shortest first, of at most TOKENS_PER_BATCH tokens with their padding."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * rows_per_pair * pairs[i].length > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
