"""Vectors in a prompt: the tree against plain rows, gradients against autograd, and where the ids come to stand."""

import io

import pytest
import sentencepiece
import torch
import torch.nn.functional as F

from data.interactions import Dataset, Interaction, Item
from data.pairs import encode_pairs, pad_right
from data.parts import encode_parts
from errors import DataError
from lora.inject import add_lora
from model.llama import rope_tables
from model.prefix_tree import prefix_tree
from model.sentencepiece import SentencePieceTokenizer
from model.soft_tokens import FreeVectors, MappedVectors, add_vectors, vectors_of
from tensors import trainable_parameters

V = 23  # of tiny_llama
# Two users with the same text, twice the same user, a vector as the first and as the last token.
ROWS = [[1, 2, V + 1, 4, V + 3], [1, 2, V + 2, 4, V + 3], [1, 2, V + 1, 4, 5], [V + 1, 2], [1, 2, 3, 4, 5, 6]]


def with_vectors(model, vectors):
    """The model in float64 with LoRA, no dropout, and these vectors, all of them trained."""
    add_lora(model, ("q_proj", "v_proj"), r=2, dropout=0.0)
    add_vectors(model, vectors)
    model.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or "vectors" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
                parameter.requires_grad_()
    return model


def mapped(rows=4, width=3):
    return MappedVectors(torch.randn(rows, width, generator=torch.Generator().manual_seed(5)), 32)


VECTORS = {"mapped": lambda: mapped(), "free": lambda: FreeVectors(4, 32, "normal")}


def logits_by_tree(model, rows):
    """(B, V) at the last token of each row."""
    last = torch.tensor([[len(row) - 1] for row in rows])
    tree = prefix_tree(model, pad_right(rows), torch.tensor([len(row) for row in rows]), last)
    return model.lm_head(model.model(tree.input_ids, tree))


def logits_by_hand(model, rows):
    """Each row alone, through the layers, from embeddings that are looked up and put in place by hand."""
    found = []
    for row in rows:
        ids = torch.tensor(row)
        words = F.embedding(ids.clamp(max=V - 1), model.model.embed_tokens.weight)
        vectors = vectors_of(model)
        for place, token in enumerate(row):
            if token >= V:
                if isinstance(vectors, FreeVectors):
                    vector = vectors.weight[token - V]
                else:
                    first, _, second = vectors.mapping
                    hidden = first.weight @ vectors.table.weight[token - V] + first.bias
                    vector = second.weight @ hidden.clamp(min=0) + second.bias
                words = torch.cat((words[:place], vector[None], words[place + 1 :]))
        x = words[None]
        tables = rope_tables(model.config, len(row), like=x)
        for layer in model.model.layers:
            x = layer(x, *tables)
        found.append(model.lm_head(model.model.norm(x))[0, -1])
    return torch.stack(found)


@pytest.fixture
def model(tiny_llama):
    return lambda kind, **changes: with_vectors(tiny_llama(**changes), VECTORS[kind]())


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}], ids=["plain", "tied"])
def test_the_tree_gives_every_row_the_logits_and_gradients_of_the_row_alone(model, kind, changes):
    model = model(kind, **changes)
    trained = list(trainable_parameters(model).values())
    weights = torch.randn(len(ROWS), V, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    results = []
    for compute in (logits_by_tree, logits_by_hand):
        logits = compute(model, ROWS)
        results.append((logits.detach(), torch.autograd.grad((logits.log_softmax(-1) * weights).sum(), trained)))
    (actual, gradients), (expected, by_hand) = results
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    for name, gradient, other in zip(trainable_parameters(model), gradients, by_hand):
        assert other.abs().max() > 0, name
        if "table" in name:
            assert not gradient[0].any()
            other = other.clone()
            other[0] = 0  # row 0, of unknown users and items, stays zero
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", VECTORS)
def test_two_users_with_the_same_text_differ_and_one_user_twice_does_not(model, kind):
    first, second, again, *_ = logits_by_tree(model(kind), [[1, V + 1, 4], [1, V + 2, 4], [1, V + 1, 4]])
    assert (first - second).abs().max() > 1e-3 and torch.equal(first, again)


def test_a_vector_that_is_a_tokens_embedding_is_that_token(tiny_llama):
    """Neutral vectors leave the scores of the first stage as they are."""
    model = tiny_llama().double()
    add_vectors(model, FreeVectors(1, 32))
    with torch.no_grad():
        vectors_of(model).double().weight[0] = model.model.embed_tokens.weight[7]
        soft, token = (logits_by_tree(model, [[1, 2, middle, 4]]) for middle in (V, 7))
    assert torch.equal(soft, token)


def test_a_model_with_vectors_computes_rows_of_tokens_as_before(tiny_llama):
    rows = [[1, 2, 3], [1, 2, 4, 5]]
    before, model = logits_by_tree(tiny_llama(), rows), tiny_llama()
    add_vectors(model, mapped())
    assert torch.equal(logits_by_tree(model, rows), before)


@pytest.mark.parametrize("checkpointed", [0, 2])
def test_vectors_alone_are_trained_while_lora_stays_frozen(tiny_llama, checkpointed):
    model = tiny_llama()
    add_lora(model, ("q_proj",), r=2)
    model.requires_grad_(False)
    add_vectors(model, mapped())
    model.model.checkpointed_layers = checkpointed
    assert [name.rpartition("vectors.")[2] for name in trainable_parameters(model)] == [
        "mapping.0.weight",
        "mapping.0.bias",
        "mapping.2.weight",
        "mapping.2.bias",
    ]
    logits_by_tree(model, ROWS).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in trainable_parameters(model).values())


