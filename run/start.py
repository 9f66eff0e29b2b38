"""The beginning of a training run: flags, inputs, plan and run folder, before any step."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cli.flags import Resolved, parse_flags
from cli.train import TrainFlags, check_flags, run_name
from data.pairs import EncodedPair
from errors import FlagError, answer, notice
from files import refuse_unwritable
from machine import ranks
from machine.bar import at_work
from model.demo import base_in_results
from objectives.base import Objective
from objectives.by_name import make_objective
from report.plan import plan_line, plan_table, step_plan
from report.tables import model_in_words
from run.catalogue import write_catalogue
from run.config import chosen_flags, fingerprints, run_config
from run.elsewhere import refuse_missing
from run.events import Events, tensorboard_module
from run.folder import RunFolder, fresh_name, read_run_config, refuse_unusable
from run.inputs import Inputs, load_inputs
from run.merge import refuse_unusable_output
from run.plan import Plan, longest_pairs, make_plan
from run.progress import Times, count_steps
from run.resume import config_of_resumed, flags_of_run, presets_or_config, refuse_other_objective
from run.vectors import write_record
from tensors import trainable_parameters


@dataclass(frozen=True)
class Start:
    """longest: the pairs of the longest micro-batch of all ranks; planned: the plan in words."""

    flags: TrainFlags
    inputs: Inputs
    objective: Objective
    run: RunFolder
    longest: list[EncodedPair]
    planned: str
    began: float  # time.monotonic()


def start_run(argv: list[str], description: str) -> Start | None:
    """Parse the flags, load everything, and open the run folder; None if --plan asks for the plan only.

    Raises UserError for whatever is unusable, as early as it can be known.
    """
    began = time.monotonic()
    flags, resolved = parse_flags(TrainFlags, argv, description, presets_or_config, check_flags)
    if flags.resume:
        flags, resolved = flags_of_run(flags, resolved)
        own = {name for name, source in resolved.sources.items() if source != "resume"}
        refuse_missing(f"--resume --out {flags.out}", vars(flags), own, Path(flags.out), resumed=True)
    elif flags.config:
        if resolved.sources["objective"] == "flag":
            refuse_other_objective(flags.config, flags.objective)
        taken = {name for name, source in resolved.sources.items() if source.startswith("config ")}
        refuse_missing(f"--config {flags.config}", resolved.values, taken, Path(flags.config))
    out = Path(flags.out or ranks.broadcast(str(fresh_name(Path("runs"), run_name(flags)))))
    refuse_unusable(out, flags.resume)  # now, and not after minutes of loading
    if flags.merge_out:
        refuse_unusable_output(Path(flags.merge_out), "--merge-out", out)
    if flags.base_scores:
        refuse_unwritable(Path(flags.base_scores), "--base-scores", FlagError)
    tensorboard = tensorboard_module(flags.tensorboard)
    resumed = read_run_config(out, "--resume --out") if flags.resume else None
    inputs, objective = load_inputs(flags, resumed), make_objective(vars(flags))

    train, total_steps = inputs.train.pairs, count_steps(len(inputs.train.pairs), flags)[1]
    with at_work("planning memory and time"):
        plan = make_plan(inputs.model, objective, train, inputs.valid.all_pairs, flags)
    times = expected_times(plan, len(inputs.valid.rows), len(inputs.test.rows))
    whole = times.scoring + times.left(0, total_steps, flags.eval_every)
    planned = plan_table(plan.as_dict(), total_steps, whole)
    if flags.plan:
        answer(planned, aside=flags.json)
        if flags.json:
            print(json.dumps(plan.as_dict() | {"run_s": whole}))
        return None
    # One decision for all ranks, whose free memory differs.
    inputs.model.model.checkpointed_layers, micro = ranks.broadcast([plan.checkpointed, plan.pairs])
    flags, resolved.values["micro_batch_size"] = replace(flags, micro_batch_size=micro), micro
    run = open_run(out, flags, resolved, inputs)
    if tensorboard and ranks.is_first():
        run.events = Events(tensorboard, Path(flags.tensorboard) / out.absolute().name)
    notice(step_plan(len(train), total_steps, objective, flags))
    longest = longest_pairs(train, min(flags.batch_size, flags.micro_batch_size * ranks.count()))
    run.times = times
    notice(plan_line(plan.as_dict(), whole))
    return Start(flags, inputs, objective, run, longest, planned, began)


def expected_times(plan: Plan, valid: int, test: int) -> Times:
    """valid, test: rows. A validation asks both questions of each row of the first, as scoring does of all rows."""
    return Times(plan.step_s, plan.validation_s, plan.validation_s * (valid + test) / valid)


def open_run(out: Path, flags: TrainFlags, resolved: Resolved, inputs: Inputs) -> RunFolder:
    """The run folder, new or resumed, with its config.json written, and the first lines that a user sees."""
    data = inputs.data
    config = run_config(resolved, data, inputs.device, fingerprints(inputs, flags.model, flags.init_adapter))
    run = RunFolder(out, flags.resume, inputs.adapter)
    run.write_config(config_of_resumed(out, config) if flags.resume else config)
    write_catalogue(run, data)
    if inputs.vectors:
        write_record(run, inputs.vectors)
    trainable = sum(parameter.numel() for parameter in trainable_parameters(inputs.model).values())
    base = model_in_words(base_in_results(flags.model))
    notice(
        f"{run.path}: {data.name} from {data.source}; base {base}, {flags.precision} on {inputs.device}; "
        f"{trainable:,} trainable parameters"
    )
    notice(chosen_flags(resolved))
    return run
