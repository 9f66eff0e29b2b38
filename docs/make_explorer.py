"""Write docs/explorer.html, the loss of one pair to play with: python -m docs.make_explorer

    python -m docs.make_explorer                              from docs/explorer/pairs.json
    python -m docs.make_explorer --run RUN --base FOLDER      with the pairs of a run, and of its base by eval.py --out

The maths of the page is docs/explorer/maths.js; the page compares it with values that loss.py gives here.
"""

import argparse
import json
from pathlib import Path

import torch

from files import write_text
from loss import answer_terms, paper_loss
from report.html import page, paragraph
from run.predictions import read_predictions

DOCS = Path(__file__).parent
PAGE, PARTS, PAIRS = DOCS / "explorer.html", DOCS / "explorer", DOCS / "explorer" / "pairs.json"
MOST = 120  # pairs on the page
GRID = (-9.5, -3.0, -0.4, 0.0, 1.1, 6.0)  # log-odds of which the page gets the values of loss.py
STYLE = """
.arrow { stroke: var(--c); stroke-width: 1.2; opacity: .8; }
.controls { display: grid; gap: .2rem 1rem; max-width: 46rem;
  grid-template-columns: minmax(7rem, max-content) 1fr minmax(9.5rem, max-content); align-items: center; }
.controls input { width: 100%; min-width: 5rem; } .controls select { font: inherit; justify-self: start; }
#values { margin-bottom: 1.2rem; } #sentence { min-height: 4.5em; max-width: 60rem; font-weight: 600; }
.controls output { font-variant-numeric: tabular-nums; }
@media (max-width: 30rem) { .controls { grid-template-columns: 1fr; } .controls output { margin-bottom: .5rem; } }
"""
CONTROLS = """<div class="controls">
<label for="liked">the user</label><select id="liked"><option value="yes">likes the target</option>
<option value="no">dislikes it</option></select><span></span>
<label for="zp">z⁺, “will like?”</label><input id="zp" type="range" min="-12" max="12" step="0.1" value="1.5">
<output id="zp-value"></output>
<label for="zn">z⁻, “will dislike?”</label><input id="zn" type="range" min="-12" max="12" step="0.1" value="1">
<output id="zn-value"></output>
<label for="weight">λ</label><input id="weight" type="range" min="-5" max="1" step="0.1" value="-1">
<output id="weight-value"></output>
<label for="cap">--kl-cap</label><input id="cap" type="range" min="0.5" max="12.5" step="0.5" value="12.5">
<output id="cap-value"></output></div>"""
KEYS = (
    '<span class="key green"><i></i>CE⁺ + CE⁻</span><span class="key violet"><i></i>KL</span><span class="key grey"><i>'
    '</i>JS</span><span class="key orange"><i></i>arbitrage</span><span class="key blue"><i></i>L = CE − λ KL</span>'
)
PLANE_KEYS = (
    '<span class="key orange"><i></i>pairs of the demo, before tuning</span><span class="key blue"><i></i>after</span>'
    '<span class="key grey"><i></i>descent of L</span><span class="key violet"><i></i>λ KL pulls z⁻ more than CE</span>'
    '<span class="key red"><i></i>your pair; red areas: contradictions</span>'
)
WORDS = (
    "KL: Eq. 2, subtracted in Eq. 3 with the weight λ. If the user likes the target, it grows like −z⁻ p⁺ for small "
    "p⁻. So its gradient by z⁻ goes to −p⁺ and never to zero, while that of CE dies away like p⁻. Whatever λ > 0 is, "
    "there is a z⁻ from which on the KL pulls more, and L has no minimum. --kl-cap ends this: above the cap the KL "
    "sends no gradient.",
    "JS: the Jensen-Shannon divergence, at most log 2. Arbitrage: −2 log(√(ab) + √((1−a)(1−b))) with a = p⁺ and "
    "b = 1 − p⁻, two prices for the same event (Paleka et al., 2025). It is 0 if and only if the answers agree. "
    "Neither is in Eq. 3; they are there to compare.",
)
LEAD = (
    "A model that can say Yes and No alone is asked both questions about one target. Move its two log-odds, and see "
    "what the terms of Eq. 3 say and where they pull. Arrows point along gradient descent, and are longer where it is "
    "steeper."
)
CAUTION = "The points are pairs of the demo model and simulated viewers. They show how the loss works."
FIGURE = """<figure><h3>{title}</h3><div>{keys}</div>
<svg viewBox="0 0 380 {height}" role="img" id="{name}" aria-label="{title}"></svg></figure>"""