def test_the_published_soft_prompt_starts_uniform_and_ours_small():
    torch.manual_seed(0)
    published, ours = FreeVectors(6, 4096).weight.detach(), FreeVectors(6, 4096, "normal").weight.detach()
    assert published.abs().max() <= 2**-0.5 and abs(published.std() - (2 / 12) ** 0.5) < 0.01  # (b - a)^2 / 12 is 1/6
    assert abs(ours.std() - 0.02) < 0.001


# ---- where the ids stand ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("tokenizer"), io.BytesIO()
    text = "User Preference: Feature: the user will like the target movie titled with feature Yes. No. Alien <UserID>"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 20),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["Yes", "No"],
        hard_vocab_limit=False,
        pad_id=-1,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return SentencePieceTokenizer(folder, None)


TITLES = ("Alien", "<UserID>", "<TargetItemID>", "<unk>", "a <unk>.<unk> \u2047 \x00\u4e2d", "{question} {0} {}")
USER, ITEM = 1001, 1002


def rows_of(title, wording):
    data = Dataset(
        "made", "here", "movie", {1: Item(title), 2: Item("Heat")}, [], [], [], wording, None,
        lambda row: {"<UserID>": USER, "<TargetItemID>": ITEM},
    )  # fmt: skip
    return [Interaction(7, ((1, True), (2, True)), 2, True), Interaction(7, ((2, True),), 1, False)], data


@pytest.mark.parametrize("wording", ["collm", "tallrec"])
@pytest.mark.parametrize("title", TITLES)
def test_no_title_shifts_a_vector(tokenizer, wording, title):
    rows, data = rows_of(title, wording)
    for pair in encode_pairs(rows, data, tokenizer, "collm", 4096)[0]:
        for side in (pair.positive, pair.negative):
            ids = list(side.prompt)
            assert [token for token in ids if token > 999] == [USER, ITEM]
            before, rest = ids[: ids.index(USER)], ids[ids.index(USER) + 1 :]
            between, after = rest[: rest.index(ITEM)], rest[rest.index(ITEM) + 1 :]
            asked = "dislike" if side is pair.negative else ("enjoy" if wording == "collm" else "like")
            assert tokenizer.decode(before).rstrip().endswith("feature" if wording == "collm" else "Feature:")
            assert asked in tokenizer.decode(between) and tokenizer.decode(after).startswith("?")
    assert [pair.liked for pair in encode_pairs(rows, data, tokenizer, "collm", 4096)[0]] == [True, False]


def test_truncation_drops_history_and_keeps_both_vectors(tokenizer):
    rows, data = rows_of("Alien", "collm")
    whole = encode_pairs(rows, data, tokenizer, "collm", 4096)[0][0]
    pairs, truncated = encode_pairs(rows[:1], data, tokenizer, "collm", whole.length - 1)
    assert truncated == 1 and [token for token in pairs[0].positive.prompt if token > 999] == [USER, ITEM]


def test_text_after_a_vector_begins_without_a_space_of_its_own(tokenizer):
    whole = encode_parts([(("the user", "<UserID>", "the movie"), {"<UserID>": 5000})], tokenizer)[0]
    place = whole.index(5000)
    assert whole[:place] == tokenizer.encode("the user") and tokenizer.decode(whole[place + 1 :]) == "the movie"
    assert tokenizer.piece(whole[place + 1])[0] not in "\u2581 "


def test_a_tokenizer_that_joins_a_line_break_with_what_follows_is_refused():
    class Joining:
        def encode(self, text):
            return [1, 2] if text == "\n" else [1, 9]

        def encode_all(self, texts):
            return [self.encode(text) for text in texts]

    with pytest.raises(DataError, match="no vector can stand before that"):
        encode_parts([(("a", "<UserID>", "b"), {"<UserID>": 5})], Joining())
