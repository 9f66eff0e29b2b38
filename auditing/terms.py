"""One pair under the project's own code: logits, every term of every reading of the loss, and their gradients.

What audit.py holds against a second implementation. A reading is an answer to "which KL?": Eq. 2 with
each side forced on its own answer (own), with one answer for both sides (shared), at the first token
alone (first), or what the authors' code computes (released).

Shape letters: T tokens, A answer positions, N positions of the positive row, V vocabulary.
"""

import copy
import difflib
from dataclasses import dataclass

import torch
from torch import Tensor

from data.pairs import EncodedPair, PairBatch, aligned_positions, collate, next_tokens
from lora.layer import LoRALinear
from loss import PairTerms, answer_terms, log_probabilities, paper_loss, released_loss, sequence_terms
from model.llama import Llama, rope_tables
from model.tokenizer import Tokenizer

READINGS = ("own", "shared", "first", "released")
TOP = 10  # vocabulary entries shown


def rows_of(pair: EncodedPair) -> PairBatch:
    """Three rows, as `--kl-forcing shared` trains on: (X+, Y+), (X-, Y-), (X-, Y+)."""
    return collate([pair], negatives=True, shared=True)


@dataclass(frozen=True)
class Terms:
    """paper: by reading own, shared and first, (1, A) each; ce, kl: (N,), those of released, whose targets are next_ids (N,)."""

    paper: dict[str, PairTerms]
    ce: Tensor
    kl: Tensor
    next_ids: Tensor

    def detached(self) -> "Terms":
        """The same without a graph."""
        paper = {name: PairTerms(*(term.detach() for term in terms)) for name, terms in self.paper.items()}
        return Terms(paper, self.ce.detach(), self.kl.detach(), self.next_ids)

    def loss(self, reading: str, kl_weight: float) -> Tensor:
        """L of this pair alone, a scalar."""
        if reading == "released":
            return released_loss(self.ce, self.kl, self.next_ids, kl_weight, pairs=1, accumulation_steps=1)
        return paper_loss(self.paper[reading], kl_weight, pairs_in_step=1)

    def cross_entropy(self, reading: str) -> Tensor:
        """CE as it stands in L, a scalar."""
        return self.loss(reading, 0.0)

    def divergence(self, reading: str) -> Tensor:
        """KL as it stands in L before lambda, a scalar; that of released within its bound."""
        if reading == "released":
            return -released_loss(self.ce * 0, self.kl, self.next_ids, 1.0, pairs=1, accumulation_steps=1)
        return self.paper[reading].kl.sum()


def lora_tensors(model: Llama) -> dict[str, Tensor]:
    """A and B of every LoRA layer by their names in the model."""
    return {name: parameter for name, parameter in model.named_parameters() if name.endswith(("lora_A", "lora_B"))}


def terms_of(logits: Tensor, batch: PairBatch) -> Terms:
    """Every term by loss.py, with its graph. logits: (3, T, V), of all positions of rows_of(pair)."""
    device = logits.device
    positions, targets = batch.positions.to(device), batch.targets.to(device)
    at = logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))  # (3, A, V)
    paper = {
        "own": answer_terms(at[:2], targets[:2], 1),
        "shared": answer_terms(at, targets, 1),
        "first": answer_terms(at[:2], targets[:2], 1, kl_tokens="first"),
    }
    lengths, input_ids = batch.lengths.to(device), batch.input_ids.to(device)
    _, column, column_neg, has_partner = aligned_positions(lengths[0:1], lengths[1:2])  # (N,) each
    next_ids = next_tokens(input_ids[0:1], lengths[0:1])[0, column]
    # lm_head has been applied already.
    ce, kl = sequence_terms(lambda rows: rows, logits[0, column], logits[1, column_neg], next_ids)
    return Terms(paper, ce, kl.masked_fill(~has_partner, 0.0), next_ids)


def gradients(terms: Terms, parameters: dict[str, Tensor]) -> dict[str, dict[str, dict[str, Tensor]]]:
    """{reading: {"CE" or "KL": {parameter's name: gradient}}}, before lambda."""
    found: dict = {}
    for reading in READINGS:
        found[reading] = {}
        for term, value in (("CE", terms.cross_entropy(reading)), ("KL", terms.divergence(reading))):
            grads = torch.autograd.grad(value, list(parameters.values()), retain_graph=True)
            found[reading][term] = dict(zip(parameters, grads))
    return found


class Tail:
    """The last decoder layer that has LoRA, and all that follows it, as a float64 copy of its own.

    In the base's precision a difference quotient drowns in rounding; a copy of a 7B model in float64
    would take 54 GB. A layer, the norm and lm_head take little, and reach the last LoRA tensors.
    """

    def __init__(self, model: Llama, input_ids: Tensor):
        """input_ids: (B, T), on the model's device."""
        with_lora = [any(isinstance(module, LoRALinear) for module in layer.modules()) for layer in model.model.layers]
        start = max(index for index, found in enumerate(with_lora) if found)
        seen = []
        hook = model.model.layers[start].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            model(input_ids, torch.zeros(len(input_ids), 1, dtype=torch.int64, device=input_ids.device))
        hook.remove()
        self.hidden_states = seen[0].double()  # (B, T, D)
        self.rotary = rope_tables(model.config, input_ids.shape[1], like=self.hidden_states)
        self.layers = copy.deepcopy(model.model.layers[start:]).double()
        self.norm, self.lm_head = (copy.deepcopy(part).double() for part in (model.model.norm, model.lm_head))
        own = {
            f"model.layers.{start}.{name.removeprefix('0.')}": parameter
            for name, parameter in self.layers[:1].named_parameters()
        }
        self.parameters = {name: parameter for name, parameter in own.items() if name.endswith(("lora_A", "lora_B"))}

    def logits(self) -> Tensor:
        """(B, T, V) float64, with its graph."""
        hidden_states = self.hidden_states
        for layer in self.layers:
            hidden_states = layer(hidden_states, *self.rotary)
        return self.lm_head(self.norm(hidden_states))

    def nudged(self, name: str, index: int, by: float) -> Tensor:
        """logits() with this much added to one entry of a parameter, counted in its flat order. No graph."""
        entries = self.parameters[name].detach().view(-1)  # shares its memory
        before = entries[index].item()
        entries[index] = before + by
        with torch.no_grad():
            logits = self.logits()
        entries[index] = before
        return logits


