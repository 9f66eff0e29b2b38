"""What train.py can be asked for: its flags, their presets, and which of them fit together."""

from dataclasses import dataclass, fields
from pathlib import Path

from baselines.vectors import READS_HISTORIES, WITH_VECTORS
from cli.data import DataFlags, data_problems
from cli.flags import Resolved, flag, flag_name
from data.parts import WITH_COLLABORATIVE, WITH_SOFT_PROMPT
from data.prompts import RENAMED, TEMPLATES
from errors import CheckpointError, FlagError
from machine import ranks
from machine.device import BASE_DTYPES, DTYPES, native_precision
from metrics import ALL_RIGHT, DEFAULT_SELECTION, SELECTABLE
from model.demo import is_demo, model_folder
from model.soft_tokens import INITIAL
from model.weights import parameter_count, read_llama_config
from objectives.by_name import OBJECTIVES, flags_of, make_objective
from objectives.paper import Paper

TUNINGS = ("default", "t1", "t2", "t3")


@dataclass(frozen=True)
class PairFlags(DataFlags):
    """Pairs and prompts."""

    shots: str = flag("64", "training pairs drawn from the training split: a number, or all")
    template: str = flag(
        "tallrec",
        f"wording of the prompts: {', '.join(TEMPLATES)}; see docs/method.md and docs/collaborative.md",
        choices=TEMPLATES,
        renamed=RENAMED,
        metavar="NAME",
    )
    wordings_file: str = flag(None, "prompt, answers and questions of your own, JSON; docs/wordings.md", metavar="FILE")
    train_negatives: int = flag(1, "negative questions that training draws from, one for each pair", low=1, high=1000)
    train_paraphrases: int = flag(1, "positive questions that training draws from, likewise", low=1, high=1000)
    max_len: int = flag(512, "tokens; longer prompts lose their oldest history items", low=8)
    drop_long: bool = flag(False, "leave out rows whose prompt is longer than --max-len even without any history")
    valid_rows: int = flag(None, "choose the best state on a seeded subset of this many validation rows", low=2)
    test_rows: int = flag(None, "score a seeded subset of this many test rows", low=1)


@dataclass(frozen=True)
class BaseFlags:
    """Model."""

    model: str = flag("demo", "checkpoint folder (config.json, *.safetensors, tokenizer), or demo", metavar="DIR")
    init_adapter: str = flag(None, "start from this adapter folder instead of a fresh one", metavar="DIR")


@dataclass(frozen=True)
class ObjectiveFlags:
    """Objective."""

    objective: str = flag(
        "paper", f"{', '.join(OBJECTIVES)}; see docs/method.md", choices=tuple(OBJECTIVES), metavar="NAME"
    )
    kl_weight: float = flag(Paper.kl_weight, "lambda: of the KL of Eq. 3, or of the term in its place", low=0)
    kl_forcing: str = flag(
        Paper.kl_forcing, "answer that the negative side of the KL is given", choices=("own", "shared")
    )
    kl_tokens: str = flag(Paper.kl_tokens, "answer tokens that the KL sums over", choices=("all", "first"))
    kl_cap: float = flag(
        Paper.kl_cap, "nats; a pair whose KL is above sends no KL gradient; margin: 1 by default", low=0
    )
    train_on_prompt: bool = flag(False, "tallrec: cross-entropy over prompt and answer, as TALLRec's script")
    main_loss: str = flag(
        "bce-yes", "lcft-colmf: in the place of Eq. 1, docs/collaborative.md", choices=("bce-yes", "ce")
    )
    lcft_stage: str = flag(
        "2", "lcft-colmf: the stage that has negative prompts and the KL", choices=("1", "2", "both")
    )


@dataclass(frozen=True)
class VectorFlags:
    """Vectors in the prompt."""

    collaborative: str = flag(
        None,
        f"the run of baseline.py whose vectors of user and item stand in the prompt: {', '.join(WITH_VECTORS)}",
        metavar="METHOD:DIR",
    )
    stage: int = flag(
        1, "of CoLLM; 1: LoRA by the text prompt; 2: --collaborative's mapping, LoRA frozen", low=1, high=2
    )
    train_collaborative: bool = flag(False, "train the vectors of --collaborative too, and not their mapping alone")
    tuning: str = flag("default", "CoLLM's variant of what is trained, docs/collaborative.md", choices=TUNINGS)
    soft_prompt: str = flag(
        "none", "Prompt4NR-V: learnt vectors in the prompt, and how they start", choices=("none", *INITIAL)
    )

    @property
    def trains_table(self) -> bool:
        """Whether the recommender's vectors are trained."""
        return self.train_collaborative or self.tuning in ("t1", "t2")


