"""What eval.py, predict.py and audit.py work on, back in memory: a base, a base with an adapter, or a finished run."""

from pathlib import Path

from cli.flags import Resolved
from cli.model import ModelFlags
from cli.train import TrainFlags
from data.load import default_options
from machine.device import demo_precision, pick_device
from model.demo import is_demo
from run.base import base_identity, load_base, put_adapter
from run.folder import read_run_config
from run.validate import recorded_flags

# Where neither a flag nor a run says.
FALLBACKS = {
    "model": "demo",
    "data": "movie",
    "data_dir": None,
    "real_data": False,
    **default_options(),
    "template": "paper",
    "max_len": 512,
    "precision": None,
    "base_dtype": "same",
}


def resolve_settings(flags: ModelFlags, resolved: Resolved) -> tuple[dict, dict]:
    """(the value of every name in FALLBACKS, the run's config.json): flags first, then the run's own flags."""
    config = read_run_config(Path(flags.run)) if flags.run else {"flags": {}}
    trained = recorded_flags(TrainFlags, config, Path(flags.run or "") / "config.json")
    settings = {
        name: resolved.values[name] if resolved.sources.get(name) == "flag" else trained.get(name, fallback)
        for name, fallback in FALLBACKS.items()
    }
    if settings["precision"] is None:
        settings["precision"] = demo_precision(flags.device) if is_demo(settings["model"]) else "bf16"
    return settings, config


def restore_model(flags: ModelFlags, settings: dict):
    """(model in evaluation mode, tokenizer), with the adapter of --run or --adapter if there is one."""
    model, tokenizer = load_base(
        settings["model"], settings["precision"], pick_device(flags.device), settings["base_dtype"]
    )
    folder = flags.run or flags.adapter
    if folder:
        put_adapter(model, Path(folder), base_identity(settings["model"]))
    return model.eval(), tokenizer
