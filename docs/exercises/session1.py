"""Session 1, from an interaction to token ids. Fill in the two functions, then: python -m docs.exercises.session1"""

from docs.exercises.checking import report, same, to_do


def changed_tokens(ids_pos: list[int], ids_neg: list[int]) -> list[int]:
    """The indices at which two rows of equal length differ."""
    return to_do()


def predicting_positions(prompt_length: int, answer_length: int) -> list[int]:
    """The positions whose logits predict the tokens of the answer, which directly follows the prompt."""
    return to_do()


# ---- the checks: nothing to fill in below --------------------------------------------------------


def check_changed_tokens() -> None:
    """1.1 the two prompts of the demo data differ in two words, and changed_tokens returns both"""
    pair = _demo_pairs()[0]
    rows = pair.positive.prompt, pair.negative.prompt
    wanted = [i for i in range(len(rows[0])) if rows[0][i] != rows[1][i]]
    same(changed_tokens(*rows), wanted, "the two prompts")
    same(changed_tokens([7, 8, 9], [7, 8, 9]), [], "two equal rows")
    same(changed_tokens([1, 2, 3, 4], [5, 2, 3, 6]), [0, 3], "[1, 2, 3, 4] and [5, 2, 3, 6]")


def check_predicting_positions() -> None:
    """1.2 predicting_positions returns what data.pairs.collate puts into a batch"""
    from data.pairs import collate

    for pair in _demo_pairs():
        batch = collate([pair])
        for row, positions in zip((pair.positive, pair.negative), batch.positions.tolist()):
            prompt, answer = len(row.prompt), len(row.answer)
            same(predicting_positions(prompt, answer), positions, f"prompt of {prompt}, answer of {answer}")
    same(predicting_positions(5, 2), [4, 5], "prompt of 5, answer of 2")


def _demo_pairs():
    from data.pairs import encode_pairs
    from data.sources.stand_in import stand_in
    from model.demo import DEMO_FOLDER
    from model.tokenizer import load_tokenizer

    data, tokenizer = stand_in(), load_tokenizer(DEMO_FOLDER, 2048)
    return encode_pairs(data.test[:3], data, tokenizer, "tallrec", 512)[0]


if __name__ == "__main__":
    report(check_changed_tokens, check_predicting_positions)
