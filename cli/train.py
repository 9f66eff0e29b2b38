"""What train.py can be asked for: its flags, their presets, and which of them fit together."""

from dataclasses import dataclass
from pathlib import Path

from cli.data import DataFlags, data_problems
from cli.flags import Resolved, flag
from data.prompts import TEMPLATES
from errors import FlagError
from lora.adapter import read_adapter_config
from machine import ranks
from machine.device import BASE_DTYPES, DTYPES, demo_precision
from model.demo import is_demo
from run.base import base_identity


@dataclass(frozen=True)
class TrainFlags(DataFlags):
    """Defaults are those of a 7B base (Appendix B of the paper, TALLRec); presets follow below."""

    shots: str = flag("64", "training pairs drawn from the training split: a number, or all")
    model: str = flag("demo", "checkpoint folder (config.json, *.safetensors, tokenizer.model), or demo")
    init_adapter: str = flag(None, "start from this adapter folder instead of a fresh one")
    objective: str = flag("paper", "which loss, see docs/method.md", choices=("paper", "released", "tallrec"))
    kl_weight: float = flag(1e-4, "lambda of Eq. 3", low=0)
    kl_forcing: str = flag("own", "answer that the negative side of the KL is given", choices=("own", "shared"))
    kl_tokens: str = flag("all", "answer tokens that the KL sums over", choices=("all", "first"))
    kl_cap: float = flag(None, "nats; a pair whose KL is above sends no KL gradient", low=0)
    train_on_prompt: bool = flag(False, "tallrec: cross-entropy over prompt and answer, as TALLRec's script")
    template: str = flag("paper", "wording of the prompts, see data/prompts.py", choices=TEMPLATES)
    max_len: int = flag(512, "tokens; longer prompts lose their oldest history items", low=8)
    lora_r: int = flag(8, "rank", low=1, high=1024)
    lora_alpha: float = flag(16.0, "the update is scaled by alpha / r", low=1e-6, high=1e6)
    lora_dropout: float = flag(
        0.05, "probability (the paper prints 0.005; its code and TALLRec use 0.05)", low=0, high=0.99
    )
    lora_targets: str = flag("q_proj,v_proj", "linear layers to adapt, by name")
    lr: float = flag(1e-4, "peak learning rate of AdamW", low=0, high=10)
    weight_decay: float = flag(1e-3, "AdamW's, on A and B", low=0, high=10)
    warmup_steps: int = flag(20, "optimizer steps of linear warm-up, then linear decay to 0", low=0)
    clip: float = flag(1.0, "largest gradient norm", low=1e-9)
    epochs: int = flag(200, "passes over the shots, at most", low=1, high=10**6)
    max_steps: int = flag(0, "optimizer steps, at most; 0 for no limit", low=0)
    batch_size: int = flag(64, "pairs per optimizer step (64 pairs are the paper's 128 rows)", low=1, high=10**6)
    micro_batch_size: int = flag(
        8, "pairs per forward and backward pass; 0: as many as pay, by the plan", low=0, high=10**6
    )
    eval_every: int = flag(10, "optimizer steps between validations", low=1)
    patience: int = flag(10, "stop after this many validations without a better AUC", low=1)
    precision: str = flag("bf16", "of the frozen base; LoRA's A and B are always float32", choices=tuple(DTYPES))
    base_dtype: str = flag(
        "same", "int8 holds the matrices of the decoder layers in half of bf16's memory", choices=BASE_DTYPES
    )
    checkpointing: str = flag(
        "auto", "recompute layers in the backward pass; auto: as few as memory asks for", choices=("auto", "on", "off")
    )
    compile: bool = flag(False, "torch.compile for each decoder layer; see docs/performance.md for whether it pays")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    fsdp: bool = flag(False, "cut the base over the processes of torchrun, if one device cannot hold it")
    seed: int = flag(0, "draws the shots, A, the order and the dropout", low=0, high=2**32 - 1)
    out: str = flag(None, "run folder; default runs/DATA-SHOTS-OBJECTIVE-seedSEED")
    merge_out: str = flag(None, "folder for a plain checkpoint with the best adapter merged into the base")
    resume: bool = flag(False, "go on with the run in --out")
    plan: bool = flag(False, "print how much memory and time the run will take, and stop")
    json: bool = flag(False, "print the results, or the plan, as one JSON line on standard output")

    @property
    def whole_sequence(self) -> bool:
        """Whether the loss looks at the tokens of prompt and answer, and divides by its micro-batch."""
        return self.objective == "released" or self.train_on_prompt


