"""Session 5, the loop. Fill in the three functions, then: python -m docs.exercises.session5"""

from docs.exercises.checking import report, same, to_do


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """The learning rate of optimizer step `step`, counted from 0.

    It rises linearly to the peak in warmup_steps, then falls linearly to 0 at total_steps.
    """
    return to_do()


def paper_share(micro_batch_losses: list[float], pairs_in_step: int) -> float:
    """What one micro-batch adds to the loss of the step under Eq. 3, from the losses of its pairs."""
    return to_do()


def released_share(micro_batch_losses: list[float], accumulation_steps: int) -> float:
    """As the published code divides: the mean over the micro-batch, by the micro-batches of a full step."""
    return to_do()


# ---- the checks: nothing to fill in below --------------------------------------------------------


def check_learning_rate() -> None:
    """5.1 learning_rate equals train.learning_rate"""
    import train
    from cli.train import TrainFlags

    for total, warmup, peak in ((30, 7, 0.1), (12, 1, 3.0)):
        for step in range(total):
            wanted = train.learning_rate(step, total, TrainFlags(lr=peak, warmup_steps=warmup))
            where = f"step {step} of {total}, {warmup} of them warm-up, peak {peak}"
            same(learning_rate(step, total, warmup, peak), wanted, where, rtol=1e-9)


STEPS = ([4.0, 1.0, 2.0, 3.0, 7.0, 1.0], [1.0, 0.0, 0.0, 5.0, 0.5, 2.0])  # the losses of the six pairs of a step


def check_paper_share() -> None:
    """5.2 paper_share equals loss.paper_loss, so that every division of six pairs gives the same step"""
    import torch

    from loss import PairTerms, paper_loss

    for losses in STEPS:
        for size in (1, 2, 3, 4, 6):
            pieces = [losses[i : i + size] for i in range(0, 6, size)]
            for piece in pieces:
                ce = torch.tensor(piece, dtype=torch.float64)[:, None]
                nothing = torch.zeros_like(ce)
                wanted = float(paper_loss(PairTerms(ce, nothing, nothing), 0.0, pairs_in_step=6))
                same(paper_share(piece, 6), wanted, f"{piece} of a step of 6 pairs", rtol=1e-9)
            same(sum(paper_share(piece, 6) for piece in pieces), sum(losses) / 6, f"{pieces}", rtol=1e-9)


def check_released_share() -> None:
    """5.3 the step of the published code depends on its division, and a short step counts less"""
    # Six pairs in micro-batches of 4 and 2 give 1.25 + 2, in micro-batches of 3 and 3 they give 7/6 + 11/6.
    for losses, steps, wanted in (
        ([4.0, 1.0, 2.0, 3.0], 2, 1.25),
        ([7.0, 1.0], 2, 2.0),
        ([4.0, 1.0, 2.0], 2, 7 / 6),
        ([3.0, 7.0, 1.0], 2, 11 / 6),
        ([5.0, 1.0], 3, 1.0),
    ):
        same(released_share(losses, steps), wanted, f"{losses}, {steps} accumulation steps", rtol=1e-9)


if __name__ == "__main__":
    report(check_learning_rate, check_paper_share, check_released_share)
