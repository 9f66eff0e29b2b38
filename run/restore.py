"""What eval.py, predict.py and audit.py work on, back in memory: a base, a base with an adapter, or a finished run."""

from dataclasses import fields, replace
from pathlib import Path

from cli.data import DataFlags
from cli.flags import Resolved
from cli.model import ModelFlags
from cli.train import BaseFlags, MachineFlags, ObjectiveFlags, PairFlags, TrainFlags, VectorFlags, is_small
from data.interactions import Dataset
from data.parts import WITH_COLLABORATIVE, WITH_SOFT_PROMPT
from errors import DataError, FlagError
from lora.adapter import read_adapter_config
from machine.device import native_precision, pick_device
from model.demo import is_demo
from model.llama import Llama
from protocols import Tokenizer
from run.base import base_identity, existing_folder, load_base, put_adapter
from run.elsewhere import refuse_missing
from run.folder import read_run_config
from run.validate import recorded_flags
from run.vectors import has_vectors

OF_A_RUN_ALONE = {"shots", "valid_rows", "test_rows", "train_negatives", "train_paraphrases"}
PARTS = (PairFlags, BaseFlags, MachineFlags, ObjectiveFlags, VectorFlags)  # the last two say how answers are read
SHARED = frozenset(field.name for part in PARTS for field in fields(part))


def resolve_settings(flags: ModelFlags, resolved: Resolved) -> tuple[TrainFlags, dict]:
    """(train.py's flags as they apply here, the run's config.json).

    Flags that were given come first, then the run's own, then train.py's defaults. Raises UserError if a folder that is
    named, by a flag or by the run, is not found from here: now, and not after minutes of loading. FlagError, which
    is one, if a flag does not fit the run.
    """
    config = read_run_config(Path(flags.run), "--run") if flags.run else {"flags": {}}
    recorded = recorded_flags(TrainFlags, config, Path(flags.run or "") / "config.json")
    given = {name: value for name, value in resolved.values.items() if resolved.sources[name] == "flag"}
    chosen = {name: value for name, value in (recorded | given).items() if name in SHARED - OF_A_RUN_ALONE}
    if "wordings_file" not in given:
        chosen.pop("wordings_file", None)  # config.json has the words themselves
    settings = TrainFlags(**chosen)
    if flags.run:
        needed = {"data", "data_dir", "model"} & resolved.values.keys() - given.keys()
        refuse_missing(f"--run {flags.run}", vars(settings), needed, Path(flags.run))
    existing_folder(settings.model)
    if flags.adapter:
        read_adapter_config(Path(flags.adapter))
    if settings.template in (*WITH_COLLABORATIVE, *WITH_SOFT_PROMPT) and not has_vectors(Path(flags.run or "")):
        raise FlagError(f"--template {settings.template}: is for a run with vectors in its prompts; choose another")
    if "precision" not in chosen:
        small = is_demo(settings.model) or is_small(settings.model)
        precision = native_precision(flags.device) if small else settings.precision
        settings = replace(settings, precision=precision)
    return settings, config


def refuse_other_data(flags: ModelFlags, resolved: Resolved, data: Dataset, config: dict) -> None:
    """Raises DataError if the run's own data are asked for and are not here, or are not as they were.

    data: in the words that the run asks in; config: of the run.
    """
    given = {name for name, source in resolved.sources.items() if source == "flag"}
    if not flags.run or "data" in given:
        return
    if data.source != config.get("data_source"):
        raise DataError(
            f"--run {flags.run}: was trained on {config.get('data_source')}, which is not here ({data.source} is); "
            "name the folder with --data-dir, or name other data to score with --data"
        )
    if given & ({field.name for field in fields(DataFlags)} - {"data_dir", "real_data"} | {"wordings_file"}):
        return  # of an option that makes other rows, or other words
    then, now = config.get("fingerprints", {}).get("data"), data.fingerprint()
    if isinstance(then, str) and then[:64] != now:
        raise DataError(
            f"--run {flags.run}: its data are not those that it was trained on (then {then[:12]}, now {now[:12]}), so "
            "test rows may have been training rows; bring them back, or name the data to score with --data"
        )


def restore_model(flags: ModelFlags, settings: TrainFlags) -> tuple[Llama, Tokenizer]:
    """(model in evaluation mode, tokenizer), with the adapter of --run or --adapter if there is one."""
    device = pick_device(flags.device, settings.deterministic)
    model, tokenizer = load_base(settings.model, settings.precision, device, settings.base_dtype)
    folder = flags.run or flags.adapter
    if folder:
        put_adapter(model, Path(folder), base_identity(settings.model))
    return model.eval(), tokenizer
