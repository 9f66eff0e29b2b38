"""Session 4, the loss. Fill in the three functions, then: python -m docs.exercises.session4"""

import torch

from docs.exercises.checking import report, same, to_do


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
        wanted = token_kl(log_probabilities(z), log_probabilities(w))
        same(kl(z, w), wanted, f"logits around {scale}", rtol=1e-4)
    # p is certain of the first entry, to which q gives e^-200: the KL is 200 nats, not infinite.
    same(kl(torch.tensor([200.0, 0.0]), torch.tensor([-200.0, 0.0])), torch.tensor(200.0), "200, 0 and -200, 0")


def check_kl_gradients() -> None:
    """4.2 kl_gradients equal those of autograd: two of them"""
    from loss import log_probabilities, token_kl

    z, w = torch.randn(2, 30, dtype=torch.float64)
    z, w = z.requires_grad_(), w.requires_grad_()
    wanted = torch.autograd.grad(token_kl(log_probabilities(z), log_probabilities(w)), (z, w))
    found = kl_gradients(z.detach(), w.detach())
    assert isinstance(found, (tuple, list)), f"found {type(found).__name__}, wanted a tuple of two tensors"
    assert len(found) == 2, f"found {len(found)} gradients, wanted 2"
    same(found[0], wanted[0], "with respect to logits_p")
    same(found[1], wanted[1], "with respect to logits_q")


def check_pair_loss() -> None:
    """4.3 pair_loss equals loss.paper_loss; mind the sign of the KL"""
    from loss import PairTerms, paper_loss

    for tokens, weight in ((3, 0.3), (3, 0.0), (2, 2.0)):
        terms = torch.rand(3, tokens, dtype=torch.float64)
        wanted = float(paper_loss(PairTerms(*(row[None] for row in terms)), weight, pairs_in_step=1))
        same(pair_loss(*terms.tolist(), weight), wanted, f"{tokens} tokens, lambda = {weight}", rtol=1e-9)


if __name__ == "__main__":
    torch.manual_seed(0)
    report(check_kl, check_kl_gradients, check_pair_loss)
