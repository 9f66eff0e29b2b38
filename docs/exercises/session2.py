"""Session 2, LLaMA. Fill in the three functions, then: python -m docs.exercises.session2"""

import torch

from docs.exercises.checking import report, to_do


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


# ---- the checks: nothing to fill in below --------------------------------------------------------


def check_rms_norm() -> None:
    """2.1 rms_norm equals model.llama.RMSNorm"""
    from model.llama import RMSNorm

    norm = RMSNorm(16, 1e-5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, 16) * 4
    torch.testing.assert_close(rms_norm(x, norm.weight, 1e-5), norm(x))


def check_attend() -> None:
    """2.2 attend equals scaled_dot_product_attention with a causal mask"""
    q, k, v = torch.randn(3, 6, 8)
    wanted = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    torch.testing.assert_close(attend(q, k, v), wanted)


def check_rotate() -> None:
    """2.3 rotate_by_complex_numbers equals model.llama.rotate"""
    from model.llama import rotate

    x, angles = torch.randn(6, 8), torch.randn(6, 4)
    doubled = torch.cat((angles, angles), dim=-1)
    wanted = rotate(x[None, None], doubled.cos(), doubled.sin())[0, 0]
    torch.testing.assert_close(rotate_by_complex_numbers(x, angles), wanted)


if __name__ == "__main__":
    torch.manual_seed(0)
    report(check_rms_norm, check_attend, check_rotate)
