"""The built-in demo: its simulated viewers, its prose, its weights."""

import hashlib
import itertools
import re
from pathlib import Path

import pytest
import torch

from data.interactions import HISTORY
from data.prompts import ALPACA, HEADER, prompt_pair
from data.sources.stand_in import ROWS_PER_VIEWER, VIEWERS, stand_in
from demo.corpus import FIRST_COURSE, FORBIDDEN, INSTRUCTION_FORM, SECOND_COURSE, documents
from demo.world import CORPUS_SEED, STAND_IN_SEED, read_world
from model.tokenizer import load_tokenizer
from model.weights import load_llama, read_llama_config

MODEL = Path(__file__).parent.parent / "demo" / "model"
GENRES = {
    *("Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
}


@pytest.fixture(scope="module")
def dataset():
    return stand_in()


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL, read_llama_config(MODEL).vocab_size)


def test_stand_in_has_the_documented_counts_and_says_what_it_is(dataset):
    assert (dataset.name, dataset.source, dataset.noun) == ("movie", "stand-in", "movie")
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [8000, 400, 600]
    share = sum(row.label for row in dataset.train) / len(dataset.train)
    assert 0.5 < share < 0.6


def test_stand_in_is_the_same_every_time(dataset):
    assert stand_in().fingerprint() == dataset.fingerprint()
    assert dataset.fingerprint() == "b98f8e59a70baa2527e778a1eac56ba6c08db4093eb8ee234c5d1f13cce20b70"


def test_no_viewer_is_in_two_splits(dataset):
    users = [{row.user for row in split} for split in (dataset.train, dataset.valid, dataset.test)]
    assert [len(part) for part in users] == list(VIEWERS.values())
    assert len(set.union(*users)) == sum(map(len, users))


def test_history_is_the_ten_films_before_the_target(dataset):
    rows = dataset.train
    for at, row in enumerate(rows):
        films = [film for film, _ in row.history]
        assert len(films) == len(set(films)) == HISTORY and row.target not in films
        if (at + 1) % ROWS_PER_VIEWER:
            following = rows[at + 1]
            assert following.user == row.user
            assert following.history == (*row.history[1:], (row.target, row.label))


def test_every_genre_and_acclaim_in_the_catalogue_is_known():
    films = read_world().films
    assert len({film.title for film in films}) == len(films) > 600
    for film in films:
        assert film.genres and set(film.genres) <= GENRES, film
        assert 1 <= film.acclaim <= 5 and 1900 < film.year < 1999, film


def test_the_corpus_tells_of_other_viewers_than_the_splits():
    assert CORPUS_SEED != STAND_IN_SEED


@pytest.mark.parametrize("course", (FIRST_COURSE, SECOND_COURSE), ids=("first", "second"))
def test_the_corpus_never_asks_the_question_of_the_task(course):
    sample = list(itertools.islice(documents(1, course), 2000))
    for text in sample:
        assert not any(phrase in text.lower() for phrase in FORBIDDEN), text
        assert not re.search(r"\b(dis)?likes?\b[^.\n]*\?", text), text  # the two words occur in statements only
    assert any("liked" in text for text in sample) and any("disliked" in text for text in sample)


def test_the_corpus_has_the_instruction_form_of_the_task():
    parts = {"instruction": "{instruction}", "input": "{input}"}
    assert ALPACA.format(header=HEADER, **parts) == INSTRUCTION_FORM


def test_the_corpus_is_the_one_that_the_model_was_pre_trained_on():
    digest = hashlib.sha256()
    for course in (FIRST_COURSE, SECOND_COURSE):
        digest.update("\0".join(itertools.islice(documents(0, course), 500)).encode())
    assert digest.hexdigest() == "031aeaee1989098ca46948a1b18461befc6c9d39d692cb302039a72263b9d1ce"


def test_the_corpus_answers_yes_and_no_about_equally_often():
    text = "\n".join(itertools.islice(documents(1, SECOND_COURSE), 1000))
    yes, no = (len(re.findall(rf"\?\s{answer}\.", text)) for answer in ("Yes", "No"))
    assert 0.4 < yes / (yes + no) < 0.6


def test_prompt_ids_are_a_prefix_of_prompt_and_answer_ids(dataset, tokenizer):
    for row in dataset.test[::50]:
        pair = prompt_pair(row, dataset)
        for prompt in (pair.positive, pair.negative):
            ids = tokenizer.encode(prompt)
            yes, no = (tokenizer.encode(prompt + answer) for answer in ("Yes.", "No."))
            assert yes[: len(ids)] == no[: len(ids)] == ids
            assert yes[len(ids)] != no[len(ids)]
            assert tokenizer.decode(ids) == prompt


def test_every_prompt_fits_into_the_trained_lengths(dataset, tokenizer):
    longest = max(len(tokenizer.encode(prompt_pair(row, dataset).negative)) for row in dataset.test)
    assert longest < 300


def test_the_readme_has_the_hash_of_every_file_of_the_model():
    listed = dict(
        re.findall(r"^    ([0-9a-f]{64})  (\S+)$", (MODEL.parent / "README.md").read_text(encoding="utf-8"), re.M)
    )
    assert {name: digest for digest, name in listed.items()} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in MODEL.iterdir()
    }


def test_the_model_folder_is_small_and_in_small_files():
    sizes = [path.stat().st_size for path in MODEL.iterdir()]
    assert sum(sizes) < 9_000_000 and max(sizes) < 1_900_000


def test_the_model_loads_and_answers_yes_or_no(dataset, tokenizer):
    model = load_llama(MODEL, torch.bfloat16)
    pair = prompt_pair(dataset.test[0], dataset)
    ids = tokenizer.encode(pair.positive)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), torch.tensor([[len(ids) - 1]]))  # (1, 1, V)
    answers = [tokenizer.encode(pair.positive + answer)[len(ids)] for answer in ("Yes.", "No.")]
    assert logits[0, 0].float().softmax(-1)[answers].sum() > 0.5