@dataclass(frozen=True)
class LoRAFlags:
    """LoRA."""

    lora_r: int = flag(8, "rank", low=1, high=1024)
    lora_alpha: float = flag(16.0, "the update is scaled by alpha / r", low=1e-6, high=1e6)
    lora_dropout: float = flag(
        0.005, "probability, of Appendix B; 0.05 with --objective tallrec and released", low=0, high=0.99
    )
    lora_targets: str = flag("q_proj,v_proj", "linear layers to adapt, by name")


@dataclass(frozen=True)
class OptimisationFlags:
    """Optimisation."""

    lr: float = flag(1e-4, "peak learning rate of AdamW", low=0, high=10)
    weight_decay: float = flag(1e-3, "AdamW's, on what is trained", low=0, high=10)
    warmup_steps: int = flag(20, "optimizer steps of linear warm-up, then decay to 0", low=0)
    schedule: str = flag("linear", "how the learning rate decays", choices=("linear", "cosine"))
    end_lr: float = flag(0.0, "where --schedule cosine ends", low=0, high=10)
    clip: float = flag(1.0, "largest gradient norm", low=1e-9)
    epochs: int = flag(200, "passes over the shots, at most", low=1, high=10**6)
    max_steps: int = flag(0, "optimizer steps, at most; 0 for no limit", low=0)
    batch_size: int = flag(64, "pairs per optimizer step (64 pairs are the paper's 128 rows)", low=1, high=10**6)
    micro_batch_size: int = flag(
        8, "pairs per forward and backward pass; 0: the number that the plan finds fastest", low=0, high=10**6
    )
    checkpointing: str = flag(
        "auto",
        "recompute layers in the backward pass; auto: only as many as memory requires",
        choices=("auto", "on", "off"),
    )
    eval_every: int = flag(10, "optimizer steps between validations", low=1)
    patience: int = flag(10, "stop after this many validations without a better state", low=1)
    select: str = flag(
        DEFAULT_SELECTION,
        f"measure that is best on validation in the best state: {', '.join(SELECTABLE)}",
        choices=SELECTABLE,
        metavar="MEASURE",
    )
    seed: int = flag(0, "draws the shots, A, the order and the dropout", low=0, high=2**32 - 1)


@dataclass(frozen=True)
class MachineFlags:
    """Machine."""

    precision: str = flag("bf16", "of the frozen base; LoRA's A and B are always float32", choices=tuple(DTYPES))
    base_dtype: str = flag(
        "same", "int8 holds the matrices of the decoder layers in half of bf16's memory", choices=BASE_DTYPES
    )
    compile: bool = flag(False, "torch.compile for each decoder layer; docs/performance.md says when it pays")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, ...")
    deterministic: bool = flag(False, "on a GPU, sum in a fixed order: the same bytes every time, in more time")
    fsdp: bool = flag(False, "cut the base over the processes of torchrun, if one device cannot hold it")
    plan: bool = flag(False, "print how much memory and time the run will take, and stop")


@dataclass(frozen=True)
class OutputFlags:
    """Output."""

    out: str = flag(None, "run folder; default runs/DATA-SHOTS-OBJECTIVE-seedSEED", metavar="DIR")
    merge_out: str = flag(
        None, "folder for a plain checkpoint with the best adapter merged into the base", metavar="DIR"
    )
    resume: bool = flag(False, "resume the run in --out")
    base_scores: str = flag(
        None, "folder in which runs of the same base keep its answers, so that it is scored once", metavar="DIR"
    )
    config: str = flag(None, "take every flag that is not given from this config.json of a run", metavar="FILE")
    tensorboard: str = flag(None, "also write TensorBoard events into DIR/NAME-OF-THE-RUN", metavar="DIR")
    json: bool = flag(False, "print the results, or the plan, as one JSON line on standard output")


@dataclass(frozen=True)
class TrainFlags(
    OutputFlags, MachineFlags, OptimisationFlags, LoRAFlags, VectorFlags, ObjectiveFlags, BaseFlags, PairFlags
):
    """Defaults are those of a 7B base (Appendix B of the paper, TALLRec); presets follow below."""


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
# Of a base with fewer than SMALL_BASE parameters. Chosen on validation rows with SmolLM2-135M: docs/results.md.
SMALL_PRESET = {
    "lr": 3e-3,
    "batch_size": 8,
    "micro_batch_size": 8,
    "warmup_steps": 4,
    "max_steps": 60,
    "eval_every": 15,
    "epochs": 1000,
}
SMALL_BASE = 10**9


