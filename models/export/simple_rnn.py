"""simple_rnn: the recurrent cell of PyTorch's tutorial, one step at a time."""
import torch
from torch import nn

import record

INPUT, HIDDEN, OUTPUT, BATCH = 10, 20, 1, 16


class SimpleRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.i2h = nn.Linear(INPUT + HIDDEN, HIDDEN)
        self.i2o = nn.Linear(INPUT + HIDDEN, OUTPUT)

    def forward(self, input, hidden):
        combined = torch.cat((input, hidden), 1)
        hidden = self.i2h(combined)
        output = self.i2o(combined)
        return output, hidden


torch.manual_seed(0)
model = SimpleRNN().eval()
path = record.folder("simple_rnn")
outputs = ["output", "hidden_next"]


def example(batch):
    return {"input": torch.randn(batch, INPUT), "hidden": torch.randn(batch, HIDDEN)}


inputs = example(1)
axis = {0: "batch"}
record.export(model, path, inputs, outputs, {n: axis for n in [*inputs, *outputs]})
record.data_set(model, path, inputs, outputs)
record.data_set(model, path, example(5), outputs)
record.gradients(model, path, inputs)
batches = example(10 * BATCH)
target = torch.sin(batches["input"].sum(1, keepdim=True)) + 0.5 * batches["hidden"].mean(1, keepdim=True)
record.curves(model, path, {**batches, "target": target}, loss="mse", output="output", batch_size=BATCH, rates={"sgd_momentum": 0.01})
