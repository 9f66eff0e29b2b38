"""A pretend GPU: tensors that say `cuda:0`, hold real values in the CPU's memory, and write down what a GPU would do.

    with PretendCuda() as gpu:
        train.main([...])                 # --device auto finds it
    gpu.events                            # what made the CPU wait, and every copy, with the line that asked for it

Like a GPU it has a random generator of its own, refuses tensors of two devices in one operation, and copies from
pinned memory without waiting. It knows nothing of speed, kernels, streams or their rounding: it proves that the code's
path for GPUs runs, mixes no devices, keeps its random state, and waits no more often than it says.
"""

import collections
import contextlib
import sys
from pathlib import Path
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from model import varlen
from tests.varlen_stand_in import make_varlen_attn

ROOT = Path(__file__).parent.parent
DEVICE = torch.device("cuda:0")
WAITS, COPY, COPY_LATER, BACK = "wait", "copy to the GPU, waiting", "copy to the GPU", "copy from the GPU, waiting"
NAME, MEMORY = "Pretend GPU", 80 * 10**9
RANDOM_FACTORIES = ("rand", "randn", "randint", "randperm", "normal")
VALUES_OF_PYTHON = ("tensor", "as_tensor", "asarray")  # factories that copy what Python holds
MOVES = ("to", "cuda", "cpu")
Event = collections.namedtuple("Event", "kind operation place")


class OnPretend(torch.Tensor):
    """A tensor on the pretend GPU. It shares the memory of the plain tensor that it is made from."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    device, is_cuda, is_cpu = DEVICE, True, False

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return PretendCuda.now.compute(func, args, kwargs or {})

    def get_device(self):
        return DEVICE.index

    def numpy(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self):
        PretendCuda.now.write_down(BACK, "tolist")
        return plain(self).tolist()


def on_pretend(plain):
    return torch.Tensor._make_subclass(OnPretend, plain, plain.requires_grad)


def is_here(value):
    return isinstance(value, OnPretend)


def is_on_cpu(value):
    return isinstance(value, torch.Tensor) and not is_here(value) and not value.is_meta


def plain(tensor):
    """The same memory as a CPU tensor."""
    with torch._C._DisableTorchDispatch():
        return torch.Tensor._make_subclass(torch.Tensor, tensor.detach())


def is_cuda(value):
    """Whether it names the pretend GPU."""
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.startswith("cuda")


def place():
    """The line of this project, outside the tests, that is running."""
    frame = sys._getframe(1)
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(f"{ROOT}/") and not name.startswith(f"{ROOT}/tests/"):
            return f"{name.removeprefix(f'{ROOT}/')}:{frame.f_lineno}"
        frame = frame.f_back
    return "tests"


class Calls(TorchFunctionMode):
    """While it is active, every call of torch from Python goes through the pretend GPU of that time."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return PretendCuda.now.call(func, args, kwargs or {})


