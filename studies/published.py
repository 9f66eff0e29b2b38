"""The figures of the paper's tables, to stand beside ours. They are expected values; nothing is fitted to them.

Rows of the few-shot table equal those of TALLRec's README, rows of the other one those of CoLLM, digit for digit,
except for LCFT's own. Each is one run; the language models are LLaMA-7B (few shots) and Vicuna-7B (full data).
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """auc, uauc: as the paper prints them; again: both from an independent re-run. None: not given.

    close: {metric: (low, high)} in which a mean of ours counts as the same. It was written down before the runs.
    """

    auc: float
    uauc: float | None = None
    again: tuple[float, float] | None = None
    close: dict[str, tuple[float, float]] = field(default_factory=dict)


def _within(distance: float, **published: float) -> dict[str, tuple[float, float]]:
    return {name: (value - distance, value + distance) for name, value in published.items()}


WEIGHTS = {"movie": "1e-4", "book": "1e-5", "ml-1m": "1e-4", "amazon-book": "1e-5"}  # lambda of LCFT, Appendix B
_FEW = {
    "GRU4Rec": ((0.4907, 0.4987, 0.5289), (0.4895, 0.4964, 0.4986)),
    "Caser": ((0.4968, 0.5106, 0.5420), (0.4984, 0.4972, 0.4957)),
    "SASRec": ((0.5043, 0.5048, 0.5225), (0.4948, 0.5006, 0.5020)),
    "DROS": ((0.5076, 0.5154, 0.5407), (0.4928, 0.4913, 0.4913)),
    "GRU-BERT": ((0.5085, 0.5165, 0.5344), (0.5007, 0.4964, 0.4979)),
    "DROS-BERT": ((0.5021, 0.5171, 0.5394), (0.5007, 0.4898, 0.5020)),
    "TALLRec": ((0.6724, 0.6748, 0.7198), (0.5636, 0.6039, 0.6438)),
    "LCFT": ((0.7013, 0.7157, 0.7436), (0.6021, 0.6195, 0.6531)),
}
FEW_SHOT_RECOMMENDERS = {"auc": (0.45, 0.56)}  # of all of them: they have next to nothing to learn from
_LANGUAGE_MODELS = ("TALLRec", "LCFT")  # for those, a range depends on the base
# CoRA (arXiv 2408.10645) ran the ML-1M rows of CoLLM again.
_FULL = {
    "ml-1m": {
        "MF, published setting": Published(0.6482, 0.6361, (0.6486, 0.6396), _within(0.01, auc=0.6482, uauc=0.6361)),
        "LightGCN, published setting": Published(0.5959, 0.6499, (0.5858, 0.6512), _within(0.03, auc=0.5959)),
        "SASRec, published setting": Published(0.7078, 0.6884, (0.7005, 0.6734), _within(0.02, auc=0.7078)),
        "ICL": Published(0.5320, 0.5268, (0.5119, 0.5178)),
        "Prompt4NR-V": Published(0.7071, 0.6739, (0.7027, 0.6713)),
        "CoLLM-MF": Published(0.7295, 0.6875, (0.7028, 0.6714)),
        "LCFT-CoLMF": Published(0.7451, 0.7019),
    },
    "amazon-book": {
        "MF, published setting": Published(0.7134, 0.5565),
        "LightGCN, published setting": Published(0.7103, 0.5639),
        "SASRec, published setting": Published(0.6887, 0.5714),
        "ICL": Published(0.4820, 0.4856),
        "Prompt4NR-V": Published(0.7224, 0.5881),
        "CoLLM-MF": Published(0.8109, 0.6225),
        "LCFT-CoLMF": Published(0.8221, 0.6323),
    },
}
# By data set, then by method and number of shots.
PUBLISHED: dict[str, dict[tuple[str, str], Published]] = {
    data: {
        (method, shots): Published(auc, close={} if method in _LANGUAGE_MODELS else FEW_SHOT_RECOMMENDERS)
        for method, by_data in _FEW.items()
        for shots, auc in zip(("16", "64", "256"), by_data[place])
    }
    for place, data in enumerate(("movie", "book"))
} | {data: {(method, "all"): figures for method, figures in rows.items()} for data, rows in _FULL.items()}
