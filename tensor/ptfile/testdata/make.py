"""Writes the files beside it, with PyTorch 1.13."""
import argparse
import collections
import os

import torch

os.chdir(os.path.dirname(os.path.abspath(__file__)))
torch.manual_seed(0)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.fc.weight.data.copy_(torch.arange(6.0).reshape(2, 3))
        self.fc.bias.data.copy_(torch.tensor([-1.0, 1.0]))

    def forward(self, x):
        return self.norm(self.fc(x))


net = Net()
torch.save(net.state_dict(), "state.pt")
torch.save(net.state_dict(), "legacy.pt", _use_new_zipfile_serialization=False)
torch.save(net, "module.pt")
torch.jit.script(net.eval()).save("script.pt")

base = torch.arange(12.0)
d = collections.OrderedDict()
d["whole"] = base
d["part"] = base[2:6]
d["transposed"] = base.reshape(3, 4).t()
d["stepped"] = base[1::3]
d["expanded"] = torch.tensor([1.0, 2.0]).reshape(2, 1).expand(2, 3)
d["scalar"] = torch.tensor(7)
d["empty"] = torch.zeros(0, 3)
for name in ["float64", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "complex64", "complex128", "bool"]:
    d[name] = torch.tensor([0, 1, 1]).to(getattr(torch, name))
torch.save(d, "types.pt")
torch.save(d, "types_legacy.pt", _use_new_zipfile_serialization=False)

opt = torch.optim.Adam(net.parameters(), lr=1e-3)
net.train()(torch.ones(2, 3)).pow(2).sum().backward()
opt.step()
torch.save(
    {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "state_dict": {k: v for k, v in net.state_dict().items() if k.startswith("fc")},
        "optimizer": opt.state_dict(),
        "list": [torch.ones(1), torch.zeros(2)],
        "param": torch.nn.Parameter(torch.ones(1)),
    },
    "checkpoint.pt",
)
