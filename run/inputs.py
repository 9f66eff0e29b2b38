"""What a training run starts from: data set, base with its adapter, and the three splits as token ids."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cli.data import load_data
from cli.flags import flag_name
from cli.train import TrainFlags, shot_count
from data.interactions import Dataset, Interaction, select_shots
from data.parts import WITHOUT_VECTORS
from data.prompts import wording_of
from data.questions import possible_questions
from data.splits import Other, Split, Wanted, encode_split, encode_wanted, refuse_more_than, rows_that_fit
from errors import DataError, FlagError
from lora.adapter import load_adapter, read_adapter_config, targets_named_in
from lora.inject import add_lora, refuse_unknown_targets
from lora.select import parse_targets
from machine import ranks
from machine.device import compile_layers, pick_device
from metrics import ALL_RIGHT
from model.llama import Llama
from model.soft_tokens import add_vectors
from objectives.by_name import make_objective
from protocols import Tokenizer
from run.base import base_identity, existing_folder, load_base, warn_of_misfit
from run.vectors import RunVectors, start_vectors
from run.wording import in_words_of, training_questions


@dataclass(frozen=True)
class Inputs:
    """adapter: what lora.adapter.save_adapter writes about it; vectors: those of the prompts, if there are any; text:
    the validation rows as stage 1 of CoLLM asked about them, before stage 2.
    """

    data: Dataset
    tokenizer: Tokenizer
    model: Llama
    adapter: dict
    train: Split
    valid: Split
    test: Split
    vectors: RunVectors | None = None
    text: Split | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.lm_head.weight.device


def refuse_without_places(flags: TrainFlags, data: Dataset) -> None:
    """Raises FlagError if a soft prompt was asked for and the prompts of the data have no place for one."""
    if flags.soft_prompt != "none" and flags.template not in wording_of(data.wording).templates:
        raise FlagError(
            f"--soft-prompt: needs the prompts of ml-1m or amazon-book, and those of --data {flags.data} are others; "
            "leave it out, or choose such data"
        )


def load_inputs(flags: TrainFlags, resumed: dict | None = None) -> Inputs:
    """Load the data and the base, add the adapter, and encode the splits; whatever is unusable is refused first.

    resumed: config.json of the run that is resumed, which asks in the words that it holds.
    """
    device = pick_device(flags.device, flags.deterministic)
    existing_folder(flags.model)
    if flags.init_adapter:
        read_adapter_config(Path(flags.init_adapter))
    data = in_words_of(load_data(vars(flags)), None if resumed else flags.wordings_file, resumed or {})
    refuse_without_places(flags, data)
    training_questions(data, 0, flags)
    refuse_one_label(data.selection_rows(), f"--data {flags.data}")
    refuse_too_many(flags, data)
    model, tokenizer = load_base(flags.model, flags.precision, device, flags.base_dtype, flags.fsdp)
    vectors = start_vectors(flags, data, model.config)
    data = replace(data, vectors=vectors.ids) if vectors else data
    shots = draw_shots(flags, data, tokenizer)
    asked = training_questions(data, len(shots), flags)
    train = encode_split(shots, data, tokenizer, flags.template, flags.max_len, question=asked)
    in_other_words = other_questions(data, flags)
    valid, test = (
        encode_wanted(
            rows,
            data,
            tokenizer,
            Wanted(split, flags.template, flags.max_len, flags.drop_long, count, flag, questions=others),
        )
        for rows, split, count, flag, others in (
            (data.selection_rows(), "validation", flags.valid_rows, "--valid-rows", in_other_words),
            (data.test, "test", flags.test_rows, "--test-rows", ()),
        )
    )
    refuse_one_label(valid.rows, "--valid-rows" if flags.valid_rows else "--drop-long")
    valid = replace(valid, others=asked_otherwise(valid.rows, in_other_words, data, tokenizer, flags))
    text = None
    if flags.stage == 2:
        text = encode_split(valid.rows, data, tokenizer, WITHOUT_VECTORS[flags.template], flags.max_len)
    reading = make_objective(vars(flags)).reading
    valid, test, text = (split and replace(split, reading=reading) for split in (valid, test, text))
    adapter = adapter_settings(flags)
    start_adapter(model, adapter, flags.seed, flags.init_adapter)
    if vectors:
        if flags.stage == 2:
            model.requires_grad_(False)
        add_vectors(model, vectors.module)
    if flags.compile:
        compile_layers(model)
    return Inputs(data, tokenizer, model, adapter, train, valid, test, vectors, text)


def other_questions(data: Dataset, flags: TrainFlags) -> tuple[str, ...]:
    """The words beside the first positive and negative ones in which validation asks: all that training may ask."""
    if flags.select != ALL_RIGHT:
        return ()
    questions = wording_of(data.wording).questions
    positives, negatives = list(questions.positives), list(questions.negatives)
    return (*positives[1 : flags.train_paraphrases], *negatives[1 : flags.train_negatives])


def asked_otherwise(
    rows: list[Interaction], words: tuple[str, ...], data: Dataset, tokenizer: Tokenizer, flags: TrainFlags
) -> tuple[Other, ...]:
    """The rows asked in each of these words."""
    same = wording_of(data.wording).questions.same_answer
    return tuple(
        Other(same(one), encode_split(rows, data, tokenizer, flags.template, flags.max_len, question=one).pairs)
        for one in words
    )


def refuse_one_label(rows: list[Interaction], flag: str) -> None:
    """Raises DataError, naming `flag`, if these validation rows cannot choose the best state."""
    if len({row.label for row in rows}) < 2:
        raise DataError(f"{flag}: all validation rows have one label, so no AUC can choose the best state; use others")


def refuse_too_many(flags: TrainFlags, data: Dataset) -> None:
    """Raises DataError if there are fewer rows than the flags ask for; known before minutes of loading."""
    shots = shot_count(flags.shots)
    if shots is not None:
        select_shots(data.train, shots, flags.seed)
    for name, rows in (("valid_rows", data.selection_rows()), ("test_rows", data.test)):
        refuse_more_than(getattr(flags, name), rows, flag_name(name))


def draw_shots(flags: TrainFlags, data: Dataset, tokenizer: Tokenizer) -> list[Interaction]:
    """The training rows; with --drop-long the first of the same permutation that fit.

    Raises DataError if fewer fit than --shots says.
    """
    count = shot_count(flags.shots)
    if not flags.drop_long:
        return select_shots(data.train, count, flags.seed)
    order = select_shots(data.train, None, flags.seed)
    words = wording_of(data.wording).questions
    asked = possible_questions(words, flags.train_paraphrases, flags.train_negatives)  # whichever a row gets must fit
    wanted = Wanted("training", flags.template, flags.max_len, True, questions=asked[1:])
    fits = rows_that_fit(order, data, tokenizer, wanted)
    usable = [row for row, fit in zip(order, fits) if fit]
    if len(usable) < (count or 1):
        raise DataError(f"--shots {flags.shots}: with --drop-long {len(usable):,} training rows are left; choose fewer")
    return usable[:count]


def adapter_settings(flags: TrainFlags) -> dict:
    """What lora.adapter.save_adapter writes: from the flags, or from the adapter that training starts with."""
    settings = {
        "r": flags.lora_r,
        "alpha": flags.lora_alpha,
        "rslora": False,
        "targets": parse_targets(flags.lora_targets),
    }
    if flags.init_adapter:
        settings |= read_adapter_config(Path(flags.init_adapter))
    return settings | {"dropout": flags.lora_dropout} | base_identity(flags.model)


def start_adapter(model: Llama, settings: dict, seed: int, init_adapter: str | None = None) -> None:
    """Add a fresh adapter to the model, or the one that training starts with. settings: of adapter_settings."""
    where = targets_named_in(Path(init_adapter)) if init_adapter else "--lora-targets"
    torch.manual_seed(seed)  # LoRA's A, then its dropout
    shape = {name: settings[name] for name in ("targets", "r", "alpha", "dropout", "rslora")}
    refuse_unknown_targets(model, settings["targets"], where)
    add_lora(model, **shape)
    if init_adapter:
        load_adapter(model, Path(init_adapter))
        warn_of_misfit(Path(init_adapter), settings)
    ranks.seed_dropout(seed)
