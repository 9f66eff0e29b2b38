"""Kill a tiny run before every change of a file: python -m tests.kill_points FOLDER.

test_kill_resume.py runs this in a separate process, which can be forked. fine_tune trains a tiny LLaMA and is killed
before each change of a file; every fourth run is killed a second time while it resumes. Prints the number of changes
and every run folder that differs from that of an uninterrupted run.
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
from unittest.mock import patch

import torch

import train
from bench.kill_resume import ON_THE_WAY, content, die_at_change
from cli.train import TrainFlags
from data.pairs import EncodedPair, Row
from data.splits import Split
from lora.inject import add_lora
from model.llama import Llama, LlamaConfig
from objectives.by_name import make_objective
from run.folder import RunFolder
from run.progress import Progress
from tensors import trainable_parameters

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


def small_run(out: Path, validate: Callable[[], float | dict] | None = None, **changes) -> Progress:
    """Start or resume three steps of two micro-batches, each validated and saved; returns what fine_tune does.

    changes: of the flags; `recomputed` layers. validate: the AUC, or every measure of a validation; by default a number
    that goes up and down with the weights.
    """
    recomputed = changes.pop("recomputed", 1)
    resume = (out / "config.json").exists()
    torch.manual_seed(1)
    model = Llama(
        LlamaConfig(**SIZES, rms_norm_eps=1e-5, rope_theta=100.0, tie_word_embeddings=False, rope_scaling=None)
    )
    add_lora(model.to(changes.get("device", "cpu")), r=2, alpha=4, dropout=changes.get("lora_dropout", 0.3))
    model.model.checkpointed_layers = recomputed
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
    )
    flags = replace(flags, **changes)
    folder = RunFolder(out, resume, ADAPTER)
    if not resume:
        folder.write_config({"flags": {}})

    def measures(model: Llama, split: Split) -> dict[str, float]:
        weights = [parameter.detach().flatten() for parameter in trainable_parameters(model).values()]
        found = validate() if validate else float(torch.cat(weights).sum().sin())
        return found if isinstance(found, dict) else {"valid_auc": found}

    with patch.object(train, "validation_measures", measures):
        return train.fine_tune(model, pairs, Split([], [], 0, {}), make_objective(vars(flags)), folder, flags)


def forked(work: Callable[[], None], log: Path) -> int:
    """Exit status of work() in a forked process; negative: the signal that ended it."""
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

    assert life("uninterrupted") == 0, (folder / "log").read_text()
    wanted, changes = content(folder / "uninterrupted"), int.from_bytes(counter[8:16], "little")
    for point in range(1, changes + 1):
        name = f"change-{point}"
        ends = [life(name, point), life(name, point // 2 if point % 4 == 0 else 0)]
        if ends[1] == -signal.SIGKILL and point % 4 == 0:
            ends.append(life(name))
        if ends[0] != -signal.SIGKILL or ends[-1] != 0 or content(folder / name) != wanted:
            wrong.append([name, ends])
    log = (folder / "log").read_text()[-2000:] if wrong else ""
    print(json.dumps({"changes": changes, "wrong": wrong, "log": log}))


if __name__ == "__main__":
    main()
