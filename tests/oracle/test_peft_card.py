"""The code on a model card, run as it stands: PEFT's model must answer as ours does."""

import re

import pytest
import torch

import train
from data.sources.stand_in import stand_in
from data.sources.tallrec import write_split
from data.splits import encode_split
from lora.adapter import load_adapter, read_adapter_config
from lora.inject import add_lora
from model.demo import DEMO_FOLDER
from run.base import load_base

pytest.importorskip("peft")


def test_the_card_loads_the_adapter_in_peft(tmp_path, monkeypatch):
    data = stand_in()
    for split in ("train", "valid", "test"):
        (tmp_path / "rows").mkdir(exist_ok=True)
        write_split(tmp_path / "rows" / f"{split}.json", getattr(data, split)[:16], data)
    short = "--shots 8 --max-steps 2 --eval-every 2 --lr 3e-3 --warmup-steps 0 --precision fp32 --device cpu"
    train.main(["--data", str(tmp_path / "rows"), "--out", str(tmp_path / "run"), *short.split()])
    (block,) = re.findall(r"^```python\n(.*?)^```$", (tmp_path / "run/README.md").read_text(), re.S | re.M)
    names = {}
    monkeypatch.chdir(tmp_path / "run")
    block, places = re.subn(r'base_folder = "?\'?demo/model.*', f"base_folder = {str(DEMO_FOLDER)!r}", block)
    assert places == 1  # what a reader must write
    exec(compile(block, "README.md", "exec"), names)

    ours, tokenizer = load_base("demo", "fp32", torch.device("cpu"))
    add_lora(ours, **read_adapter_config(tmp_path / "run"))
    load_adapter(ours, tmp_path / "run")
    row = encode_split(data.test[:1], data, tokenizer, "tallrec", 512).pairs[0].positive
    ids = torch.tensor([row.prompt.tolist()])
    with torch.no_grad():
        theirs, mine = names["model"].float()(ids).logits, ours.eval()(ids)
    assert torch.allclose(theirs, mine, atol=1e-4)
