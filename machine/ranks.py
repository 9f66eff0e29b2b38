"""Several processes for one run, as torchrun starts them; in a single process every function is a no-op.

A rank is one of the processes, each with a GPU of its own, or all on CPUs. Every rank holds the whole adapter and
its optimizer, and the whole base (or its part, see machine/sharding.py). In a step each rank computes its share of the
pairs. Losses are divided by the step's counts, not the rank's. Then one sum over the ranks gives every rank the
gradient that one process would have, and so the same next adapter. DistributedDataParallel does the same with a
wrapper, hooks and buckets, which pay for gradients of gigabytes; those of an adapter are a few megabytes. Only rank 0
writes and prints.
"""

import contextlib
import functools
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from errors import FlagError, RunError, notice

# For a rank that neither answers nor dies. The death of one is noticed at once by gloo, and by torchrun, which sends
# SIGTERM to the others. A rank that waits for NCCL cannot react to that: torchrun kills it 30 s later, without a word
# of ours. NCCL's own watchdog ends a wait after this time.
TIMEOUT = timedelta(minutes=30)
LOST = (
    "another process of this run died, was stopped or no longer answers, so all stop; "
    "the same command with --resume --out RUN resumes from the last save"
)


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def index() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count_on_node() -> int:
    """How many of them share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if count() > 1 else 1


def is_first() -> bool:
    """Whether this is the one that writes and prints."""
    return index() == 0


def first_only(write: Callable) -> Callable:
    """A function that does nothing on the other ranks."""
    return functools.wraps(write)(lambda *args, **kwargs: write(*args, **kwargs) if is_first() else None)


# ---- beginning and end --------------------------------------------------------------------------


def distributed(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """`main` as one of the processes that torchrun started; unchanged without torchrun.

    A failure on one rank, or on all, is reported once, by the rank that fails first. The death of a rank becomes a
    RunError on another: its collective breaks off, or torchrun, which watches all of them, sends it SIGTERM.
    """

    def main_of_a_rank(argv: list[str]) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            main(argv)
            return
        store, rank, world_size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        signal.signal(signal.SIGTERM, _stop)
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=dist.PrefixStore("group", store),
                rank=rank,
                world_size=world_size,
                timeout=TIMEOUT,
            )
            with contextlib.nullcontext() if rank == 0 else _silence():
                notice(f"{world_size} processes share the work")
                main(argv)
        except (Exception, KeyboardInterrupt) as error:
            # The end of the others makes torchrun send SIGTERM; the message comes first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not _is_first_to_fail(store, rank):
                raise SystemExit(2) from None
            if _tells_of_another(error):
                raise RunError(LOST) from None
            raise
        _leave_together()

    return main_of_a_rank


def _leave_together() -> None:
    """End this process when all ranks are done: if one leaves in another way, torchrun kills those that still write.

    Python does not shut down. Libraries have threads then, and one that C++ still has at its end aborts the process.
    """
    dist.all_reduce(torch.zeros(1))
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def single_process(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """`main` of a verb that cannot share its work: refuses to run once in every process of torchrun."""

    def refuse(argv: list[str]) -> None:
        if count() > 1:
            raise FlagError("runs in one process; start it without torchrun")
        main(argv)

    return distributed(refuse)


def _stop(number: int, frame) -> None:
    raise RunError(LOST)


@contextlib.contextmanager
def _silence():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _is_first_to_fail(store: dist.Store, rank: int) -> bool:
    try:
        return store.compare_set("failed", "", str(rank)) == str(rank).encode()
    except RuntimeError:  # the process that keeps the store is gone: nobody else will say anything
        return True


def _tells_of_another(error: BaseException) -> bool:
    """Whether this is how a collective ends when another rank is gone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL"))
    )


# ---- what they tell each other ------------------------------------------------------------------


def broadcast(value: object) -> object:
    """Rank 0's value, fit for JSON, on every rank."""
    if count() == 1:
        return value
    content = json.dumps(value if is_first() else None).encode()
    size = torch.tensor(len(content))
    dist.broadcast(size, 0)
    buffer = torch.tensor(list(content), dtype=torch.uint8) if is_first() else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(buffer, 0)
    return json.loads(bytes(buffer.tolist()))


