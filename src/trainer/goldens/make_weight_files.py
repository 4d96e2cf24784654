"""Writes small PyTorch state dicts in the forms that users have, for the tests of src/weights.rs.

    pip install torch==2.11.0
    python make_weight_files.py       # rewrites weights/*.pth beside this file
"""

import datetime
import pathlib

import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)


def main():
    net = Tiny()
    state = net.state_dict()
    for start, name in enumerate(state):
        if state[name].is_floating_point():
            state[name].copy_((torch.arange(state[name].numel()) * 0.25 + start).reshape(state[name].shape))
    folder = pathlib.Path(__file__).with_name("weights")
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "state_dict.pth")
    torch.save({name: tensor.half() for name, tensor in state.items()}, folder / "half.pth")
    torch.save(state, folder / "before_1.6.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": state}, folder / "checkpoint.pth")
    torch.save({"module." + name: tensor for name, tensor in state.items()}, folder / "parallel.pth")
    torch.save([state["fc.weight"]], folder / "list.pth")
    torch.save({**state, "when": datetime.date(2026, 1, 1)}, folder / "object.pth")


if __name__ == "__main__":
    main()