def presets(values: dict) -> dict:
    """{flag: (value, source)} for what the model and the objective decide unless a flag does."""
    name = values["objective"]
    without = {} if "kl_weight" in flags_of(name) else {"kl_weight": (0.0, name)}  # no lambda is recorded as 0
    of_objective = without | OBJECTIVES[name].presets(values["data"])
    chosen = {name: (value, f"preset {source}") for name, (value, source) in of_objective.items()}
    if values["collaborative"]:
        kind, own = "collaborative", {"template": "collm", "stage": 1 if values["tuning"] == "t3" else 2}
        chosen |= {name: (value, f"preset {kind}") for name, value in own.items()}
    if values["soft_prompt"] != "none":
        own = {"template": "prompt4nr", "lr": 1e-2 if values["data"] == "amazon-book" else 1e-4}
        chosen |= {name: (value, "preset soft prompt") for name, value in own.items()}
    kind, preset = ("demo", DEMO_PRESET) if is_demo(values["model"]) else ("small base", SMALL_PRESET)
    if kind == "demo" or is_small(values["model"]):
        preset = preset | {"precision": native_precision(values["device"])}
        chosen |= {name: (value, f"preset {kind}") for name, value in preset.items()}
    return chosen


def is_small(model: str) -> bool:
    """Whether the base has fewer than SMALL_BASE parameters; False if that cannot be told, which is reported later."""
    try:
        return parameter_count(read_llama_config(model_folder(model))) < SMALL_BASE
    except (CheckpointError, OSError):
        return False


def check_flags(flags: TrainFlags, resolved: Resolved) -> None:
    """Raises FlagError with a line for every flag that is unused or contradicts another."""
    if flags.fsdp and ranks.count() == 1:
        raise FlagError(
            "--fsdp: there is one process to cut the base over; start it with torchrun --nproc-per-node N train.py ..."
        )
    if flags.resume:  # checked when the run was started; what may be given now, run/resume.py says
        if not flags.out:
            raise FlagError("--resume: say which run with --out DIR")
        if flags.config:
            raise FlagError("--config: a resumed run takes its flags from its own config.json; leave it out")
        if flags.plan:
            raise FlagError("--plan: says what a new run would take; leave out --resume")
        return
    given = {name for name, source in resolved.sources.items() if source == "flag"}
    of_other_objectives = {field.name for field in fields(ObjectiveFlags)} - {"objective", *flags_of(flags.objective)}
    problems = [
        f"{flag_name(name)}: has no effect with --objective {flags.objective}; leave it out"
        for name in resolved.values
        if name in given & of_other_objectives
    ]
    if flags.kl_forcing == "shared" and flags.kl_tokens == "first":
        problems.append("--kl-forcing shared: has no effect with --kl-tokens first, where both forcings are the same")
    problems += _question_problems(flags)
    if flags.fsdp and flags.base_dtype == "int8":
        problems.append("--fsdp: does not cut an int8 base; leave --base-dtype out")
    problems += data_problems(flags.data, resolved)
    problems += vector_problems(flags, given)
    if flags.init_adapter:
        problems += [
            f"{flag_name(name)}: is taken from --init-adapter; leave it out"
            for name in ("lora_r", "lora_alpha", "lora_targets")
            if name in given
        ]
    if flags.micro_batch_size == 0 and not make_objective(vars(flags)).any_micro_batch:
        problems.append(
            "--micro-batch-size 0: this loss depends on it, since it divides by the micro-batch; name a number"
        )
    if "micro_batch_size" in given and flags.micro_batch_size > flags.batch_size:
        problems.append(f"--micro-batch-size {flags.micro_batch_size}: is larger than --batch-size {flags.batch_size}")
    try:
        shot_count(flags.shots)
    except FlagError as error:
        problems.append(str(error))
    if problems:
        raise FlagError("\n".join(problems))


