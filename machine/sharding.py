"""--fsdp: the frozen base cut over the ranks (torch's fully_shard), for one that does not fit a single device.

Only the decoder layers are cut, 6.5 of LLaMA-7B's 6.7 billion parameters; embedding, lm_head and the adapter stay
whole on every rank. A layer is put together just before it computes, forward or backward, and its parts of
others are freed right after. Putting it together takes all ranks, so all have to make as many passes.
"""

import contextlib

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from machine import ranks
from model.llama import Llama


def shard(model: Llama, device: torch.device) -> Llama:
    """Cut the layers of a base that lies on the CPU, one after the other, each part to its rank's device.

    Comes before LoRA, whose A and B then are no part of it.
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
    )  # holds nothing itself, but lets one layer fetch the next
    with torch.no_grad():  # the buffers made now serve for good; made in inference mode they could not be trained with
        model.model(torch.zeros(1, 1, dtype=torch.int64, device=device))
    return model


@contextlib.contextmanager
def equal_forward_passes(model: Llama):
    """Any number of forward passes without gradient on each rank: who is done goes along until all are."""
    if not isinstance(model.model, FSDPModule):
        yield
        return
    hook = model.model.register_forward_pre_hook(
        lambda *_: ranks.any_rank(True) and None, prepend=True
    )  # None: the inputs stay
    try:
        yield
    finally:
        hook.remove()
    with torch.no_grad():
        while ranks.any_rank(False):
            model.model(torch.zeros(1, 1, dtype=torch.int64, device=model.lm_head.weight.device))
