"""Session 4, the loss. Fill in the three functions, then: python -m docs.exercises.session4"""

import torch

from docs.exercises.checking import report, to_do


def kl(logits_p: torch.Tensor, logits_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of two distributions given by their logits, (V,) each, in nats. Never take the log of a softmax."""
    return to_do()


def kl_gradients(logits_p: torch.Tensor, logits_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of that KL with respect to logits_p and logits_q, (V,) each, as formulas, without autograd."""
    return to_do()


def pair_loss(ce_pos: list[float], ce_neg: list[float], kl_terms: list[float], kl_weight: float) -> float:
    """Eq. 3 for one pair, from the terms of its answer tokens."""
    return to_do()


# ---- the checks: nothing to fill in below --------------------------------------------------------


def check_kl() -> None:
    """4.1 kl equals loss.token_kl, also where a softmax underflows"""
    from loss import log_probabilities, token_kl

    for scale in (1.0, 200.0):
        z, w = torch.randn(2, 30) * scale
        torch.testing.assert_close(kl(z, w), token_kl(log_probabilities(z), log_probabilities(w)), rtol=1e-4, atol=1e-6)
    # p is certain of the first entry, to which q gives e^-200: the KL is 200 nats, not infinite.
    torch.testing.assert_close(kl(torch.tensor([200.0, 0.0]), torch.tensor([-200.0, 0.0])), torch.tensor(200.0))


def check_kl_gradients() -> None:
    """4.2 kl_gradients equal those of autograd"""
    from loss import log_probabilities, token_kl

    z, w = torch.randn(2, 30, dtype=torch.float64)
    z, w = z.requires_grad_(), w.requires_grad_()
    wanted = torch.autograd.grad(token_kl(log_probabilities(z), log_probabilities(w)), (z, w))
    for gradient, exact in zip(kl_gradients(z.detach(), w.detach()), wanted):
        torch.testing.assert_close(gradient, exact)


def check_pair_loss() -> None:
    """4.3 pair_loss equals loss.paper_loss; mind the sign of the KL"""
    from loss import PairTerms, paper_loss

    terms = torch.rand(3, 3, dtype=torch.float64)
    wanted = float(paper_loss(PairTerms(*(row[None] for row in terms)), 0.3, pairs_in_step=1))
    assert abs(pair_loss(*terms.tolist(), 0.3) - wanted) < 1e-12, f"wanted {wanted}"


if __name__ == "__main__":
    torch.manual_seed(0)
    report(check_kl, check_kl_gradients, check_pair_loss)
