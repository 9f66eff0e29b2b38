"""What predict.py shows of its scores: at most 80 columns, each table saying which model answered."""

import textwrap

from metrics import Scored
from report.tables import adapter_in_words, model_in_words
from report.wrap import WIDTH, wrapped

NUMBERS = "P(like)  P(dislike)    score  same to both"
LONGEST_TITLE = WIDTH - len("rank  ") - len(NUMBERS) - 2  # a longer one goes on in the next line
EXPLANATION = """
P(like) is P(Yes) / (P(Yes) + P(No)) at the answer's first token to "will
like?", P(dislike) the same to "will dislike?"; score is the log-odds of Yes to
the first less those to the second; the same answer to both is a contradiction."""
EXPLANATION_OF_SIGMOID = """
P(like) is the sigmoid of the logit of Yes at the answer's first token to "will
like?", as this run was trained; P(dislike) the same to "will dislike?"; score
is the first logit less the second; the same answer to both is a contradiction."""
STAND_IN_CAUTION = """
Stand-in: taught by simulated viewers. These figures show how the method works,
not what people like."""


def prediction_table(results: dict) -> str:
    """What predict.py says of one user: a line per target, best first."""
    rows = results["predictions"]
    cells = [textwrap.wrap(shown_title(row), LONGEST_TITLE) for row in rows]
    width = max(len(line) for lines in [["target"], *cells] for line in lines)
    lines = [_subject(results), "", f"rank  {'target':{width}}  {NUMBERS}"]
    for row, (first, *others) in zip(rows, cells):
        numbers = f"{row['p_yes_positive']:9.3f}{row['p_yes_negative']:12.3f}{row['score']:+9.3f}"
        lines.append(f"{row['rank']:4}  {first:{width}}{numbers}  {row['contradiction'] or '-'}")
        lines += [f"      {line}" for line in others]
    lines.append(EXPLANATION if results.get("probability") != "sigmoid" else EXPLANATION_OF_SIGMOID)
    if results["stand_in"]:
        lines.append(STAND_IN_CAUTION)
    return "\n".join(lines)


def shown_title(row: dict) -> str:
    """The title of a prediction, with its author if it has one."""
    return f"{row['target']} by {row['author']}" if row.get("author") else row["target"]


def batch_summary(results: dict) -> str:
    """What predict.py says of many users: how much was scored, by what, and where the scores are."""
    both = results["contradictions"]
    lines = [
        _subject(results),
        *wrapped(
            f"{results['targets']:,} targets of {results['users']:,} users; the same answer to both questions: "
            f"{both['Yes/Yes']:,} Yes/Yes, {both['No/No']:,} No/No"
        ),
        f"Written to {results['output']}",
    ]
    if results.get("skipped"):
        lines.append(f"{results['skipped']['rows']:,} rows were skipped; see {results['skipped']['file']}")
    return "\n".join(lines)


def answers_in_words(title: str, before: Scored, after: Scored, reading: str) -> str:
    """Both answers to one title, of the untuned base and of the run, and whether they contradict each other.

    reading: which probability of yes is that of the run; that of the base is "softmax".
    """
    lines = [*wrapped(title), f"  {'':16}{'will like?':>14}{'will dislike?':>16}"]
    for name, scored in (("before tuning", before), ("after tuning", after)):
        answers = [(float(p[0]), "Yes" if p[0] > 0.5 else "No") for p in (scored.p_pos, scored.p_neg)]
        (p_like, like), (p_dislike, dislike) = answers
        verdict = f"contradiction: {like} to both" if like == dislike else "consistent"
        lines.append(f"  {name:16}{f'{like} {p_like:.3f}':>14}{f'{dislike} {p_dislike:.3f}':>16}   {verdict}")
    lines.append("  The number is P(Yes) / (P(Yes) + P(No)).")
    if reading == "sigmoid":
        lines[-1:] = ["  Before, the number is P(Yes) / (P(Yes) + P(No)), and no vector is in the prompts;"]
        lines.append("  after, it is the sigmoid of the logit of Yes, as this run was trained.")
    return "\n".join(lines)


def shown_prompts(prompts: dict) -> str:
    """Both prompts of one target, letter by letter, each between lines that are not part of it."""
    heading = f"prompts of {shown_title(prompts)}"
    parts = [("will like?", prompts["positive"]), ("will dislike?", prompts["negative"])]
    return "\n".join(f"---- {heading}: {name} ----\n{text}\n---- end ----" for name, text in parts)


def _subject(results: dict) -> str:
    stand_in = "STAND-IN (simulated viewers): " if results["stand_in"] else ""
    return f"{stand_in}{model_in_words(results)}; {adapter_in_words(results)}"
