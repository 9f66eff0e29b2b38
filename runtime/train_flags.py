"""What train.py can be asked for: its flags, their presets, and which of them fit together."""

from dataclasses import dataclass
from pathlib import Path

from lora.adapter import read_adapter_config
from runtime import setup
from runtime.data_flags import DataChoice, data_problems
from runtime.flags import FlagError, Resolved, flag
from runtime.recorded import recorded_flags, shown
from runtime.run_folder import read_config


@dataclass(frozen=True)
class TrainFlags(DataChoice):
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
    template: str = flag("paper", "wording of the prompts, see data/prompts.py", choices=("paper", "released"))
    max_len: int = flag(512, "tokens; longer prompts lose their oldest history items", low=8)
    lora_r: int = flag(8, "rank", low=1, high=1024)
    lora_alpha: float = flag(16.0, "the update is scaled by alpha / r", low=1e-6, high=1e6)
    lora_dropout: float = flag(0.05, "probability (the paper prints 0.005; its code and TALLRec use 0.05)", low=0, high=0.99)
    lora_targets: str = flag("q_proj,v_proj", "linear layers to adapt, by name")
    lr: float = flag(1e-4, "peak learning rate of AdamW", low=0, high=10)
    weight_decay: float = flag(1e-3, "AdamW's, on A and B", low=0, high=10)
    warmup_steps: int = flag(20, "optimizer steps of linear warm-up, then linear decay to 0", low=0)
    clip: float = flag(1.0, "largest gradient norm", low=1e-9)
    epochs: int = flag(200, "passes over the shots, at most", low=1, high=10**6)
    max_steps: int = flag(0, "optimizer steps, at most; 0 for no limit", low=0)
    batch_size: int = flag(64, "pairs per optimizer step (64 pairs are the paper's 128 rows)", low=1, high=10**6)
    micro_batch_size: int = flag(8, "pairs per forward and backward pass", low=1, high=10**6)
    eval_every: int = flag(10, "optimizer steps between validations", low=1)
    patience: int = flag(10, "stop after this many validations without a better AUC", low=1)
    precision: str = flag("bf16", "of the frozen base; LoRA's A and B are always float32", choices=tuple(setup.DTYPES))
    checkpointing: str = flag("auto", "recompute layers in the backward pass; auto: from 1e9 parameters on", choices=("auto", "on", "off"))
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    seed: int = flag(0, "draws the shots, A, the order and the dropout", low=0, high=2**32 - 1)
    out: str = flag(None, "run folder; default runs/DATA-SHOTS-OBJECTIVE-seedSEED")
    merge_out: str = flag(None, "folder for a plain checkpoint with the best adapter merged into the base")
    resume: bool = flag(False, "go on with the run in --out")
    json: bool = flag(False, "print the results as one JSON line on standard output")


# The demo base is tiny and learns from a few large steps. Measured: demo/README.md.
DEMO_PRESET = {"lr": 1.5e-3, "batch_size": 16, "micro_batch_size": 16, "warmup_steps": 10, "max_steps": 60, "eval_every": 20, "epochs": 100}
# Appendix B: 1e-4 for movie and ml-1m, which is the default, and this for books; the published code has 1e-4 for all.
BOOK_KL_WEIGHT = {"book": 1e-5, "amazon-book": 1e-5}
RELEASED_PRESET = {"template": "released", "weight_decay": 0.0}


def presets(values: dict) -> dict:
    """{flag: (value, source)} for what the model and the objective decide unless a flag does."""
    chosen = {}
    if setup.is_demo(values["model"]):
        preset = DEMO_PRESET | {"precision": setup.demo_precision(values["device"])}
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
FREE_ON_RESUME = ("resume", "out", "json", "device", "data_dir", "merge_out")  # json and merge_out hold for one call, the others until given anew


def check_flags(flags: TrainFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is unused or contradicts another."""
    if flags.resume:  # checked when the run was started; what may be given now, flags_of_run says
        if not flags.out:
            raise FlagError("--resume: say which run with --out DIR")
        return
    given = {name for name, source in resolved.sources.items() if source == "flag"}
    problems = [
        f"--{name.replace('_', '-')}: has no effect with --objective {flags.objective}; leave it out"
        for name in NO_EFFECT[flags.objective]
        if name in given
    ]
    if flags.kl_forcing == "shared" and flags.kl_tokens == "first":
        problems.append("--kl-forcing shared: has no effect with --kl-tokens first, where both forcings are the same")
    problems += data_problems(flags.data, resolved)
    if flags.init_adapter:
        for name in ("lora_r", "lora_alpha", "lora_targets"):
            if name in given:
                problems.append(f"--{name.replace('_', '-')}: is taken from --init-adapter; leave it out")
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
    settings = {"r": flags.lora_r, "alpha": flags.lora_alpha, "rslora": False, "targets": tuple(flags.lora_targets.split(","))}
    if flags.init_adapter:
        settings |= read_adapter_config(Path(flags.init_adapter))
    return settings | {"dropout": flags.lora_dropout} | setup.base_identity(flags.model)


def flags_of_run(flags: TrainFlags, resolved: Resolved) -> tuple[TrainFlags, Resolved]:
    """The flags that the run in --out was started with. Raises FlagError for each one now given otherwise."""
    config = read_config(Path(flags.out))
    recorded = recorded_flags(TrainFlags, config, Path(flags.out) / "config.json")
    if set(recorded) != set(resolved.values):
        raise FlagError(f"--resume: {flags.out}/config.json is from another version of train.py; start another run")
    problems = [
        f"--{name.replace('_', '-')} {resolved.values[name]}: the run in {flags.out} was started with {shown(recorded[name])}; "
        "leave it out, or start another run"
        for name, source in resolved.sources.items()
        if source == "flag" and name not in FREE_ON_RESUME and recorded[name] != resolved.values[name]
    ]
    if problems:
        raise FlagError("\n".join(problems))
    anew = {name for name in FREE_ON_RESUME if name in ("json", "merge_out") or resolved.sources[name] == "flag"}
    values = recorded | {name: resolved.values[name] for name in anew}
    sources = {name: entry["source"] for name, entry in config["flags"].items()}
    return TrainFlags(**values), Resolved(values, sources)