def explorer_page(pairs: list[dict]) -> str:
    """The page. pairs: {"before": [z+, z-], "after": [z+, z-], "liked": bool}."""
    settings = json.dumps({"pairs": pairs, "grid": reference()}, separators=(",", ":"))
    maths, drawing = ((PARTS / name).read_text(encoding="utf-8") for name in ("maths.js", "draw.js"))
    figures = [
        FIGURE.format(title="Each term along z⁻", keys=KEYS, height=290, name="curves"),
        FIGURE.format(title="Where L sends a pair", keys=PLANE_KEYS, height=380, name="plane"),
    ]
    parts = [
        paragraph(LEAD, "lead"),
        paragraph(CAUTION, "caution"),
        CONTROLS,
        '<p id="sentence"></p><div class="scroll"><table id="values"></table></div>',
        f'<div class="figures">{"".join(figures)}</div>',
        "<h2>What to look for</h2>",
        *(paragraph(text) for text in WORDS),
        '<p class="note" id="checked"></p>',
        f"<script>\n{maths}</script>\n<script>\nvar SETTINGS = {settings};\n{drawing}</script>",
    ]
    return page("The loss of LCFT, to play with", "<h1>The loss of one pair, to play with</h1>", parts, STYLE)


def reference() -> list[list[float]]:
    """[z+, z-, liked, lambda, CE+, CE-, KL, L] by loss.py in float64, on a grid; 12 digits, alike on all machines."""
    return [
        [zp, zn, liked, 0.1, *(float(f"{float(value):.12g}") for value in values_of(zp, zn, liked))]
        for zp in GRID
        for zn in GRID
        for liked in (True, False)
    ]


def values_of(zp: float, zn: float, liked: bool) -> list[torch.Tensor]:
    """CE+, CE-, KL and, with lambda 0.1, L for the vocabulary Yes (0), No (1) with logits (z, 0); one answer token."""
    logits = torch.tensor([[[zp, 0.0]], [[zn, 0.0]]], dtype=torch.float64)
    targets = torch.tensor([[0], [1]] if liked else [[1], [0]])
    terms = answer_terms(logits, targets, 1)
    return [*terms, paper_loss(terms, 0.1, 1)]


def pairs_of(run: Path, base: Path) -> list[dict]:
    """At most MOST rows of the test split, as the base and as the run answer them; log-odds to two decimals."""
    after, before = (read_predictions(folder / "predictions.csv") for folder in (run, base))
    if after.rows != before.rows:
        raise SystemExit(f"{base}: has other rows than {run}; score the base on the test split of the same data")
    sides = {"before": before.scored, "after": after.scored}
    return [
        {name: [round(float(z[i]), 2) for z in (of.z_pos, of.z_neg)] for name, of in sides.items()}
        | {"liked": bool(after.scored.labels[i])}
        for i in range(min(MOST, len(after.rows)))
    ]


def main(argv: list[str] | None = None) -> None:
    """Write the page, with --run and --base its pairs, too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run of the demo, for its pairs")
    parser.add_argument("--base", type=Path, help="folder that eval.py --model demo --out wrote of the same rows")
    flags = parser.parse_args(argv)
    if flags.run and flags.base:
        lines = ",\n".join(json.dumps(pair) for pair in pairs_of(flags.run, flags.base))
        write_text(PAIRS, f"[\n{lines}\n]\n")
    write_text(PAGE, explorer_page(json.loads(PAIRS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
