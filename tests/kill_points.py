"""Run by test_kill_resume.py in a process of its own, which can be forked: python -m tests.kill_points FOLDER.

fine_tune on a tiny LLaMA, killed in front of each change of a file that it makes, every fourth time once more
while it is resumed. Prints how many such changes there are, and every run folder that ends up otherwise than without a kill.
"""

import importlib
import json
import mmap
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bench.kill_resume import ON_THE_WAY, content, die_at_change
from cli.train import TrainFlags
from data.pairs import EncodedPair, Row
from lora.inject import add_lora
from model.llama import Llama, LlamaConfig
from run.folder import RunFolder
from tensors import trainable_parameters
from train import fine_tune

SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
}
ADAPTER = {
    "r": 2,
    "alpha": 4,
    "dropout": 0.3,
    "rslora": False,
    "targets": ("q_proj", "v_proj"),
    "base": "tiny",
    "base_fingerprint": "0",
}


def small_run(out: Path, validate: Callable[[], float] | None = None, **changes) -> dict:
    """Start, or go on with, three steps of two micro-batches, each of them validated and saved; fine_tune's summary.

    changes: of the flags. validate: without it a figure that goes up and down with the weights.
    """
    resume = (out / "config.json").exists()
    torch.manual_seed(1)
    model = Llama(
        LlamaConfig(**SIZES, rms_norm_eps=1e-5, rope_theta=100.0, tie_word_embeddings=False, rope_scaling=None)
    )
    add_lora(model, r=2, alpha=4, dropout=0.3)
    model.model.checkpointed_layers = 1
    draw = random.Random(1)
    ids = [[draw.randrange(3, 23) for _ in range(8)] for _ in range(8)]
    pairs = [EncodedPair(Row(prompt, [1, 2]), Row(prompt[1:], [0, 2]), f"row {i}") for i, prompt in enumerate(ids)]
    flags = TrainFlags(
        max_steps=3,
        batch_size=4,
        micro_batch_size=2,
        eval_every=1,
        warmup_steps=1,
        lr=0.05,
        kl_weight=0.01,
        patience=9,
        resume=resume,
    )
    folder = RunFolder(out, resume)
    if not resume:
        folder.write_config({"flags": {}})

    def changing() -> float:
        return float(
            torch.cat([parameter.detach().flatten() for parameter in trainable_parameters(model).values()]).sum().sin()
        )

    return fine_tune(model, pairs, replace(flags, **changes), folder, ADAPTER, validate or changing)


def forked(work: Callable[[], None], log: Path) -> int:
    """Exit status of work() in a process of its own; negative: the signal that ended it."""
    if (child := os.fork()) == 0:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 2)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    torch.set_num_threads(1)
    for name in ON_THE_WAY:
        importlib.import_module(name)
    folder, counter, wrong = Path(sys.argv[1]), mmap.mmap(-1, 16), []

    def life(name: str, die_at: int = 0) -> int:
        def work() -> None:
            die_at_change(die_at, counter)
            small_run(folder / name)

        return forked(work, folder / "log")

    assert life("unbroken") == 0, (folder / "log").read_text()
    wanted, changes = content(folder / "unbroken"), int.from_bytes(counter[8:16], "little")
    for point in range(1, changes + 1):
        name = f"change-{point}"
        ends = [life(name, point), life(name, point // 2 if point % 4 == 0 else 0)]
        if ends[1] == -signal.SIGKILL and point % 4 == 0:
            ends.append(life(name))
        if ends[0] != -signal.SIGKILL or ends[-1] != 0 or content(folder / name) != wanted:
            wrong.append([name, ends])
    print(
        json.dumps({"changes": changes, "wrong": wrong, "log": (folder / "log").read_text()[-2000:] if wrong else ""})
    )


if __name__ == "__main__":
    main()