class PretendCuda:
    """The device, while the context lasts. events: what it wrote down, in order."""

    now = None

    def __init__(self):
        self.events, self.pinned, self.in_backward = [], {}, False
        self.random_state = torch.Generator().manual_seed(torch.initial_seed()).get_state()
        self.patches = contextlib.ExitStack()

    def counts(self):
        """{kind of event: how many}."""
        return collections.Counter(event.kind for event in self.events)

    def write_down(self, kind, operation):
        self.events.append(Event(kind, operation, place()))

    # ---- the operations -------------------------------------------------------------------------

    def compute(self, func, args, kwargs):
        """What a tensor of the GPU is asked for, below autograd."""
        if func._can_decompose():  # in inference mode torch leaves that to us
            return func.decompose(*args, **kwargs)
        name, leaves = func.overloadpacket.__name__, tree_leaves((args, kwargs))
        strangers = [leaf for leaf in leaves if is_on_cpu(leaf)]
        if name in ("index", "index_put_") and strangers:  # indices may be on the CPU, and are copied
            self.write_down(COPY, name)
        elif name == "copy_" and strangers:
            to_gpu = is_here(args[0])
            later = to_gpu and kwargs.get("non_blocking", len(args) > 2 and args[2]) and self._is_pinned(args[1])
            self.write_down((COPY_LATER if later else COPY) if to_gpu else BACK, name)
        elif name == "cat" and self.in_backward and not any(leaf.any() for leaf in strangers):
            pass  # autograd's zeros for an unused part of a split: torch makes them where it sees these tensors
        elif any(leaf.dim() > 0 for leaf in strangers):
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} mixes cuda:0 and cpu")
        sized_by_values = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        by_numbers = name == "index" and not any(is_here(i) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if sized_by_values and not by_numbers:
            self.write_down(WAITS, name)
        with self._own_randomness(torch.Tag.nondeterministic_seeded in func.tags), torch._C._DisableTorchDispatch():
            result = func(*args, **kwargs)
        return tree_map(lambda value: on_pretend(value) if is_on_cpu(value) else value, result)

    def call(self, func, args, kwargs):
        """Calls that say where a tensor is, move one, or make one."""
        name, first = getattr(func, "__name__", ""), args[0] if args else None
        if isinstance(first, torch.Tensor) and name in MOVES:
            return self._move(func, args, kwargs)
        if name == "pin_memory":
            return self._pin(first.clone())
        if is_cuda(kwargs.get("device")):
            return self._make(func, args, kwargs)
        if kwargs.get("pin_memory"):
            return self._pin(func(*args, **kwargs | {"pin_memory": False}))
        return func(*args, **kwargs)

    def _make(self, func, args, kwargs):
        """A factory with device="cuda"."""
        if func.__name__ in VALUES_OF_PYTHON:
            self.write_down(COPY, func.__name__)
        with self._own_randomness(func.__name__ in RANDOM_FACTORIES):
            made = func(*args, **kwargs | {"device": "cpu"})
        return made if is_here(made) else on_pretend(made)

    def _move(self, func, args, kwargs):
        """Tensor.to, .cpu and .cuda."""
        tensor, *rest = args
        wanted = [v for v in (*rest, *kwargs.values()) if isinstance(v, (str, torch.device, torch.Tensor))]
        if func.__name__ == "cuda":
            to_gpu = True
        elif func.__name__ == "cpu":
            to_gpu = False
        else:
            to_gpu = is_here(tensor)
            for value in wanted:
                to_gpu = is_here(value) if isinstance(value, torch.Tensor) else is_cuda(value)
        if to_gpu == is_here(tensor):
            rest = ["cpu" if is_cuda(value) else value for value in rest]
            kwargs = {name: "cpu" if is_cuda(value) else value for name, value in kwargs.items()}
            return tensor if func.__name__ in ("cpu", "cuda") else func(tensor, *rest, **kwargs)
        if tensor.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError("the pretend GPU moves no tensor that needs a gradient")
        later = kwargs.get("non_blocking") and self._is_pinned(tensor)
        self.write_down((COPY_LATER if later else COPY) if to_gpu else BACK, func.__name__)
        dtypes = [value for value in (*rest, *kwargs.values()) if isinstance(value, torch.dtype)]
        copied = plain(tensor) if is_here(tensor) else tensor
        copied = copied.to(dtypes[0] if dtypes else copied.dtype, copy=True)
        return on_pretend(copied) if to_gpu else copied

    def _pin(self, tensor):
        self.pinned[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that nothing else gets its address
        return tensor

    def _is_pinned(self, tensor):
        return tensor.untyped_storage().data_ptr() in self.pinned

    # ---- its random generator -------------------------------------------------------------------

    @contextlib.contextmanager
    def _own_randomness(self, needed=True):
        if not needed:
            yield
            return
        of_cpu = torch.default_generator.get_state()
        torch.default_generator.set_state(self.random_state)
        try:
            yield
        finally:
            self.random_state = torch.default_generator.get_state()
            torch.default_generator.set_state(of_cpu)

    def seed(self, seed):
        self.random_state = torch.Generator().manual_seed(seed).get_state()

    def set_random_state(self, state, device=None):
        self.random_state = state.clone()

    # ---- torch.cuda -----------------------------------------------------------------------------

    def __enter__(self):
        of_cuda = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "_initialized": True,
            "_is_in_bad_fork": lambda: False,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "device": lambda device: contextlib.nullcontext(),
            "synchronize": lambda device=None: self.write_down(WAITS, "synchronize"),
            "manual_seed": self.seed,
            "manual_seed_all": self.seed,
            "get_rng_state": lambda device=None: self.random_state.clone(),
            "set_rng_state": self.set_random_state,
            "get_device_name": lambda device=None: NAME,
            "get_device_capability": lambda device=None: (9, 0),
            "is_bf16_supported": lambda including_emulation=True: True,
            "mem_get_info": lambda device=None: (MEMORY, MEMORY),
            "get_per_process_memory_fraction": lambda device=None: 1.0,
            "is_current_stream_capturing": lambda: False,
            "memory_reserved": lambda device=None: 0,
            "memory_allocated": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 10**9,
            "max_memory_reserved": lambda device=None: 10**9,
            "reset_peak_memory_stats": lambda device=None: None,
        }
        run_backward = torch.autograd._engine_run_backward
        grouped = torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype

        def backward(*args, **kwargs):
            before, self.in_backward = self.in_backward, True
            try:
                with Calls():  # torch turns it off in calls that went through it
                    return run_backward(*args, **kwargs)
            finally:
                self.in_backward = before

        def by_device(tensors):  # torch looks below Python, where these tensors are on the CPU
            return {(tensors[0][0].device, dtype): found for (_, dtype), found in grouped(tensors).items()}

        for owner, name, replacement in (
            (torch.autograd, "_engine_run_backward", backward),
            (torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", by_device),
            # Module.to then makes new parameters. Otherwise it puts the values into the old ones.
            (torch.__future__, "_overwrite_module_params_on_conversion", True),
            (PretendCuda, "now", self),
            (torch.backends.cuda, "is_flash_attention_available", lambda: True),
            (varlen, "varlen_attn", make_varlen_attn(plain)),
        ):
            self.patches.enter_context(mock.patch.object(owner, name, replacement))
        self.patches.enter_context(mock.patch.multiple(torch.cuda, **of_cuda))
        self.patches.enter_context(Calls())
        return self

    def __exit__(self, *error):
        self.patches.close()
