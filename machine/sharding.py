"""--fsdp: the frozen base cut over the ranks (torch's fully_shard), for one that does not fit a single device.

Only the decoder layers are cut, 6.5 of LLaMA-7B's 6.7 billion parameters; embedding, lm_head and the adapter stay
whole on every rank. A layer is gathered just before it computes, forward or backward, and the parts of other ranks are
freed right after. Gathering takes all ranks, so all of them must make the same number of passes.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from machine import ranks
from model.llama import Llama


def shard(model: Llama, device: torch.device) -> Llama:
    """Cut the layers of a base on the CPU, one after the other, and move each part to its rank's device.

    To be called before LoRA is added, so that A and B stay whole.
    """
    mesh = init_device_mesh(device.type, (ranks.count(),))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    kept = [
        parameter
        for module in (model.model.embed_tokens, model.model.norm, model.lm_head)
        for parameter in module.parameters()
    ]
    for parameter in kept:
        parameter.data = parameter.data.to(device)
    fully_shard(
        model.model, mesh=mesh, ignored_params=set(kept)
    )  # holds nothing itself; lets a layer fetch the next one
    # This pass makes buffers that stay. Had inference mode made them, training could not use them.
    with torch.no_grad():
        model.model(torch.zeros(1, 1, dtype=torch.int64, device=device))
    return model


@contextlib.contextmanager
def equal_forward_passes(model: Llama) -> Iterator[None]:
    """Within this context each rank may make any number of forward passes without gradient.

    A rank that has finished keeps making passes until all have.
    """
    if not ranks.is_sharded(model):
        yield
        return

    def announce(*_: object) -> None:
        ranks.any_rank(True)

    hook = model.model.register_forward_pre_hook(announce, prepend=True)
    try:
        yield
    finally:
        hook.remove()
    with torch.no_grad():
        while ranks.any_rank(False):
            model.model(torch.zeros(1, 1, dtype=torch.int64, device=model.lm_head.weight.device))