# The demo base is tiny and learns from a few large steps. Measured: demo/README.md.
DEMO_PRESET = {
    "lr": 1.5e-3,
    "batch_size": 16,
    "micro_batch_size": 16,
    "warmup_steps": 10,
    "max_steps": 60,
    "eval_every": 20,
    "epochs": 100,
}
# Appendix B: 1e-4 for movie and ml-1m, which is the default, and this for books; the published code has 1e-4 for all.
BOOK_KL_WEIGHT = {"book": 1e-5, "amazon-book": 1e-5}
RELEASED_PRESET = {"template": "released", "weight_decay": 0.0}


def presets(values: dict) -> dict:
    """{flag: (value, source)} for what the model and the objective decide unless a flag does."""
    chosen = {}
    if is_demo(values["model"]):
        preset = DEMO_PRESET | {"precision": demo_precision(values["device"])}
        chosen |= {name: (value, "preset demo") for name, value in preset.items()}
    if values["data"] in BOOK_KL_WEIGHT and values["objective"] == "paper":
        chosen["kl_weight"] = (BOOK_KL_WEIGHT[values["data"]], f"preset {values['data']}")
    if values["objective"] == "released":
        chosen |= {name: (value, "preset released") for name, value in RELEASED_PRESET.items()}
    if values["objective"] == "tallrec":
        chosen["kl_weight"] = (0.0, "preset tallrec")
    return chosen


NO_EFFECT = {  # objective: flags that it does not look at
    "paper": ("train_on_prompt",),
    "tallrec": ("kl_weight", "kl_forcing", "kl_tokens", "kl_cap"),
    "released": ("kl_forcing", "kl_tokens", "kl_cap", "train_on_prompt"),
}


def check_flags(flags: TrainFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is unused or contradicts another."""
    if flags.fsdp and ranks.count() == 1:
        raise FlagError(
            "--fsdp: there is one process to cut the base over; start it with torchrun --nproc-per-node N train.py ..."
        )
    if flags.resume:  # checked when the run was started; what may be given now, run/resume.py says
        if not flags.out:
            raise FlagError("--resume: say which run with --out DIR")
        if flags.plan:
            raise FlagError("--plan: says what a new run would take; leave out --resume")
        return
    given = {name for name, source in resolved.sources.items() if source == "flag"}
    problems = [
        f"--{name.replace('_', '-')}: has no effect with --objective {flags.objective}; leave it out"
        for name in NO_EFFECT[flags.objective]
        if name in given
    ]
    if flags.kl_forcing == "shared" and flags.kl_tokens == "first":
        problems.append("--kl-forcing shared: has no effect with --kl-tokens first, where both forcings are the same")
    if flags.fsdp and flags.base_dtype == "int8":
        problems.append("--fsdp: does not cut an int8 base; leave --base-dtype out")
    problems += data_problems(flags.data, resolved)
    if flags.init_adapter:
        for name in ("lora_r", "lora_alpha", "lora_targets"):
            if name in given:
                problems.append(f"--{name.replace('_', '-')}: is taken from --init-adapter; leave it out")
    if flags.micro_batch_size == 0 and (flags.objective == "released" or flags.train_on_prompt):
        problems.append(
            "--micro-batch-size 0: this loss depends on it, since the published code divides by the micro-batch; name a number"
        )
    if "micro_batch_size" in given and flags.micro_batch_size > flags.batch_size:
        problems.append(f"--micro-batch-size {flags.micro_batch_size}: is larger than --batch-size {flags.batch_size}")
    try:
        shot_count(flags.shots)
    except FlagError as error:
        problems.append(str(error))
    if problems:
        raise FlagError("\n".join(problems))


def shot_count(text: str) -> int | None:
    """--shots as a number, None for all."""
    if text == "all":
        return None
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise FlagError(f"--shots {text}: expected a whole number from 1, or all")
    return int(text)


def run_name(flags: TrainFlags) -> str:
    """What the run folder is called unless --out says."""
    return f"{Path(flags.data).name}-{flags.shots}-{flags.objective}-seed{flags.seed}"


def adapter_settings(flags: TrainFlags) -> dict:
    """What lora.adapter.save_adapter writes: from the flags, or from the adapter that training starts with."""
    settings = {
        "r": flags.lora_r,
        "alpha": flags.lora_alpha,
        "rslora": False,
        "targets": tuple(flags.lora_targets.split(",")),
    }
    if flags.init_adapter:
        settings |= read_adapter_config(Path(flags.init_adapter))
    return settings | {"dropout": flags.lora_dropout} | base_identity(flags.model)
