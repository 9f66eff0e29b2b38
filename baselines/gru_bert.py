"""GRU-BERT: GRU4Rec whose items are their own vectors beside their titles' BERT vectors.

    e_i = [v_i ; W c_i + b],  h_l = GRU(h_{l-1}, e_l) over the history,  s = <h_L, w_t> + b_t

with v_i learnt, and c_i the frozen [CLS] vector of item i's title. Source: TALLRec (Bao et al. 2023, section 3.1),
which says this, four layers, hidden size 1,024 and bert-base-uncased, and has no public code. Ours: BERT is frozen, 64
numbers for v_i and for W c_i, and by default the one layer of 64 that GRU4Rec has, so that the two differ by the titles
alone. Titles are read in the history only; the target still has an output row of its own, as in GRU4Rec.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from baselines.base import ANY, Method, Option, Training
from baselines.gru4rec import GRUEncoder
from baselines.rows import Rows
from baselines.sequence import FORM, OPTIONS, PUBLISHED, SequenceModel, embed_history
from baselines.title_vectors import describe_bert, title_vectors
from errors import FlagError

BERT_OPTIONS = (
    Option("bert", "", "folder of a BERT that reads the titles, see docs/models.md"),
    Option("title_dim", 64, "numbers that a title's vector is mapped to", low=1, high=4096),
    Option("hidden", 64, "size of the GRU's state", low=1, high=8192),
    Option("layers", 1, "layers of the GRU", low=1, high=16),
)
PUBLISHED_BERT = PUBLISHED | {"hidden": 1024, "layers": 4}
OURS = {"hidden": 64, "layers": 1}


class TitleEmbedding(nn.Module):
    """[an item's own vector ; a linear map of its title's vector], rows to (B, L, width).

    items: embeds a history, see sequence.HistoryEmbedding; vectors: (|I| + 1, D), frozen, row 0 is padding's.
    """

    def __init__(self, items: nn.Module, vectors: Tensor, title_dim: int = 64):
        super().__init__()
        self.items, self.width = items, items.width + title_dim
        self.title = nn.Linear(vectors.shape[1], title_dim)
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, rows: Rows) -> Tensor:
        """(B, L, width)."""
        return torch.cat([self.items(rows), self.title(self.vectors[rows.history])], dim=-1)


def encoder(training: Training, settings: dict) -> GRUEncoder:
    """A GRU over items and titles; computes the titles' vectors, or takes them from the cache."""
    vectors = title_vectors(training.ids.titles, Path(settings["bert"]))
    embedding = TitleEmbedding(embed_history(training.items, settings), vectors, settings["title_dim"])
    return GRUEncoder(embedding, settings["hidden"], settings["layers"])


def build(training: Training, settings: dict) -> SequenceModel:
    """The module for these training rows."""
    return SequenceModel(encoder(training, settings), training.items, settings["loss"])


def bert_of(settings: dict) -> dict[str, str]:
    """{"bert": which one it is}. Raises FlagError if none is named, CheckpointError if the folder is no BERT."""
    if not settings["bert"]:
        raise FlagError("--bert: say which BERT reads the titles, a folder; docs/models.md says where to get one")
    return {"bert": describe_bert(Path(settings["bert"]))}


METHOD = Method(
    "gru-bert",
    "GRU4Rec that also reads the titles of the history, as a frozen BERT sees them",
    build,
    options=(*OPTIONS, *BERT_OPTIONS),
    history=FORM,
    published={ANY: PUBLISHED_BERT},
    ours=OURS,
    inputs=bert_of,
)
