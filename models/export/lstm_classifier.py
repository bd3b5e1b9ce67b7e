"""lstm_classifier: an LSTM reads Fashion-MNIST row by row, in PyTorch's default layout (time, batch, feature)."""
import torch
from torch import nn

import images
import record

TRAIN, BATCH = 30_000, 32


class LSTMClassifier(nn.Module):
    def __init__(self, features=14, hidden=48, classes=10):
        super().__init__()
        self.lstm = nn.LSTM(features, hidden)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, rows):
        _, (hn, _) = self.lstm(rows)
        return self.fc(hn[-1])


torch.manual_seed(0)
x, y = images.fashion("train", TRAIN)
tx, ty = images.fashion("t10k", 10_000)
x, tx = x.transpose(0, 1).contiguous(), tx.transpose(0, 1).contiguous()  # time first
model = record.trained("lstm_classifier", LSTMClassifier(), lambda m: images.fit(m, x, y, epochs=5, lr=3e-3, batch_axis=1))
print("test accuracy", images.accuracy(model, tx, ty))

path = record.folder("lstm_classifier")
inputs, outputs = {"rows": tx[:, :4]}, ["logits"]
record.export(model, path, inputs, outputs, {"rows": {0: "time", 1: "batch"}, "logits": {0: "batch"}})
record.data_set(model, path, inputs, outputs)
record.data_set(model, path, {"rows": tx[:9, 4:7]}, outputs)
record.gradients(model, path, inputs)
record.curves(model, path, {"rows": tx[:, 1000:1000 + 10 * BATCH], "target": ty[1000:1000 + 10 * BATCH]}, loss="cross_entropy",
              output="logits", batch_size=BATCH, batch_axis={"rows": 1}, rates={"sgd_momentum": 5e-3})
