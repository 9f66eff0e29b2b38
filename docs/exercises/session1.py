"""Session 1, from an interaction to token ids. Fill in the two functions, then: python -m docs.exercises.session1"""

from docs.exercises.checking import report, to_do


def changed_tokens(ids_pos: list[int], ids_neg: list[int]) -> list[int]:
    """The indices at which two rows of equal length differ."""
    return to_do()


def predicting_positions(prompt_length: int, answer_length: int) -> list[int]:
    """The positions whose logits predict the tokens of the answer, which directly follows the prompt."""
    return to_do()


# ---- the checks: nothing to fill in below --------------------------------------------------------


def check_changed_tokens() -> None:
    """1.1 the two prompts of the demo data differ in two words, and changed_tokens returns both"""
    pair, tokenizer = _demo_pair()
    changed = changed_tokens(pair.positive.prompt, pair.negative.prompt)
    assert [tokenizer.piece(pair.positive.prompt[i]) for i in changed] == ["▁like", "▁like"], f"returned {changed}"
    assert [tokenizer.piece(pair.negative.prompt[i]) for i in changed] == ["▁dislike", "▁dislike"], (
        f"returned {changed}"
    )


def check_predicting_positions() -> None:
    """1.2 predicting_positions returns what data.pairs.collate puts into a batch"""
    from data.pairs import collate

    pair, _ = _demo_pair()
    batch = collate([pair])
    for row, positions in zip((pair.positive, pair.negative), batch.positions.tolist()):
        assert predicting_positions(len(row.prompt), len(row.answer)) == positions, f"wanted {positions}"


def _demo_pair():
    from data.pairs import encode_pairs
    from data.sources.stand_in import stand_in
    from model.demo import DEMO_FOLDER
    from model.tokenizer import load_tokenizer

    data, tokenizer = stand_in(), load_tokenizer(DEMO_FOLDER, 2048)
    pairs, _ = encode_pairs(data.test[:1], data, tokenizer, "tallrec", 512)
    return pairs[0], tokenizer


if __name__ == "__main__":
    report(check_changed_tokens, check_predicting_positions)
