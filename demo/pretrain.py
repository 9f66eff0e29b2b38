"""Pre-train the built-in demo's tokenizer and LLaMA: `python -m demo.pretrain --out DIR`.

DIR becomes a LlamaForCausalLM folder: config.json, bf16 shards with their index, tokenizer.model.
Repeated on one machine, it gives the same bytes.

Shape letters: B documents, T tokens, V vocabulary.
"""

import argparse
import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

from demo.corpus import ACCLAIM, FIRST_COURSE, SECOND_COURSE, Course, documents
from demo.world import read_world
from model.llama import Llama, LlamaConfig
from model.write import plan_shards, write_checkpoint

SEED = 0
VOCAB_SIZE = 2048
TOKENIZER_DOCUMENTS = 4000
# Words of the prompts that are too rare in so small a corpus to become single pieces.
COMMON_WORDS = (
    "identify whether target movie movies user User will like dislike preference Preference "
    "unpreference Unpreference Whether Given"
)

BATCH = 24  # documents in a step
FIRST_STEPS, STEPS = 900, 1350  # of the first course; of both together
ANSWER_WEIGHT = 8.0
ANSWER_WORDS = (
    "Yes",
    "No",
    "liked",
    "disliked",
    "enjoyed",
    "not",
)  # answer_ids adds those of corpus.ACCLAIM and the genres
LEARNING_RATE = 2e-3
WARMUP_STEPS = 60
SHARD_BYTES = 1_800_000

CONFIG = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=256,
    intermediate_size=672,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)


def train_tokenizer() -> bytes:
    """A SentencePiece BPE model of LLaMA's kind, as the bytes of tokenizer.model."""
    # SentencePiece reads line by line and would put a space before the first word of every line. With a quotation
    # mark in place of each line break it also sees words that follow no space.
    sentences = [
        text.replace("\n", '"')
        for course in (FIRST_COURSE, SECOND_COURSE)
        for text in itertools.islice(documents(SEED, course), TOKENIZER_DOCUMENTS // 2)
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences + [COMMON_WORDS.replace(" ", ' "'), COMMON_WORDS] * 300),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,  # more would make the merges depend on timing
        minloglevel=2,
    )
    return model.getvalue()


def batches(tokenizer: sentencepiece.SentencePieceProcessor, seed: int, course: Course) -> Iterator[list[list[int]]]:
    """Endless batches of whole documents as token ids, BOS to EOS; grouped by length, so they need little padding."""
    rng = np.random.default_rng(seed)
    stream = documents(seed, course)
    while True:
        texts = itertools.islice(stream, 32 * BATCH)
        rows = [[tokenizer.bos_id(), *tokenizer.encode(text), tokenizer.eos_id()] for text in texts]
        rows.sort(key=len)
        for at in rng.permutation(32):
            yield rows[at * BATCH : (at + 1) * BATCH]


def initialise(model: Llama, seed: int) -> None:
    """Normal weights of standard deviation 0.02; smaller, by depth, where they write to the residual stream (GPT-2)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = 0.02 / math.sqrt(2 * model.config.num_hidden_layers) if residual else 0.02
            torch.nn.init.normal_(parameter, std=scale, generator=generator)


def answer_ids(tokenizer: sentencepiece.SentencePieceProcessor) -> torch.Tensor:
    """The ids that loss_of gives a larger weight.

    They are the first ids, after a space, of the words that describe viewers and films, and those of "Yes" and "No"
    after a line break.
    """
    words = (*ANSWER_WORDS, *(word for _, word in ACCLAIM), *read_world().genres)
    after_space = [tokenizer.encode(word)[0] for word in words]
    after_break = [tokenizer.encode(f"\n{word}")[2] for word in ("Yes", "No")]  # 0: the space, 1: the line break
    return torch.tensor(after_break + after_space)


def loss_of(model: Llama, rows: list[list[int]], answers: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next token in nats, a weighted mean over every real token of the batch.

    Most tokens spell film titles, which no model can predict. The few that answer a question have ANSWER_WEIGHT times
    the weight; otherwise the model would learn the questions last.
    """
    length = math.ceil(max(map(len, rows)) / 32) * 32  # few shapes, as CPU kernels are set up for each
    ids = torch.zeros(len(rows), length + 1, dtype=torch.long)  # (B, T + 1), padded on the right
    weights = torch.zeros(len(rows), length + 1)  # (B, T + 1)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(row)] = 1
    labels, weights = ids[:, 1:], weights[:, 1:]  # (B, T)
    weights = weights * (1 + (ANSWER_WEIGHT - 1) * torch.isin(labels, answers))
    logits = model(ids[:, :-1])  # (B, T, V)
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")  # (B * T,)
    return (loss * weights.flatten()).sum() / weights.sum()


def learning_rate(step: int) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of LEARNING_RATE. step: from 0."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return LEARNING_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def pretrain(tokenizer: sentencepiece.SentencePieceProcessor) -> Llama:
    """The trained model, in bf16. The optimizers work on float32 copies: bf16 would round small updates away."""
    masters, model = Llama(CONFIG), Llama(CONFIG).bfloat16()
    initialise(masters, SEED)
    weights = list(zip(masters.parameters(), model.parameters()))
    matrices = [parameter for parameter in masters.model.layers.parameters() if parameter.dim() == 2]
    others = [parameter for parameter in masters.parameters() if not any(parameter is matrix for matrix in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    )
    answers = answer_ids(tokenizer)
    first = itertools.islice(batches(tokenizer, SEED + 1, FIRST_COURSE), FIRST_STEPS)
    second = itertools.islice(batches(tokenizer, SEED + 2, SECOND_COURSE), STEPS - FIRST_STEPS)
    for step, rows in enumerate(itertools.chain(first, second)):
        with torch.no_grad():
            for master, copy in weights:
                copy.copy_(master)
                copy.grad = None
        loss = loss_of(model, rows, answers)
        loss.backward()
        for master, copy in weights:
            master.grad = copy.grad.float()
        torch.nn.utils.clip_grad_norm_(masters.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(step)
            optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} of {STEPS}  loss {loss.item():.3f} nats a token", flush=True)
    return masters.bfloat16()


def save(model: Llama, tokenizer: bytes, folder: Path) -> None:
    """Write a checkpoint folder in shards of at most SHARD_BYTES. tokenizer: the bytes of tokenizer.model."""
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    sizes = {name: tensor.nbytes for name, tensor in state.items()}
    write_checkpoint(
        folder,
        plan_shards(sizes, SHARD_BYTES),
        lambda names: {name: state[name] for name in names},
        config_fields(model.config),
        {"tokenizer.model": tokenizer},
    )


def config_fields(config: LlamaConfig) -> dict:
    """config.json as published LLaMA folders have it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "built_in_demo": True,  # model.demo.is_demo looks for this
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Pre-train the built-in demo model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    out = parser.parse_args().out
    tokenizer = train_tokenizer()
    model = pretrain(sentencepiece.SentencePieceProcessor(model_proto=tokenizer))
    save(model, tokenizer, out)


if __name__ == "__main__":
    main()
