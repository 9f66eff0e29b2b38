"""--objective released: the loss of the authors' published code, over whole rows.

Shape letters: P pairs, N tokens of all positive rows, U distinct (token, partner, next token) among them,
D hidden_size.
"""

import math
from dataclasses import dataclass

import torch

from data.pairs import EncodedPair, PairBatch, aligned_positions, next_tokens
from loss import released_loss, sequence_terms
from model.llama import Llama
from model.prefix_tree import prefix_tree, take
from objectives.base import Objective, PairLoss, rows_in_blocks
from tensors import on_device


@dataclass(frozen=True)
class Released(Objective):
    """What the authors' published code computes; docs/method.md puts it beside the paper's equations."""

    kl_weight: float
    batch_size: int
    micro_batch_size: int
    about = "the loss of the published code, with the wording and settings of this run"
    published, rows_per_pair, rows_with_gradient = (
        True,
        2,
        1,
    )  # (X+, Y+) and (X-, Y-), of which the published code detaches the second
    whole_rows, any_micro_batch = True, False  # it looks at prompt, answer and after, and divides by the micro-batch

    @classmethod
    def presets(cls, data: str) -> dict[str, tuple]:
        """Its wording, its dropout, and no weight decay; lambda is 1e-4 for every data set."""
        values = {"template": "released", "weight_decay": 0.0, "lora_dropout": 0.05}
        return {name: (value, "released") for name, value in values.items()}

    def loss(self, model: Llama, pairs: list[EncodedPair], pairs_in_step: int) -> PairLoss:
        """loss.released_loss; pairs_in_step plays no part in it."""
        accumulation_steps = math.ceil(self.batch_size / self.micro_batch_size)
        return whole_row_loss(model, rows_in_blocks(pairs, self.rows_per_pair), self.kl_weight, accumulation_steps)


def whole_row_loss(model: Llama, batch: PairBatch, kl_weight: float, accumulation_steps: int) -> PairLoss:
    """loss.released_loss of a batch of positive rows, with its negative rows as the KL's other side if it has them."""
    P, lengths, negatives = batch.pairs, batch.lengths, len(batch.lengths) > batch.pairs
    # (N,) each
    row, column, column_neg, has_partner = aligned_positions(lengths[:P], lengths[P:] if negatives else lengths[:P])
    targets = next_tokens(batch.input_ids[:P], lengths[:P])[row, column]
    tree = prefix_tree(model, batch.input_ids[:P], lengths[:P])
    tree_neg = prefix_tree(model, batch.input_ids[P:], lengths[P:]) if negatives else tree
    # A position that several rows share, with its partner and its next token, has the same terms in all of them.
    triples = torch.stack((tree.index[row, column], tree_neg.index[row, column_neg], targets))  # (3, N)
    (token, token_neg, target), place = triples.unique(dim=1, return_inverse=True)  # (U,) each; (N,)
    parts = [token, token_neg, target, place, row, targets, (~has_partner).long()]
    token, token_neg, target, place, row, targets, alone = on_device(parts, model.lm_head.weight.device)
    hidden_pos = take(model.model(tree.input_ids, tree), token)  # (U, D)
    hidden_neg = None
    if negatives:
        with torch.no_grad():  # the published code detaches this side, so it needs no graph
            hidden_neg = take(model.model(tree_neg.input_ids, tree_neg), token_neg)  # (U, D)
    ce, kl = sequence_terms(model.lm_head, hidden_pos, hidden_neg, target)
    ce, kl = (term[place] for term in (ce, kl))  # (N,) each
    kl = kl.masked_fill(alone > 0, 0.0)
    loss = released_loss(ce, kl, targets, kl_weight, P, accumulation_steps)
    terms = {name: term.new_zeros(P).index_add(0, row, term.detach()) for name, term in (("ce_pos", ce), ("kl", kl))}
    return PairLoss(loss, terms, int(batch.lengths.sum()))
