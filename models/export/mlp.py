"""mlp: handwritten digits, 8 by 8 pixels, through three linear layers."""
import torch
from sklearn.datasets import load_digits
from torch import nn

import images
import record

BATCH = 32


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 48)
        self.fc2 = nn.Linear(48, 32)
        self.fc3 = nn.Linear(32, 10)

    def forward(self, pixels):
        return self.fc3(torch.tanh(self.fc2(torch.relu(self.fc1(pixels)))))


torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
x = (torch.tensor(digits.data, dtype=torch.float32) / 16)[order]
y = torch.tensor(digits.target, dtype=torch.int64)[order]
x, y, tx, ty = x[:1400], y[:1400], x[1400:], y[1400:]
model = record.trained("mlp", MLP(), lambda m: images.fit(m, x, y, epochs=30, lr=3e-3))
print("test accuracy", images.accuracy(model, tx, ty))

path = record.folder("mlp")
inputs, outputs = {"pixels": tx[:8]}, ["logits"]
record.export(model, path, inputs, outputs, {"pixels": {0: "batch"}, "logits": {0: "batch"}})
record.data_set(model, path, inputs, outputs)
record.data_set(model, path, {"pixels": tx[8:9]}, outputs)
record.gradients(model, path, inputs)
n = len(ty) // BATCH * BATCH
record.curves(model, path, {"pixels": tx[:n], "target": ty[:n]}, loss="cross_entropy", output="logits", batch_size=BATCH)
