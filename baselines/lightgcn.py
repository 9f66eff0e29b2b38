"""LightGCN: matrix factorisation whose vectors are first averaged over the graph of who liked what.

He et al. (2020), "LightGCN: simplifying and powering graph convolution network for recommendation", SIGIR; in the form
that CoLLM (Zhang et al. 2025) trains: binary cross-entropy on all labelled rows. `--loss bpr` is the original's loss.

Shape letters: B rows, U users, I items, N = (U + 1) + (I + 1) nodes, D numbers in a vector.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from baselines.base import ANY, DIM, INIT_STD, Method, Option, Training, binary_cross_entropy
from baselines.rows import Rows

REDRAWS = 20  # of a sampled item that the user likes; a user who likes every item keeps the last draw


class LightGCN(nn.Module):
    """s = <e_u, e_i>, where E = mean of E(0) ... E(K), E(k+1) = A^ E(k), A^ = D^-1/2 A D^-1/2, and E(0) is trained.

    liked: (user, item) of every positive training row, (E, 2) int64; the graph has no other edge. layers: K. A node
    without an edge keeps E(0) / (K + 1), as D^-1/2 is 0 for degree 0. The graph is no part of the saved state, and E is
    computed anew in every call, so that it can never be of other weights than these.
    """

    def __init__(self, sizes: tuple[int, int], liked: Tensor, dim: int, layers: int, init_std: float, loss: str):
        super().__init__()
        users, items = sizes
        self.user_vectors = nn.Embedding(users + 1, dim, padding_idx=0)
        self.item_vectors = nn.Embedding(items + 1, dim, padding_idx=0)
        with torch.no_grad():
            for table in (self.user_vectors, self.item_vectors):
                table.weight.mul_(init_std)
        self.layers, self.objective = layers, loss
        self.register_buffer("graph", normalised_graph(liked, users + 1, items + 1), persistent=False)  # (N, N) sparse
        self.register_buffer("pairs", _keys(liked[:, 0], liked[:, 1], items + 1).unique(), persistent=False)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """The final vectors: of users (U + 1, D) and of items (I + 1, D)."""
        layer = total = torch.cat([self.user_vectors.weight, self.item_vectors.weight])
        for _ in range(self.layers):
            layer = SymmetricProduct.apply(self.graph, layer)
            total = total + layer
        return (total / (self.layers + 1)).split([len(self.user_vectors.weight), len(self.item_vectors.weight)])

    def forward(self, rows: Rows) -> Tensor:
        """(B,), the log-odds of liking."""
        users, items = self.propagate()
        return (users[rows.users] * items[rows.items]).sum(-1)

    def loss(self, rows: Rows) -> Tensor:
        """Binary cross-entropy on all rows; with bpr -log sigmoid(s_ui - s_uj) of the liked ones, j drawn."""
        if self.objective == "bce":
            return binary_cross_entropy(self(rows), rows)
        liked = rows[rows.labels == 1]
        others = self.draw_others(liked)
        users, items = self.propagate()
        differences = (users[liked.users] * (items[liked.items] - items[others])).sum(-1)
        return softplus(-differences).sum() / max(1, len(liked))

    def draw_others(self, rows: Rows) -> Tensor:
        """For each row an item that its user did not like in training, (B,), uniform over the catalogue."""
        items = len(self.item_vectors.weight)
        drawn = torch.randint(1, items, rows.items.shape, device=rows.items.device)
        for _ in range(REDRAWS):
            again = torch.isin(_keys(rows.users, drawn, items), self.pairs)
            if not again.any():
                break
            drawn[again] = torch.randint(1, items, (int(again.sum()),), device=drawn.device)
        return drawn


class SymmetricProduct(torch.autograd.Function):
    """graph @ vectors; the gradient is graph @ gradient, since the graph is symmetric: no transpose is made or kept."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, graph: Tensor, vectors: Tensor) -> Tensor:
        """graph (N, N) sparse, vectors (N, D)."""
        ctx.graph = graph
        return graph @ vectors

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[None, Tensor]:
        """The gradient for the vectors, (N, D); the graph has none."""
        return None, ctx.graph @ gradient


def normalised_graph(liked: Tensor, users: int, items: int) -> Tensor:
    """D^-1/2 A D^-1/2, sparse, (users + items, users + items). liked: edges (user, item), (E, 2)."""
    edges = liked.unique(dim=0)  # a pair that was liked twice is one edge
    ends = torch.stack([edges[:, 0], edges[:, 1] + users])
    both = torch.cat([ends, ends.flip(0)], dim=1)  # (2, 2E)
    nodes = users + items
    degree = torch.bincount(both[0], minlength=nodes).double()
    values = (degree[both[0]] * degree[both[1]]).rsqrt().float()  # every end of an edge has a degree of at least 1
    return torch.sparse_coo_tensor(both, values, (nodes, nodes), check_invariants=True).coalesce()


def _keys(users: Tensor, items: Tensor, count: int) -> Tensor:
    """One number per pair of user and item."""
    return users * count + items


def build(training: Training, settings: dict) -> LightGCN:
    """The module for these training rows; its graph has their positive rows alone."""
    rows = training.rows[training.rows.labels == 1]
    liked = torch.stack([rows.users, rows.items], dim=1)
    wanted = {name: settings[name] for name in ("dim", "layers", "init_std", "loss")}
    return LightGCN((training.users, training.items), liked, **wanted)


OF_COLLM = {"layers": 2, "init_std": 0.1, "epochs": 5000, "patience": 100}
METHOD = Method(
    "lightgcn",
    "matrix factorisation over vectors averaged along the graph of likes",
    build,
    options=(
        DIM,
        INIT_STD,
        Option("layers", 2, "K, how many steps along the graph are averaged", low=0, high=10),
        Option("loss", "bce", "bce: on labelled rows; bpr: liked items against drawn ones", choices=("bce", "bpr")),
    ),
    published={
        ANY: OF_COLLM | {"dim": 64, "lr": 1e-2, "l2": 1e-4, "batch_size": 2048},
        "amazon-book": OF_COLLM | {"dim": 256, "lr": 1e-4, "l2": 1e-7, "batch_size": 10240},
    },
    needs_users=True,
)
