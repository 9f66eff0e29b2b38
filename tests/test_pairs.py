"""From pairs to batches: blocks, padding, positions and truncation by hand; lengths with the real tokenizer."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.interactions import Dataset, Interaction, Item
from data.pairs import EncodedPair, Row, aligned_positions, answer_ids, collate, encode_pairs, next_tokens, pad_right
from data.prompts import prompt_pair
from data.sources import movie
from data.splits import encode_split
from errors import DataError
from model.tokenizer import load_tokenizer

# Two pairs. Both blocks have rows of unequal length, and the first negative answer is shorter.
PAIRS = [
    EncodedPair(Row([1, 11, 12], [8, 29, 2]), Row([1, 11, 13, 12], [7, 2])),
    EncodedPair(Row([1, 14], [7, 29, 2]), Row([1, 15, 14], [8, 29, 2])),
]


class Letters:
    """A tokenizer with one token a character, BOS 1 and EOS 2; `joined`: strings that are one token."""

    eos_id, longest_row = 2, None

    def __init__(self, joined=()):
        self.joined = joined

    def encode(self, text):
        for number, piece in enumerate(self.joined):
            text = text.replace(piece, chr(0xE000 + number))
        return [1, *map(ord, text)]

    def encode_all(self, texts):
        return [self.encode(text) for text in texts]


def dataset(*rows, titles=12):
    catalogue = {i: Item(f"Invented {chr(96 + i)} (1990)") for i in range(1, titles + 1)}
    return Dataset("movie", "invented", "movie", catalogue, list(rows), list(rows), list(rows))


# ---- batches ------------------------------------------------------------------------------------


def test_a_batch_is_the_block_of_positives_then_that_of_negatives_padded_on_the_right():
    batch = collate(PAIRS)
    assert batch.pairs == 2
    assert batch.input_ids.tolist() == [
        [1, 11, 12, 8, 29, 2],
        [1, 14, 7, 29, 2, 0],
        [1, 11, 13, 12, 7, 2],
        [1, 15, 14, 8, 29, 2],
    ]
    assert batch.lengths.tolist() == [6, 5, 6, 6]
    assert batch.targets.tolist() == [[8, 29, 2], [7, 29, 2], [7, 2, -1], [8, 29, 2]]
    assert batch.positions.tolist() == [[2, 3, 4], [1, 2, 3], [3, 4, 0], [2, 3, 4]]
    assert {t.dtype for t in (batch.input_ids, batch.lengths, batch.positions, batch.targets)} == {torch.int64}


def test_the_token_after_each_position_is_its_target():
    batch = collate(PAIRS, shared=True)
    for ids, positions, targets in zip(batch.input_ids, batch.positions, batch.targets):
        for position, target in zip(positions.tolist(), targets.tolist()):
            assert target == -1 or ids[position + 1] == target


def test_the_shared_block_has_negative_prompts_with_positive_answers():
    batch = collate(PAIRS, shared=True)
    assert batch.pairs == 2
    assert batch.input_ids.tolist()[4:] == [[1, 11, 13, 12, 8, 29, 2], [1, 15, 14, 7, 29, 2, 0]]
    assert batch.targets.tolist()[4:] == [[8, 29, 2], [7, 29, 2]]
    assert batch.positions.tolist()[4:] == [[3, 4, 5], [2, 3, 4]]


def test_without_negatives_there_is_one_block():
    batch = collate(PAIRS, negatives=False)
    assert batch.input_ids.tolist() == [[1, 11, 12, 8, 29, 2], [1, 14, 7, 29, 2, 0]]


def test_pad_right_fills_with_zeros_on_the_right_only():
    assert pad_right([[5], [6, 7, 8], [9, 4]]).tolist() == [[5, 0, 0], [6, 7, 8], [9, 4, 0]]


def test_padding_on_the_right_leaves_every_hidden_state_as_it_is(tiny_llama):
    model = tiny_llama()
    with torch.no_grad():
        alone = model.model(torch.tensor([[1, 5, 9]]))[0]
        padded = model.model(pad_right([[1, 5, 9], [1, 3, 4, 8, 6, 2]]))[0, :3]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


# ---- truncation ---------------------------------------------------------------------------------

LONG = Interaction(1, tuple((item, item % 2 == 0) for item in range(1, 9)), 9, True)


def lengths(row, data):
    pair = encode_pairs([row], data, Letters(), "tallrec", 10_000)[0][0]
    return len(pair.positive.ids), len(pair.negative.ids)


def test_truncation_drops_the_oldest_items_of_the_history_and_nothing_else():
    data = dataset(LONG)
    kept_five = Interaction(1, LONG.history[3:], 9, True)
    limit = max(lengths(kept_five, data))
    encoded, truncated = encode_pairs([LONG], data, Letters(), "tallrec", limit)
    text = prompt_pair(kept_five, data, "tallrec")
    assert truncated == 1
    assert list(encoded[0].positive.prompt) == [1, *map(ord, text.positive)]
    assert list(encoded[0].negative.prompt) == [1, *map(ord, text.negative)]
    assert list(encoded[0].positive.answer) == [*map(ord, "Yes."), 2]
    assert list(encoded[0].negative.answer) == [*map(ord, "No."), 2]
    assert encode_pairs([LONG], data, Letters(), "tallrec", limit - 1)[0][0].length < limit


def test_both_rows_of_a_pair_show_the_same_history():
    data = dataset(LONG)
    positive, negative = lengths(LONG, data)
    # The negative prompt says "dislike" twice, three letters more each; its answer is one letter shorter.
    assert negative == positive + 5
    encoded, truncated = encode_pairs([LONG], data, Letters(), "tallrec", positive)  # the positive row would fit
    assert truncated == 1
    for row in (encoded[0].positive, encoded[0].negative):
        assert "Invented a" not in "".join(map(chr, row.prompt)) and "Invented b" in "".join(map(chr, row.prompt))


def test_truncated_prompts_are_counted_and_those_that_fit_are_left_whole():
    short = Interaction(1, LONG.history[:2], 9, False)
    data = dataset(LONG, short, LONG)
    limit = max(lengths(short, data))
    encoded, truncated = encode_pairs([LONG, short, LONG], data, Letters(), "tallrec", limit)
    assert truncated == 2
    assert encoded[1].length == limit
    assert encode_pairs([LONG], data, Letters(), "tallrec", max(lengths(LONG, data)))[1] == 0


def test_a_limit_below_the_prompt_without_history_is_refused_with_the_one_that_would_do():
    data = dataset(LONG)
    least = max(lengths(Interaction(1, (), 9, True), data))
    assert encode_pairs([LONG], data, Letters(), "tallrec", least)[0][0].length == least
    with pytest.raises(DataError, match=f"--max-len {least - 1}: .*Invented i.* use at least --max-len {least}$"):
        encode_pairs([LONG], data, Letters(), "tallrec", least - 1)


# ---- answers in context -------------------------------------------------------------------------


def test_answer_ids_are_what_follows_the_prompt():
    assert answer_ids(Letters(joined=("Yes", "No")), "Q\n") == {True: [0xE000, ord(".")], False: [0xE001, ord(".")]}


def test_answers_that_begin_with_one_token_are_refused_by_that_token():
    class Spaced(Letters):  # like a tokenizer that puts a space first
        def encode(self, text):
            return super().encode(text.replace("\nYes", "\n Yes").replace("\nNo", "\n No"))

    with pytest.raises(DataError, match=r"begin with the same token \(32\)"):
        answer_ids(Spaced(), "Q\n")


def test_an_answer_that_joins_with_the_prompt_is_refused():
    tokenizer = Letters(joined=("\nNo",))
    with pytest.raises(DataError, match="joins the answer 'No.' with the end of the prompt"):
        answer_ids(tokenizer, "Q\n")
    with pytest.raises(DataError, match="joins the answer 'No.' with the end of the prompt"):
        encode_pairs([LONG], dataset(LONG), tokenizer, "tallrec", 10_000)


def test_a_tokenizer_without_bos_gives_the_same_rows_without_it():
    class Bare(Letters):
        def encode(self, text):
            return super().encode(text)[1:]

    data = dataset(LONG)
    (pair,), _ = encode_pairs([LONG], data, Letters(), "tallrec", 10_000)
    (bare,), _ = encode_pairs([LONG], data, Bare(), "tallrec", 10_000)
    assert list(bare.positive.ids) == list(pair.positive.ids)[1:] and bare.negative.answer == pair.negative.answer
    assert answer_ids(Bare(), "Q\n") == answer_ids(Letters(), "Q\n")


def test_a_split_has_the_answers_of_its_prompts_and_says_how_many_were_truncated(capsys):
    data = dataset(LONG)
    split = encode_split(data.train, data, Letters(), "tallrec", max(lengths(LONG, data)))
    assert split.answers == {True: [*map(ord, "Yes.")], False: [*map(ord, "No.")]}
    assert (split.rows, split.truncated, capsys.readouterr().err) == (data.train, 0, "")
    shorter = encode_split(data.train, data, Letters(), "tallrec", max(lengths(LONG, data)) - 1)
    assert shorter.truncated == 1 and "1 of 1 prompts lost their oldest history items" in capsys.readouterr().err
    other = encode_split(data.train, data, Letters(), "tallrec", 10_000, question="will hate").pairs[0]
    assert "will hate" in "".join(map(chr, other.negative.prompt)) and other.positive == split.pairs[0].positive


# ---- alignment ----------------------------------------------------------------------------------


def test_aligned_positions_end_together_and_say_who_has_no_partner():
    row, column_pos, column_neg, has_partner = aligned_positions(torch.tensor([3, 4]), torch.tensor([4, 2]))
    assert row.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert column_pos.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert column_neg.tolist() == [1, 2, 3, 0, 0, 0, 1]
    assert has_partner.tolist() == [True, True, True, False, False, True, True]


def test_next_tokens_are_the_row_shifted_by_one_and_nothing_at_its_end():
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0], [1, 0, 0, 0]])
    assert next_tokens(ids, torch.tensor([4, 3, 1])).tolist() == [[5, 6, 2, -1], [7, 2, -1, -1], [-1, -1, -1, -1]]


# ---- the real tokenizer on the real prompts -----------------------------------------------------


@functools.cache
def read_once(folder):
    return movie.build(movie.raw_files(folder), print)


tokenizer_once = functools.cache(load_tokenizer)


@pytest.fixture
def llama(real_file):
    return tokenizer_once(real_file("llama-tokenizer/tokenizer.model").parent, 32000)


@pytest.fixture
def movielens(real_file):
    return read_once(real_file("ml-100k/u.data").parent)


@pytest.mark.parametrize("template", ["tallrec", "released"])
def test_llama_writes_yes_no_and_the_full_stop_as_one_token_each(llama, template):
    prompt = prompt_pair(LONG, dataset(LONG), template).positive
    assert answer_ids(llama, prompt) == {True: [8241, 29889], False: [3782, 29889]}


def test_valid_lengths_with_the_released_template(llama, movielens):
    encoded, truncated = encode_pairs(movielens.valid, movielens, llama, "released", 512)
    tokens = [len(pair.positive.ids) for pair in encoded]
    assert truncated == 0
    assert (min(tokens), np.median(tokens), np.percentile(tokens, 95), max(tokens)) == (231, 256, 276, 311)
    assert all(pair.positive.ids[-1] == 2 and pair.positive.prompt[0] == 1 for pair in encoded)


def test_a_pair_differs_first_at_index_65_and_is_then_shifted_by_one(llama, movielens):
    encoded, _ = encode_pairs(movielens.valid[::50], movielens, llama, "released", 512)
    for pair in encoded:
        positive, negative = pair.positive.prompt, pair.negative.prompt
        assert len(negative) == len(positive) + 1
        assert positive[:65] == negative[:65] and positive[65] != negative[65]
        assert positive[66:] == negative[67:]
        row, column, partner, _ = aligned_positions(torch.tensor([len(positive)]), torch.tensor([len(negative)]))
        same = [positive[i] == negative[j] for i, j in zip(column.tolist(), partner.tolist())]
        assert all(same[66:]) and not all(same[:66])


def test_the_prefix_common_to_all_prompts_has_90_tokens(llama, movielens):
    prompts = [
        llama.encode(prompt_pair(row, movielens, "released").positive)
        for split in (movielens.valid, movielens.test)
        for row in split
    ]
    common = next(i for i, tokens in enumerate(zip(*prompts)) if len(set(tokens)) > 1)
    assert common == 90


def test_blind_cutting_at_256_would_take_the_answer_of_2582_training_prompts(llama, movielens):
    texts = (prompt_pair(row, movielens, "released") for row in movielens.train)
    assert sum(len(llama.encode(pair.positive + pair.answer_positive)) + 1 > 256 for pair in texts) == 2582


def test_at_256_every_real_prompt_keeps_its_answer_and_its_target(llama, movielens):
    rows = movielens.valid[:200]
    encoded, truncated = encode_pairs(rows, movielens, llama, "released", 256)
    assert 0 < truncated < 200
    for row, pair in zip(rows, encoded):
        assert pair.length <= 256
        assert list(pair.positive.answer) == [8241 if row.label else 3782, 29889, 2]
        assert f'movie "{movielens.catalogue[row.target].title}"?\n\n### Response:\n' in llama.decode(
            list(pair.positive.prompt)
        )


# ---- encoding prompt and answer together ---------------------------------------------------------


@pytest.mark.parametrize("wording", ["tallrec", "collm"])
def test_prompts_encoded_with_their_answers_are_the_prompts_encoded_alone(movielens, llama, wording):
    data = replace(movielens, wording=wording)
    rows = movielens.train[::80]
    pairs, _ = encode_pairs(rows, data, llama, "released", 10**6)
    for row, pair in zip(rows, pairs):
        text = prompt_pair(row, data, "released")
        assert list(pair.positive.prompt) == llama.encode(text.positive)
        assert list(pair.negative.prompt) == llama.encode(text.negative)
        assert list(pair.positive.ids) == [*llama.encode(text.positive + text.answer_positive), llama.eos_id]


def test_collm_answers_are_the_tokens_after_a_space(movielens, llama):
    data = replace(movielens, wording="collm")
    prompt = prompt_pair(movielens.train[0], data).positive
    assert answer_ids(llama, prompt, "collm") == {True: [3869], False: [1939]}
    pairs, _ = encode_pairs(movielens.train[:50], data, llama, "tallrec", 512)
    assert {tuple(pair.positive.answer) for pair in pairs} == {(3869, 2), (1939, 2)}
    assert all(pair.positive.answer != pair.negative.answer for pair in pairs)


def test_collm_shows_the_last_ten_items_and_that_is_no_truncation():
    history = tuple((1 + i % 12, True) for i in range(25))
    row = Interaction(1, history, 1, True)
    data = replace(dataset(row), wording="collm")
    (pair,), truncated = encode_pairs([row], data, Letters(), "tallrec", 10**6)
    (last_ten,), _ = encode_pairs([replace(row, history=history[-10:])], data, Letters(), "tallrec", 10**6)
    assert (pair.positive, truncated) == (last_ten.positive, 0)


def test_a_history_that_has_to_shrink_is_that_of_the_latest_items_and_is_counted():
    rows = [Interaction(1, tuple((i, True) for i in range(1, n + 1)), 12, True) for n in (2, 9, 5)]
    data = dataset(*rows)
    whole, _ = encode_pairs(rows, data, Letters(), "tallrec", 10**6)
    encoded, truncated = encode_pairs(rows, data, Letters(), "tallrec", whole[2].length)
    assert truncated == 1 and [encoded[0], encoded[2]] == [whole[0], whole[2]]
    shrunk = replace(rows[1], history=rows[1].history[-5:])
    assert encoded[1].positive == encode_pairs([shrunk], data, Letters(), "tallrec", 10**6)[0][0].positive


def test_prompts_longer_than_the_model_was_made_for_are_counted(capsys):
    rows = [Interaction("u", tuple((i, True) for i in range(1, n)), 9, True) for n in (2, 9)]
    data, tokenizer = dataset(*rows), Letters()
    short, long = (pair.length for pair in encode_split(rows, data, tokenizer, "tallrec", 10_000).pairs)
    for longest, count in ((None, 0), (long, 0), (long - 1, 1), (short - 1, 2)):
        tokenizer.longest_row = longest
        encode_split(rows, data, tokenizer, "tallrec", 10_000)
        said = capsys.readouterr().err
        assert not said if not count else f"{count} of 2 prompts have more tokens (up to {long:,})" in said
    tokenizer.longest_row = 20
    with pytest.raises(DataError, match="made for at most 20, so shorten the title"):
        encode_split(rows, data, tokenizer, "tallrec", 20)
