"""Caser: the embedded history is an image, read by horizontal and vertical convolutions.

    h = [max over time of ReLU(F * E + b) for each horizontal filter F; ReLU(v^T E + b)],  s = <h, w_t> + b_t

Source: the public code of DROS (Yang et al. 2023), after Tang & Wang 2018. The original differs: the last 5 items,
d 50, four vertical filters, horizontal filters of all heights 1 to 5, dropout 0.5, three sampled negatives, and a user
vector beside the filters' outputs. There is no user vector here.
"""

import torch
from torch import Tensor, nn

from baselines.base import ANY, DROPOUT, Method, Training
from baselines.rows import Rows
from baselines.sequence import FORM, OPTIONS, PUBLISHED, SequenceModel, embed_history, is_real, pad_to


class CaserEncoder(nn.Module):
    """Filters over the (L, d) image of a history, (B, filters · heights + d).

    embedding: rows to (B, L, embedding.width); length: L, to which every history is padded with zeros; filters: how
    many there are of each height. Horizontal filters cover `height` items in a row and all d dimensions, then the
    maximum over time is taken; heights above L are left out. The vertical filter is a learnt weighted sum over the L
    items, the same for every dimension. The bias of a filter acts on padding too, so padding takes part in the maximum,
    as published.
    """

    def __init__(
        self,
        embedding: nn.Module,
        length: int = 10,
        heights: tuple[int, ...] = (2, 3, 4),
        filters: int = 16,
        dropout: float = 0.1,
    ):
        super().__init__()
        d, heights = embedding.width, tuple(height for height in heights if height <= length)
        self.embedding, self.length, self.width = embedding, length, filters * len(heights) + d
        self.horizontal = nn.ModuleList(nn.Conv2d(1, filters, (height, d)) for height in heights)
        self.vertical = nn.Conv2d(1, 1, (length, 1))
        self.dropout = nn.Dropout(dropout)
        for convolution in (*self.horizontal, self.vertical):
            nn.init.xavier_normal_(convolution.weight)
            nn.init.constant_(convolution.bias, 0.1)

    def forward(self, rows: Rows) -> Tensor:
        """(B, filters · heights + d)."""
        rows = pad_to(rows, self.length)
        image = (self.embedding(rows) * is_real(rows)).unsqueeze(1)  # (B, 1, L, d)
        # (B, filters, positions, 1); the dimensions are named, since a bare squeeze breaks a batch of one
        maxima = [torch.relu(convolution(image)).amax(2).squeeze(2) for convolution in self.horizontal]
        weighted = torch.relu(self.vertical(image))  # (B, 1, 1, d)
        return self.dropout(torch.cat([*maxima, weighted.flatten(1)], dim=1))


def encoder(training: Training, settings: dict) -> CaserEncoder:
    """With the published form of the items' vectors."""
    embedding = embed_history(training.items, settings)
    return CaserEncoder(embedding, settings["length"], dropout=settings["dropout"])


def build(training: Training, settings: dict) -> SequenceModel:
    """The module for these training rows."""
    return SequenceModel(encoder(training, settings), training.items, settings["loss"])


METHOD = Method(
    "caser",
    "horizontal and vertical convolutions over the history",
    build,
    options=(*OPTIONS, DROPOUT),
    history=FORM,
    published={ANY: PUBLISHED},
)
