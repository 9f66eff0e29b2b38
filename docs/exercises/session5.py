"""Session 5, the loop. Fill in the three functions, then: python -m docs.exercises.session5"""

from docs.exercises.checking import report, to_do


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """The learning rate of optimizer step `step`, counted from 0.

    It rises linearly to the peak in warmup_steps, then falls linearly to 0 at total_steps.
    """
    return to_do()


def paper_share(micro_batch_losses: list[float], pairs_in_step: int) -> float:
    """What one micro-batch adds to the loss of the step under Eq. 3, from the losses of its pairs."""
    return to_do()


def released_share(micro_batch_losses: list[float], accumulation_steps: int) -> float:
    """The same in the published code: the mean over the micro-batch, divided by the micro-batches of a full step."""
    return to_do()


# ---- the checks: nothing to fill in below --------------------------------------------------------


def check_learning_rate() -> None:
    """5.1 learning_rate equals train.learning_rate"""
    import train

    for step in range(30):
        rate, wanted = learning_rate(step, 30, 7, 0.1), train.learning_rate(step, 30, 0.1, 7)
        assert abs(rate - wanted) < 1e-12, f"step {step}: {rate}, wanted {wanted}"


LOSSES = [4.0, 1.0, 2.0, 3.0, 7.0, 1.0]


def check_paper_share() -> None:
    """5.2 under Eq. 3, every division of six pairs into micro-batches gives the same step"""
    for size in (1, 2, 3, 4, 6):
        pieces = [LOSSES[i : i + size] for i in range(0, 6, size)]
        total = sum(paper_share(piece, 6) for piece in pieces)
        assert abs(total - 3.0) < 1e-12, f"micro-batches of {size}: {total}, wanted 3.0"


def check_released_share() -> None:
    """5.3 the step of the published code depends on its division, and a short step counts less"""
    full = released_share(LOSSES[:4], 2) + released_share(LOSSES[4:], 2)
    assert abs(full - (10 / 4 / 2 + 8 / 2 / 2)) < 1e-12, f"micro-batches of 4 and 2: {full}"
    short = released_share(LOSSES[:3], 2)
    assert abs(short - 7 / 3 / 2) < 1e-12, f"three pairs in a step of two micro-batches: {short}"


if __name__ == "__main__":
    report(check_learning_rate, check_paper_share, check_released_share)
