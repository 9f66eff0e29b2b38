"""The measurements that conclusions rest on, checked where the answer is known."""

import random

from bench.amazon_book import generate
from bench.book_labels import agreeing_pairs, label_agreement, unshuffled
from data import amazon_book
from data.interactions import Interaction


def made(shuffles, aligned=True, users=300, seed=0):
    """Users of books with qualities, each user's rows in one order and then shuffled; aligned: labels move with their books."""
    rng = random.Random(seed)
    rows = []
    for _ in range(users):
        books = sorted(rng.sample(range(40), 8))
        labels = [rng.random() < (0.9 if book % 2 else 0.1) for book in books]
        for _ in range(shuffles):
            random.Random(42).shuffle(books)
            if aligned:
                random.Random(42).shuffle(labels)
        rows.append(Interaction(None, tuple(zip(books[:-1], labels[:-1])), books[-1], labels[-1]))
    return rows


def test_undoing_a_shuffle_gives_the_list_before():
    for times in range(5):
        shuffled = list("abcdefghij")
        for _ in range(times):
            random.Random(42).shuffle(shuffled)
        assert unshuffled(shuffled, times) == list("abcdefghij")


def test_only_the_right_number_of_shuffles_gives_one_order():
    rows = [Interaction(None, tuple((item, True) for item, _ in row.history), row.target, True) for row in made(3)]
    share = [agree / pairs for pairs, agree in (agreeing_pairs(rows, times) for times in range(6))]
    assert share[3] == 1 and max(share[:3] + share[4:]) < 0.5


def test_labels_agree_where_they_belong_to_their_items_and_not_where_they_were_shuffled_apart():
    assert label_agreement(made(3))[0] > 0.1
    assert abs(label_agreement(made(3, aligned=False))[0]) < 0.01


def test_generated_reviews_are_read_as_real_ones_would_be(tmp_path):
    generate(tmp_path, 2000, 0.5, 80)
    reviews = amazon_book.read_year(amazon_book.raw_files(tmp_path)[0])
    assert 800 < len(reviews["time"]) < 1200 and set(reviews["stars"]) == {1, 2, 3, 4, 5}
