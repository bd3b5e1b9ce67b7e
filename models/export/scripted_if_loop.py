"""scripted_if_loop: a branch that the data chooses, then a loop whose length the data chooses."""
import torch
from torch import nn

import record

SIZE = 6


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.warm = nn.Linear(SIZE, SIZE)
        self.cold = nn.Linear(SIZE, SIZE)
        self.again = nn.Linear(SIZE, SIZE)

    def forward(self, x):
        if bool(x.sum() > 0):
            y = torch.relu(self.warm(x)) + 0.1 * x
        else:
            y = torch.tanh(self.cold(x))
        for i in range(int((x.abs().max() * 2).to(torch.int64))):  # without to(), torch 1.13 exports no Cast
            y = y + torch.sigmoid(self.again(y)) / (i + 1)
        return y


torch.manual_seed(0)
model = Branching().eval()
path = record.folder("scripted_if_loop")
up = torch.randn(3, SIZE)
up += (1 - up.sum()) / up.numel()
cases = [up, -up[:2].abs() * 0.6, up[:1] * 0 + 0.25]  # the first branch, the second, and no turn of the loop
for x in cases:
    print("  sum", x.sum().item(), "turns", x.abs().max().item() * 2)
inputs, outputs = {"x": cases[0]}, ["y"]
graph = record.export(torch.jit.script(model), path, inputs, outputs, {"x": {0: "batch"}, "y": {0: "batch"}})
assert {"If", "Loop"} <= {n.op_type for n in graph.node}
for x in cases:
    record.data_set(model, path, {"x": x}, outputs)
record.gradients(model, path, inputs)
