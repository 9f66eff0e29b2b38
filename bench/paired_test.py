"""How often p of a difference is below .05 where two models are equally good.

    python -m bench.paired_test --cases 600

Both models are drawn alike: users differ, and each model has an effect of its own for each user, so that the rows of a
user are alike. A p that means what it says is below .05 in 5 % of the cases.
"""

import installed  # noqa: F401

import argparse

import numpy as np

from metrics import weighted_auc
from resampling import two_sided_p, user_resamples

SIZES = ((16, 20), (60, 10), (300, 5))  # users, and rows of each
BELOW = 0.05


def share_below(users: int, rows: int, cases: int) -> dict[str, float]:
    """{measure: share of the cases in which p is below .05}."""
    draw = np.random.default_rng(0)
    found = {"contradiction": 0, "AUC": 0}

    def scores() -> np.ndarray:
        return draw.normal(size=users).repeat(rows) + draw.normal(size=users * rows)

    for _ in range(cases):
        weights, _ = user_resamples(np.arange(users).repeat(rows).tolist(), int(draw.integers(2**31)))
        labels = draw.random(users * rows) < 0.55
        contradicts = [scores() > 0.3 for _ in "ab"]
        change = weights @ (contradicts[0].astype(float) - contradicts[1]) / weights.sum(1)
        found["contradiction"] += two_sided_p(change) < BELOW
        ranked = [weighted_auc(labels, labels + scores(), weights) for _ in "ab"]
        found["AUC"] += two_sided_p(ranked[0] - ranked[1]) < BELOW
    return {name: count / cases for name, count in found.items()}


def main() -> None:
    """Print the shares for several numbers of users."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=600, help="pairs of models for each number of users")
    cases = parser.parse_args().cases
    for users, rows in SIZES:
        shares = ", ".join(f"{name} {share:.3f}" for name, share in share_below(users, rows, cases).items())
        print(f"{users} users with {rows} rows each: {shares}")


if __name__ == "__main__":
    main()
