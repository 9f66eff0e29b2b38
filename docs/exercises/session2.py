"""Session 2, LLaMA. Fill in the four functions, then: python -m docs.exercises.session2"""

import torch

from docs.exercises.checking import report, same, to_do


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide x by the root of its mean square (plus eps) over D, then scale. x: (..., D), weight: (D,)."""
    return to_do()


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of one head with loops over positions. q, k, v: (T, Dh), already rotated; returns (T, Dh)."""
    return to_do()


def rotate_by_complex_numbers(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Treat components i and i + Dh/2 as one complex number and multiply it by e^(i angle).

    x: (T, Dh), angles: (T, Dh/2); returns (T, Dh).
    """
    return to_do()


def tokens_in_tree(rows: list[list[int]]) -> int:
    """How many tokens the model computes for these rows: each distinct beginning of a row counts once."""
    return to_do()


# ---- the checks: nothing to fill in below --------------------------------------------------------


def check_rms_norm() -> None:
    """2.1 rms_norm equals model.llama.RMSNorm, also where eps matters"""
    from model.llama import RMSNorm

    for eps, scale in ((1e-5, 4.0), (1e-5, 1e-3), (1e-2, 0.1), (1e-5, 0.0)):
        norm = RMSNorm(16, eps)
        torch.nn.init.normal_(norm.weight)
        x = torch.randn(3, 5, 16) * scale
        same(rms_norm(x, norm.weight, eps), norm(x), f"entries around {scale}, eps {eps}")


def check_attend() -> None:
    """2.2 attend equals scaled_dot_product_attention with a causal mask"""
    for length, size in ((6, 8), (3, 4), (1, 8)):
        q, k, v = torch.randn(3, length, size)
        wanted = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        same(attend(q, k, v), wanted, f"T = {length}, Dh = {size}")


def check_rotate() -> None:
    """2.3 rotate_by_complex_numbers equals model.llama.rotate"""
    from model.llama import rotate

    for size in (8, 4):
        x, angles = torch.randn(6, size), torch.randn(6, size // 2)
        cos, sin = torch.cat((angles.cos(), angles.cos()), dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)
        wanted = rotate(x[None, None], cos, sin)[0, 0]
        same(rotate_by_complex_numbers(x, angles), wanted, f"Dh = {size}")


def check_tokens_in_tree() -> None:
    """2.4 tokens_in_tree equals the size of model.prefix_tree.PrefixTree"""
    from model.prefix_tree import PrefixTree

    draws = [torch.randint(2, (rows, 5)).tolist() for rows in (1, 4, 9)]
    for rows in ([[1, 2, 3], [1, 2, 4]], [[1, 2], [3, 2]], [[1, 2, 3], [1, 2, 3], [1, 2]], *draws):
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.tensor([row + [0] * (int(lengths.max()) - len(row)) for row in rows])
        tree = PrefixTree(ids, lengths, None, like=torch.empty(0))
        same(tokens_in_tree(rows), len(tree), f"rows {rows}"[:80])


if __name__ == "__main__":
    torch.manual_seed(0)
    report(check_rms_norm, check_attend, check_rotate, check_tokens_in_tree)