def vector_problems(flags: TrainFlags, given: set[str]) -> list[str]:
    """A line for every flag about vectors in the prompt, or the schedule, that is unused or contradicts another."""
    problems = []
    if flags.schedule == "linear" and "end_lr" in given:
        problems.append("--end-lr: has no effect with --schedule linear, which ends at 0")
    if flags.schedule == "cosine" and flags.end_lr > flags.lr:
        problems.append(f"--end-lr {flags.end_lr:g}: is above --lr {flags.lr:g}, and the rate must not rise; lower it")
    if {"warmup_steps", "max_steps"} <= given and 0 < flags.max_steps <= flags.warmup_steps:
        problems.append(
            f"--warmup-steps {flags.warmup_steps}: not below --max-steps {flags.max_steps}, so --lr is never reached; "
            "choose fewer"
        )
    if flags.collaborative:
        method, _, folder = flags.collaborative.partition(":")
        if method not in WITH_VECTORS or not folder:
            problems.append(
                f"--collaborative {flags.collaborative}: expected METHOD:DIR, a run of baseline.py whose method is "
                f"{' or '.join(WITH_VECTORS)}"
            )
        if flags.trains_table and method in READS_HISTORIES:
            problems.append(f"--collaborative {flags.collaborative}: its users are histories; its vectors stay frozen")
        if flags.soft_prompt != "none":
            problems.append("--soft-prompt: contradicts --collaborative; leave one of them out")
        if flags.tuning == "t3" and flags.stage == 2:
            problems.append("--stage 2: --tuning t3 has one stage, which trains LoRA and the mapping; leave it out")
        if flags.tuning != "t3" and flags.stage == 1:
            problems.append("--stage 1: trains LoRA by the text prompt; leave --collaborative out, or say --tuning t3")
    else:
        names = [name for name in ("train_collaborative", "tuning") if name in given]
        problems += [f"{flag_name(name)}: has no effect without --collaborative" for name in names]
    if flags.stage == 2 and not flags.collaborative:
        problems.append("--stage 2: say with --collaborative METHOD:DIR which vectors stand in the prompt")
    if flags.stage == 2 and not flags.init_adapter:
        problems.append(
            "--stage 2: say with --init-adapter DIR where the adapter of stage 1 is, such as its run folder"
        )
    return problems + place_problems(flags)


def place_problems(flags: TrainFlags) -> list[str]:
    """A line for every flag that vectors in the prompt rule out, and for a template without the places they need."""
    soft = flags.soft_prompt != "none"
    wanted = WITH_COLLABORATIVE if flags.collaborative else WITH_SOFT_PROMPT if soft else None
    if wanted is None:
        needs = {
            **dict.fromkeys(WITH_COLLABORATIVE, "--collaborative"),
            **dict.fromkeys(WITH_SOFT_PROMPT, "--soft-prompt"),
        }
        return [f"--template {flags.template}: needs {needs[flags.template]}"] if flags.template in needs else []
    problems = []
    if flags.template not in wanted:
        problems.append(f"--template {flags.template}: has no place for these vectors; choose {' or '.join(wanted)}")
    if make_objective(vars(flags)).whole_rows:
        problems.append(
            f"--objective {flags.objective}: asks for the next token everywhere, and a vector is none; choose another"
        )
    if flags.merge_out:
        problems.append("--merge-out: a plain checkpoint has no place for vectors; leave it out")
    if flags.fsdp:
        problems.append("--fsdp: does not cut a base whose prompts have vectors; leave it out")
    return problems


def _question_problems(flags: TrainFlags) -> list[str]:
    """A line for every flag of the questions that has no effect."""
    problems = []
    if flags.train_negatives > 1 and make_objective(vars(flags)).rows_per_pair == 1:
        problems.append(f"--train-negatives: has no effect with --objective {flags.objective}; leave it out")
    if flags.select == ALL_RIGHT and flags.train_negatives == flags.train_paraphrases == 1:
        problems.append(
            f"--select {ALL_RIGHT}: asks in all words of training; add --train-negatives or --train-paraphrases"
        )
    return problems + [
        f"{flag_name(name)}: --template released is the text of published prompts; leave one of them out"
        for name in ("train_negatives", "train_paraphrases")
        if getattr(flags, name) > 1 and flags.template == "released"
    ]


def shot_count(text: str) -> int | None:
    """--shots as a number, None for all.

    Raises FlagError if it is neither.
    """
    if text == "all":
        return None
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise FlagError(f"--shots {text}: expected a whole number from 1, or all")
    return int(text)


def run_name(flags: TrainFlags) -> str:
    """What the run folder is called unless --out says."""
    return f"{Path(flags.data).name}-{flags.shots}-{flags.objective}-seed{flags.seed}"
