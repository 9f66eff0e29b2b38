"""Adapter files in PEFT's layout, both ways: adapter_model.safetensors (or .bin) and adapter_config.json."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from errors import AdapterError, notice, quoted
from files import missing_advice
from lora.inject import lora_state
from lora.select import CONFIG, LARGEST_RANK, as_selection, read_selection
from tensors import is_plain, put_tensors

WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"  # PEFT's older form, as of alpaca-lora
LARGEST_CONFIG = 2**26  # bytes
FINGERPRINT = "base_fingerprint"  # in the header of WEIGHTS, where PEFT does not mind it

# What LoRALinear computes. A field that is absent, null, false or empty counts as supported.
SUPPORTED = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "enable_lora": None,
    "lora_bias": False,
    "target_parameters": None,
    "use_qalora": False,
    "use_bdlora": False,
    "arrow_config": None,
    "kasa_config": None,
    "velora_config": None,
    "monteclora_config": None,
}


# What else PEFT writes: read elsewhere, or without an effect on what an adapter computes.
KNOWN = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights"),
    *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config"),
    *("ensure_weight_tying", "merge_weights"),
}


def save_adapter(model: nn.Module, folder: Path, settings: dict) -> None:
    """Write the adapter of `model` into an existing folder, then read it back and compare.

    settings: r, alpha, dropout, rslora, targets (names or a Selection), base (the checkpoint's name) and
    base_fingerprint, as train.py has them. Raises AdapterError if what was read is not what was written.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in lora_state(model).items()}
    metadata = {"format": "pt", FINGERPRINT: settings[FINGERPRINT]}
    (folder / WEIGHTS).write_bytes(_in_fixed_order(save(tensors, metadata=metadata)))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": settings["base"],
        "r": settings["r"],
        "lora_alpha": settings["alpha"],
        "lora_dropout": settings["dropout"],
        "use_rslora": settings["rslora"],
        **as_selection(settings["targets"]).fields(),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    written = read_tensors(folder)
    same = written.keys() == tensors.keys() and all(torch.equal(written[name], tensors[name]) for name in tensors)
    if not same or _read_config(folder) != config:
        raise AdapterError(f"{folder / WEIGHTS}: does not read back as it was written; is the disk full or failing?")


def read_adapter_config(folder: Path) -> dict:
    """r, alpha, dropout, rslora and targets of a saved adapter. targets: names, or a Selection if it says more.

    Raises AdapterError if the file is missing, is not a LoRA adapter, or uses a variant that
    LoRALinear does not compute.
    """
    config, path = _read_config(folder), Path(folder) / CONFIG
    for name, supported in SUPPORTED.items():
        if config.get(name) and config[name] != supported:
            raise AdapterError(
                f"{path}: {name} is {quoted(config[name])}, which is not computed here; merge the adapter into its "
                "base with PEFT (merge_and_unload) and pass the result as --model"
            )
    if unknown := sorted(name for name, value in config.items() if value and name not in KNOWN | SUPPORTED.keys()):
        notice(f"{path}: options that this program does not know, and leaves out: {quoted(', '.join(unknown), 200)}")
    # The other ways to start (pissa, olora, corda, loftq, ...) change the base as well.
    if config.get("init_lora_weights") not in (None, True, False, "gaussian", "orthogonal", "eva"):
        raise AdapterError(
            f"{path}: init_lora_weights is {quoted(config['init_lora_weights'])}, which changes the base too"
        )
    targets, r, alpha = read_selection(config, str(path)), config.get("r"), config.get("lora_alpha")
    if (
        type(r) is not int
        or not 0 < r <= LARGEST_RANK
        or type(alpha) not in (int, float)
        or not 0 < alpha < LARGEST_RANK
    ):
        raise AdapterError(f"{path}: r and lora_alpha must be positive numbers, r a whole one")
    dropout, rslora = config.get("lora_dropout") or 0.0, config.get("use_rslora") or False
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise AdapterError(f"{path}: lora_dropout must lie in [0, 1)")
    if type(rslora) is not bool:
        raise AdapterError(f"{path}: use_rslora must be true or false")
    return {"r": r, "alpha": alpha, "dropout": dropout, "rslora": rslora, "targets": targets}


