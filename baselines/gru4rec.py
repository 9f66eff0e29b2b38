"""GRU4Rec: a gated recurrent unit reads the history, and its last state is the user.

    h_l = GRU(h_{l-1}, e_l) over the history,  s = <h_L, w_t> + b_t

Source: the public code of DROS (Yang et al. 2023), after Hidasi et al. 2016. The original differs: it trains
parallel sessions with a ranking loss over sampled items (BPR, TOP1, later cross-entropy), 100 units and Adagrad. This
is the few-shot form that TALLRec compares with. It is no replacement for the official GRU4Rec.
"""

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from baselines.base import ANY, Method, Training
from baselines.rows import Rows
from baselines.sequence import FORM, OPTIONS, PUBLISHED, SequenceModel, embed_history


class GRUEncoder(nn.Module):
    """The state of a GRU after the last real item, (B, hidden).

    embedding: rows to (B, L, embedding.width). No dropout. The sequences are packed, so padding is never read; a row
    without history is read as one padding item, as in the public code.
    """

    def __init__(self, embedding: nn.Module, hidden: int = 64, layers: int = 1):
        super().__init__()
        self.embedding, self.width = embedding, hidden
        self.gru = nn.GRU(embedding.width, hidden, num_layers=layers, batch_first=True)

    def forward(self, rows: Rows) -> Tensor:
        """(B, hidden). The public code flattens (layers, B, hidden), which is right only for one layer."""
        lengths = rows.lengths.clamp(min=1).cpu()
        packed = pack_padded_sequence(self.embedding(rows), lengths, batch_first=True, enforce_sorted=False)
        _, states = self.gru(packed)  # (layers, B, hidden)
        return states[-1]


def encoder(training: Training, settings: dict) -> GRUEncoder:
    """With the published form of the items' vectors."""
    return GRUEncoder(embed_history(training.items, settings), settings["dim"])


def build(training: Training, settings: dict) -> SequenceModel:
    """The module for these training rows."""
    return SequenceModel(encoder(training, settings), training.items, settings["loss"])


METHOD = Method(
    "gru4rec",
    "a gated recurrent unit over the history",
    build,
    options=OPTIONS,
    history=FORM,
    published={ANY: PUBLISHED},
)
