"""What reproduce.py can run: each study is a list of settings, as data. A setting is a row of the study's table."""

from dataclasses import dataclass, field

KL_WEIGHTS = ("0", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1")  # Figure 3 of the paper


@dataclass(frozen=True)
class Setting:
    """One way to train, run with several seeds.

    flags: of train.py, beside --shots and --seed. x: its place on the horizontal axis, if the study has a picture.
    """

    label: str
    shots: str
    seeds: int
    flags: dict[str, str] = field(default_factory=dict)
    x: float | None = None

    def run_name(self, seed: int) -> str:
        """The folder of one run: it follows from the flags alone, so that equal runs of two studies are one."""
        words = [f"{name}={value}" for name, value in sorted(self.flags.items())]
        return "-".join([f"shots={self.shots}", *words, f"seed={seed}"])


@dataclass(frozen=True)
class Study:
    """about: one line for --help. control: the label before ", N shots" of what other rows are compared with."""

    about: str
    settings: tuple[Setting, ...]
    control: str = "control, lambda 0"
    picture: bool = False


def _few_shot(shots: str, seeds: int) -> tuple[Setting, ...]:
    """TALLRec, the control and LCFT, which share everything but the rows that they see and lambda."""
    return (
        Setting(f"TALLRec, {shots} shots", shots, seeds, {"objective": "tallrec", "lora-dropout": LORA_DROPOUT}),
        Setting(f"control, lambda 0, {shots} shots", shots, seeds, {"kl-weight": "0"}),
        Setting(f"LCFT, lambda 1e-4, {shots} shots", shots, seeds, {"kl-weight": "1e-4"}),
    )


# Appendix B's. --objective tallrec and released have another one by default; with it, they would differ in two things.
LORA_DROPOUT = "0.005"

STRONG = Setting("LCFT, lambda 0.1, KL capped at 1 nat, 64 shots", "64", 5, {"kl-weight": "0.1", "kl-cap": "1"})
RELEASED = Setting("published code, 64 shots", "64", 3, {"objective": "released", "lora-dropout": LORA_DROPOUT})
SWEEP = tuple(
    Setting(f"lambda {weight}, 64 shots", "64", 3, {"kl-weight": weight}, x=float(weight)) for weight in KL_WEIGHTS
)

STUDIES = {
    "few-shot": Study(
        "TALLRec, the control and LCFT with 16, 64 and 256 shots, 5 seeds",
        tuple(setting for shots in ("16", "64", "256") for setting in _few_shot(shots, 5)),
    ),
    "figure3": Study("lambda from 0 to 1 as in Figure 3, 64 shots, 3 seeds", SWEEP, "lambda 0", picture=True),
    "laptop": Study(
        "what a small real base shows: 64 shots with 5 seeds; 16 and 256 shots, and the published code, with 3",
        (*_few_shot("64", 5), STRONG, RELEASED, *_few_shot("16", 3), *_few_shot("256", 3)),
    ),
}
