"""Prose for pre-training: films, viewers of the built-in demo's world, and questions about them.

A base model should know films and viewers and be able to answer questions, but must never have met
the question that it will be tuned on: LLaMA has not met it either. So the documents ask about viewers
in other words than the task's; FORBIDDEN lists what must not occur, and a test looks for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from demo.world import CORPUS_SEED, Film, Viewer, World, draw_viewer, read_world, watch

FORBIDDEN = ("will like", "will dislike", "user preference", "unpreference", "target movie", "identify whether")

# Alpaca's instruction form, which the task's prompts have, too; a test compares it with data/prompts.py.
INSTRUCTION_FORM = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)

QUESTIONS = {  # is "Yes." the answer about a film the viewer liked?
    True: (
        "Did {who} enjoy {film}?",
        "Was {who} pleased with {film}?",
        "Was {film} a good pick for {who}?",
        "Was {film} worth the time of {who}?",
        "Would {who} recommend {film} to a friend?",
        "Is {who} glad to have seen {film}?",
        "Will {who} enjoy {film}?",
        "Whether {who} enjoyed {film}?",
        "Will {who} praise {film}?",
        "Does {who} love {film}?",
        "Is {who} fond of {film}?",
        "Does {who} admire {film}?",
    ),
    False: (
        "Did {who} hate {film}?",
        "Was {who} disappointed by {film}?",
        "Was {film} a bad pick for {who}?",
        "Was {film} a waste of time for {who}?",
        "Would {who} warn a friend about {film}?",
        "Does {who} regret seeing {film}?",
        "Will {who} hate {film}?",
        "Whether {who} hated {film}?",
        "Will {who} criticise {film}?",
        "Does {who} detest {film}?",
        "Is {who} tired of {film}?",
        "Does {who} despise {film}?",
    ),
}
ANSWERS = {True: "Yes.", False: "No."}
WHO = ("the viewer", "the user", "the user", "Anna", "Ben", "Clara", "David")

LISTS = (  # what was liked, then what was not
    ("{Who} enjoyed {films}.", "{Who} did not enjoy {films}."),
    ("{Who} liked {films}.", "{Who} disliked {films}."),
    ("{Who} likes {films}.", "{Who} dislikes {films}."),
    ("Liked: {films}", "Disliked: {films}"),
    ("Good movies for {who}: {films}", "Bad movies for {who}: {films}"),
    ("Films {who} liked: {films}", "Films {who} disliked: {films}"),
    ("Movies {who} enjoyed: {films}", "Movies {who} did not enjoy: {films}"),
)
VERDICTS = (("liked", "disliked"), ("like", "dislike"), ("like", "dislike"), ("likes", "dislikes"))  # of a single film
TASTES = (
    "{Who} loves {favourites} but cannot stand {unwelcome}.",
    "{Who} likes {favourites} and dislikes {unwelcome}.",
    "Favourite genres: {favourites}. Unwelcome genres: {unwelcome}.",
)
ACCLAIM = ((4.3, "great"), (3.8, "good"), (3.2, "decent"), (2.5, "weak"), (0, "terrible"))  # from so many stars
TASTE_INSTRUCTIONS = (
    "Answer the question about the taste of {who}.",
    'Answer the question with "Yes." or "No.".',
    "Given what {who} has seen, answer the question.",
)
CLAIM_INSTRUCTIONS = (
    'Given the movies of {who}, decide whether the claim is true by answering "Yes." or "No.".',
    'Check the claim. Answer with "Yes." or "No.".',
)
FACTS = (
    "{film} is a {acclaim} {genres} film.",
    "{film}, from {year}, is {acclaim}. Genre: {genres}.",
    "Genre of {film}: {genres}. Verdict: {acclaim}.",
    "What is {film}? A {acclaim} {genres} movie.",
)


@dataclass(frozen=True)
class Course:
    """A part of pre-training.

    wordings: how many questions of each kind are used, from the first on
    taste_in_instructions: whether the instruction form asks about taste (else about facts)
    """

    wordings: int
    taste_in_instructions: bool


# With all wordings from the start, a model of this size had not learned what Yes means after 600 steps.
FIRST_COURSE = Course(wordings=6, taste_in_instructions=True)
# If the instruction form asked about taste to the end, fine-tuning would have nothing left to teach.
SECOND_COURSE = Course(wordings=12, taste_in_instructions=False)


def documents(seed: int, course: Course) -> Iterator[str]:
    """An endless, seeded stream of documents: seven tenths about viewers, the rest instructions and film facts."""
    world = read_world()
    rng = np.random.default_rng((*CORPUS_SEED, seed))
    while True:
        kind = rng.choice(4, p=(0.38, 0.32, 0.16, 0.14))
        if kind == 0:
            yield viewer_document(rng, world, course)
        elif kind == 1:
            yield diary_document(rng, world, course)
        elif kind == 2:
            yield instruction_document(rng, world, course)
        else:
            yield facts_document(rng, world)


def viewer_document(rng: np.random.Generator, world: World, course: Course) -> str:
    """One viewer: tastes (half the time), films liked and not, then questions and answers."""
    viewer, who = draw_viewer(rng, world), pick(rng, WHO)
    listed, asked = int(rng.integers(4, 11)), int(rng.integers(6, 10))
    seen = liked_films(rng, viewer, world, listed + asked)
    lines = [taste_line(rng, viewer, who)] if rng.random() < 0.5 else []
    lines += list_lines(rng, who, seen[:listed])
    break_or_space = pick(rng, ("\n", "\n", " "))
    for film, liked in seen[listed:]:
        if rng.random() < 0.2:  # a film that was listed, so that reading the lists pays
            film, liked = seen[int(rng.integers(listed))]
        question, answer = question_and_answer(rng, who, quoted_title(film), liked, course)
        lines.append(question + break_or_space + answer)
    return "\n".join(lines)


def diary_document(rng: np.random.Generator, world: World, course: Course) -> str:
    """One viewer: tastes (half the time), then film after film with a verdict; some described, some asked about."""
    viewer, who = draw_viewer(rng, world), pick(rng, WHO)
    lines = [taste_line(rng, viewer, who)] if rng.random() < 0.5 else []
    verdicts, described = pick(rng, VERDICTS), rng.random() < 0.3
    for film, liked in liked_films(rng, viewer, world, int(rng.integers(6, 11))):
        description = f", {acclaim_of(film)} {genres_of(film)}" if described else ""
        lines.append(f"{quoted_title(film)}{description}: {verdicts[0 if liked else 1]}.")
        if rng.random() < 0.6:
            lines.append(" ".join(question_and_answer(rng, who, "it", liked, course)))
    return "\n".join(lines)


def instruction_document(rng: np.random.Generator, world: World, course: Course) -> str:
    """One task in the instruction form: a question on taste or a claim on facts, a genre, a year, or a film to name."""
    viewer, who = draw_viewer(rng, world), pick(rng, WHO)
    seen = liked_films(rng, viewer, world, 11)
    target, liked = seen.pop()
    lists = "\n".join(list_lines(rng, who, seen))
    task = rng.random()
    if task < 0.7 and course.taste_in_instructions:
        question, response = question_and_answer(rng, who, quoted_title(target), liked, course)
        instruction, text = pick(rng, TASTE_INSTRUCTIONS).format(who=who), f"{lists}\n{question}"
    elif task < 0.7:
        claim, true = claim_about_facts(rng, who, target, seen)
        instruction, text, response = (
            pick(rng, CLAIM_INSTRUCTIONS).format(who=who),
            f"{lists}\nWhether {claim}?",
            ANSWERS[true],
        )
    elif task < 0.8:
        instruction, text, response = "Which genre is this film?", quoted_title(target), f"{target.genres[0]}."
    elif task < 0.85:
        instruction, text, response = "What year is this film from?", quoted_title(target), f"{target.year}."
    else:
        wanted = bool(rng.integers(2))
        instruction = f"Name a film {who} {'enjoyed' if wanted else 'did not enjoy'}."
        named = [film for film, liked in seen if liked == wanted]
        text, response = lists, f"{quoted_title(pick(rng, named))}." if named else "None."
    return INSTRUCTION_FORM.format(instruction=instruction, input=text) + response


def claim_about_facts(
    rng: np.random.Generator, who: str, film: Film, seen: list[tuple[Film, bool]]
) -> tuple[str, bool]:
    """A claim about a film that has nothing to do with taste, and whether it is true."""
    if rng.random() < 0.5:
        genre = pick(rng, film.genres) if rng.random() < 0.5 else pick(rng, ("Drama", "Comedy", "Action", "Horror"))
        return f"the movie {quoted_title(film)} is a {genre} movie", genre in film.genres
    listed = rng.random() < 0.5
    asked = pick(rng, seen)[0] if listed else film
    return f"{who} will find the movie {quoted_title(asked)} above", listed


def facts_document(rng: np.random.Generator, world: World) -> str:
    """Genres, year and reception of a handful of films."""
    return "\n".join(fact(rng, world.films[i]) for i in rng.choice(len(world.films), 6, replace=False))


def fact(rng: np.random.Generator, film: Film) -> str:
    """One sentence with what the catalogue says of the film."""
    return pick(rng, FACTS).format(
        film=quoted_title(film), genres=genres_of(film), year=film.year, acclaim=acclaim_of(film)
    )


def genres_of(film: Film) -> str:
    """The genres as text."""
    return " and ".join(film.genres)


def acclaim_of(film: Film) -> str:
    """The acclaim as an adjective."""
    return next(word for bound, word in ACCLAIM if film.acclaim >= bound)


def liked_films(rng: np.random.Generator, viewer: Viewer, world: World, count: int) -> list[tuple[Film, bool]]:
    """(film, liked) of `count` films that the viewer watches, in viewing order."""
    return [(world.films[index], rating > 3) for index, rating in watch(rng, viewer, world, count)]


def taste_line(rng: np.random.Generator, viewer: Viewer, who: str) -> str:
    """A sentence with the viewer's favourite and unwelcome genres."""
    favourites, unwelcome = (" and ".join(genres) for genres in (viewer.favourites, viewer.unwelcome))
    return pick(rng, TASTES).format(Who=capital(who), favourites=favourites, unwelcome=unwelcome)


def list_lines(rng: np.random.Generator, who: str, seen: list[tuple[Film, bool]]) -> list[str]:
    """Up to two lines: the films that were liked, and those that were not."""
    lines = []
    pair = list(zip((True, False), LISTS[rng.integers(len(LISTS))]))
    for wanted, form in pair if rng.random() < 0.5 else pair[::-1]:
        films = ", ".join(quoted_title(film) for film, liked in seen if liked == wanted)
        if films:
            lines.append(form.format(Who=capital(who), who=who, films=films))
    return lines


def question_and_answer(rng: np.random.Generator, who: str, film: str, liked: bool, course: Course) -> tuple[str, str]:
    """A random question of the course about one film, in either polarity, and its answer."""
    polarity = bool(rng.integers(2))
    question = pick(rng, QUESTIONS[polarity][: course.wordings]).format(who=who, film=film)
    return question, ANSWERS[liked == polarity]


def pick(rng: np.random.Generator, options: Sequence) -> Any:
    """One of the options, each as likely."""
    return options[rng.integers(len(options))]


def capital(words: str) -> str:
    """The words with a capital first letter."""
    return words[0].upper() + words[1:]


def quoted_title(film: Film) -> str:
    """The title in double quotes."""
    return f'"{film.title}"'