def targets_named_in(folder: Path) -> str:
    """Where an adapter says its targets, for messages about them."""
    return f"{Path(folder) / CONFIG}: target_modules"


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Copy a saved adapter's tensors into the LoRA layers that `model` already has.

    Raises AdapterError naming the tensors that are missing, surplus, misshapen or not finite.
    """
    put_tensors(lora_state(model), read_tensors(folder), str(_weights(folder)))


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter's tensors under PEFT's names. Raises AdapterError if there is no readable file."""
    path = _weights(folder)
    with path.open("rb") as file:
        pointer = file.read(40).startswith(b"version https://git-lfs")
    if pointer:
        raise AdapterError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")
    try:
        tensors = load_file(path) if path.name == WEIGHTS else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes of a damaged file make it do
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise AdapterError(
            f"{path}: damaged, truncated or not plain tensors ({quoted(reason)}); save or fetch it again"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise AdapterError(f"{path}: not a dictionary of tensors; save or fetch the adapter again")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not is_plain(tensor):
            raise AdapterError(f"{path}: entry {quoted(name)} is no plain tensor of an adapter; save or fetch it again")
    return tensors


def adapter_warnings(folder: Path, base: str, base_fingerprint: str) -> list[str]:
    """What a user should know before trusting this adapter on this base; a line each, none if all is well.

    base: the checkpoint's name on the command line; base_fingerprint: see model.weights.fingerprint.
    """
    path, warnings = _weights(folder), []
    if all(not tensor.any() for name, tensor in read_tensors(folder).items() if "lora_B" in name):
        warnings.append(f"{path}: every B is zero, so it changes nothing: no training yet, or none that helped")
    trained_on = _read_config(folder).get("base_model_name_or_path")
    if trained_on is not None and not (
        isinstance(trained_on, str) and trained_on.isprintable() and len(trained_on) <= 4096
    ):
        trained_on = quoted(trained_on)
    recorded = None
    if path.name == WEIGHTS:
        with safe_open(path, framework="pt") as file:
            recorded = (file.metadata() or {}).get(FINGERPRINT)
    if recorded is not None and recorded != base_fingerprint:
        warnings.append(
            f"{path}: was trained on other weights ({trained_on}, fingerprint {quoted(recorded[:12])[1:-1]}) "
            f"than those of {base} (fingerprint {base_fingerprint[:12]}); its figures mean little here"
        )
    # An adapter of PEFT's has no fingerprint, and a folder may be called anything: only the last part is compared.
    if recorded is None and trained_on and Path(trained_on).name.lower() != Path(base).name.lower():
        warnings.append(
            f"{path}: names {trained_on} as its base, this one is {base}; make sure that they are the same weights"
        )
    return warnings


def _read_config(folder: Path) -> dict:
    path = Path(folder) / CONFIG
    if not path.is_file():
        advice = missing_advice(folder) or f"; is {folder} the folder of a finished run or of a PEFT adapter?"
        raise AdapterError(f"{path}: missing{advice}")
    try:
        config = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise AdapterError(f"{path}: not a JSON object; save or fetch the adapter again")
    return config


def _weights(folder: Path) -> Path:
    """The file with the tensors; the safetensors one if there are both."""
    for name in (WEIGHTS, PICKLED):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise AdapterError(
        f"{Path(folder) / WEIGHTS}: missing; is {folder} the folder of a finished run or of a PEFT adapter?"
    )


def _in_fixed_order(content: bytes) -> bytes:
    """The safetensors file with its header sorted: the library writes metadata in another order each
    time, and the same adapter should give the same bytes.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the tensors to 8 bytes
    return len(header).to_bytes(8, "little") + header + content[start:]