# ---- what the report shows ----------------------------------------------------------------------


def row_figures(tokenizer: Tokenizer, pair: EncodedPair) -> dict[str, list[dict]]:
    """(X+, Y+) and (X-, Y-) token by token: id, piece, whether it is of the answer, the rows differ there, a line ends."""
    rows = {"positive": pair.positive, "negative": pair.negative}
    figures = {
        side: [
            {
                **_token(tokenizer, token_id),
                "answer": i >= len(row.prompt),
                "changed": False,
                "ends_line": tokenizer.ends_line(token_id),
            }
            for i, token_id in enumerate(row.ids)
        ]
        for side, row in rows.items()
    }
    alignment = difflib.SequenceMatcher(None, pair.positive.ids, pair.negative.ids, autojunk=False)
    for kind, start, end, start_neg, end_neg in alignment.get_opcodes():
        for token in figures["positive"][start:end] + figures["negative"][start_neg:end_neg]:
            token["changed"] = kind != "equal"
    return figures


def answer_figures(tokenizer: Tokenizer, pair: EncodedPair, terms: Terms, logits: Tensor) -> list[dict]:
    """Per answer token t: the targets, their log-probabilities in nats, every term, and the words that make up each KL.

    logits: (3, T, V). log_q_pos_*: what X- gives the positive target; own after Y-_<t, shared after Y+_<t.
    """
    log_probs = log_probabilities(logits)
    y_pos, y_neg = pair.positive.answer, pair.negative.answer
    found = []
    for t in range(min(len(y_pos), len(y_neg))):
        at, at_neg = len(pair.positive.prompt) - 1 + t, len(pair.negative.prompt) - 1 + t
        aligned = at + len(pair.negative.ids) - len(pair.positive.ids)
        log_p, own, shared = log_probs[0, at], log_probs[1, at_neg], log_probs[2, at_neg]  # (V,) each
        found.append(
            {
                "t": t + 1,
                "target_pos": _token(tokenizer, y_pos[t]),
                "target_neg": _token(tokenizer, y_neg[t]),
                "log_p_pos": float(log_p[y_pos[t]]),
                "log_q_pos_own": float(own[y_pos[t]]),
                "log_q_pos_shared": float(shared[y_pos[t]]),
                "log_q_neg": float(own[y_neg[t]]),
                "ce_pos": float(terms.paper["own"].ce_pos[0, t]),
                "ce_neg": float(terms.paper["own"].ce_neg[0, t]),
                "kl_own": float(terms.paper["own"].kl[0, t]),
                "kl_shared": float(terms.paper["shared"].kl[0, t]),
                "kl_first": float(terms.paper["first"].kl[0, t]),
                "kl_released": float(terms.kl[at]),
                "top": {
                    "own": _contributions(tokenizer, log_p, own),
                    "shared": _contributions(tokenizer, log_p, shared),
                    "released": _contributions(tokenizer, log_probs[1, aligned], log_p),
                },
            }
        )
    return found


def released_figures(tokenizer: Tokenizer, pair: EncodedPair, terms: Terms) -> dict:
    """Where the published code's KL comes from: per position of the positive row, and summed over its parts, nats.

    The position of a token is where the next one is predicted, so an answer's first token belongs to the prompt's last.
    """
    ids, n_prompt = pair.positive.ids, len(pair.positive.prompt)
    rows = row_figures(tokenizer, pair)["positive"]
    first_change = next((i for i, token in enumerate(rows) if token["changed"]), n_prompt)
    kl = terms.kl.tolist()  # N
    parts = {
        "prompt, before the first changed word": (0, first_change),
        "prompt, from there on": (first_change, n_prompt - 1),
        "answer tokens": (n_prompt - 1, len(ids) - 1),
        "after EOS": (len(ids) - 1, len(ids)),
    }
    return {
        "kl": kl,
        "ce": terms.ce.tolist(),
        "parts": [
            {"part": part, "positions": end - start, "kl": sum(kl[start:end])} for part, (start, end) in parts.items()
        ],
    }


def _token(tokenizer: Tokenizer, token_id: int) -> dict:
    return {"id": token_id, "piece": tokenizer.piece(token_id)}


def _contributions(tokenizer: Tokenizer, log_a: Tensor, log_b: Tensor) -> list[dict]:
    """The TOP vocabulary entries of KL(a || b) = sum_v a(v) [log a(v) - log b(v)] by size; (V,) each."""
    a = log_a.exp()
    parts = torch.where(a > 0, a * (log_a - log_b), 0.0)
    return [
        {**_token(tokenizer, v), "a": float(a[v]), "b": float(log_b[v].exp()), "nats": float(parts[v])}
        for v in parts.abs().topk(min(TOP, len(parts))).indices.tolist()
    ]