def broadcast_tensors(parameters: list[torch.Tensor]) -> None:
    """Give every rank the values of rank 0, in place."""
    if count() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def first_rank_first(work: Callable, *args: object) -> Any:
    """work(*args) on every rank: on rank 0, then on one rank of each other node, then on the rest.

    So files are downloaded and prepared once, and later ranks find them.
    """
    turn = 0 if is_first() else 1 if int(os.environ.get("LOCAL_RANK", "0")) == 0 else 2
    result = None
    for number in range(3 if count() > 1 else 1):
        if number == turn:
            result = work(*args)
        if count() > 1:
            dist.all_reduce(torch.zeros(1))
    return result


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Every rank's CPU tensor of this shape, (ranks, ...)."""
    if count() == 1:
        return tensor.unsqueeze(0)
    parts = [torch.empty_like(tensor) for _ in range(count())]
    dist.all_gather(parts, tensor)
    return torch.stack(parts)


def any_rank(value: bool) -> bool:
    """Whether it is true on any rank."""
    return bool(gather(torch.tensor(value)).any())


def first_word(text: str) -> str:
    """The text of the first rank whose text is not empty, on every rank; of it at most 1,000 bytes."""
    content = text.encode()[:1000].ljust(1000, b"\0")
    texts = gather(torch.tensor(list(content), dtype=torch.uint8)).tolist()
    return next((words for row in texts if (words := bytes(row).rstrip(b"\0").decode(errors="ignore"))), "")


def refuse_drift(parameters: list[torch.Tensor]) -> None:
    """Raises RunError if the ranks' adapters, which take the same updates, are not the same."""
    sums = gather(torch.stack([parameter.detach().double().sum() for parameter in parameters]).cpu())
    if not torch.equal(sums, sums[:1].expand_as(sums)):
        raise RunError("the processes' adapters have drifted apart; are their GPUs and versions of torch the same?")


def is_sharded(model: nn.Module) -> bool:
    """Whether --fsdp has cut the decoder over the ranks, which then have to make as many passes."""
    return isinstance(model.model, FSDPModule)


# ---- each one's part ----------------------------------------------------------------------------


def own_device(name: str) -> str:
    """`--device` for this rank: each has a GPU of its own on its node. Raises FlagError for a numbered GPU."""
    if count() == 1 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise FlagError(f"--device {name}: each process takes a GPU of its own; say cuda, or leave it out")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise FlagError(
            f"more processes than GPUs on this node, {torch.cuda.device_count()}; "
            "give torchrun a smaller --nproc-per-node"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def seed_dropout(seed: int, step: int = 0) -> None:
    """Let every rank but the first draw dropout masks of its own; the first draws those of a single process."""
    if index() > 0 or step > 0:
        torch.manual_seed(int(np.random.default_rng([seed, index(), step]).integers(2**62)))


def rank_micro_batches(batch: list, size: int, recut: bool, even: bool) -> Iterator[tuple[list, float]]:
    """(micro-batch, weight) for each of this rank's forward and backward passes in a step.

    batch: the step's pairs by length, which are dealt out like cards, so that every rank has long and short ones; size:
    pairs in a micro-batch. recut: the loss is the same however the step is cut, so single pairs are dealt; otherwise
    whole micro-batches. even: every rank makes as many passes; a pass that only keeps a rank in step has weight 0.
    """

    def cut(pairs: list) -> list[list]:
        return [pairs[i : i + size] for i in range(0, len(pairs), size)]

    def dealt(rank: int) -> list[list]:
        return cut(batch[rank :: count()]) if recut else cut(batch)[rank :: count()]

    mine = dealt(index())
    yield from ((pairs, 1.0) for pairs in mine)
    if even and len(mine) < len(dealt(0)):
        yield batch[:size], 0.0


def sum_over_ranks(parameters: list[torch.Tensor], totals: torch.Tensor) -> None:
    """Sum the gradients, and the totals of a step, over all ranks, in place."""
    if count() == 1:
        return
    # A rank that had no pair has no gradients.
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])  # one message
    dist.all_reduce(flat)
    for parameter, summed in zip(parameters, flat.split([p.numel() for p in parameters])):
        parameter.grad = summed.view_as(parameter)
    dist.all_reduce(totals)


def rows_of_rank(rows: int) -> slice:
    """This rank's rows, in one run: neighbours have prompts in common."""
    each = math.ceil(rows / count())
    return slice(index() * each, (index() + 1) * each)


def gather_rows(part: np.ndarray, rows: int) -> np.ndarray:
    """(rows,) float64 from every rank's values of rows_of_rank(rows)."""
    if count() == 1:
        return part
    whole = torch.zeros(rows, dtype=torch.float64)
    whole[rows_of_rank(rows)] = torch.from_numpy(part)
    dist.all_reduce(whole)  # the other ranks have 0 there
    return whole.numpy()
