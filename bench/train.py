"""PyTorch's side of the training bench: one network, one step (forward, backward, AdamW) for each line on standard input, its
milliseconds on standard output. Started by the bench with one thread.

    /usr/bin/python3 train.py ROW FOLDER

The first thing it does is to write FOLDER/ROW.onnx, the network as exported for training, and FOLDER/ROW.json, the shapes of its batch.

    /usr/bin/python3 train.py ROW

takes five steps and prints by how many bytes the process has grown at most since PyTorch was imported, pages of files apart.
"""
import json
import os
import sys
import time

import torch
from torch import nn

row, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
torch.manual_seed(0)
torch.set_num_threads(1)


def status(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith(key))


class Classifier(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        self.rnn = cell(64, 256, batch_first=True)
        self.fc = nn.Linear(256, 10)

    def forward(self, tokens):
        y, _ = self.rnn(self.embed(tokens))
        return self.fc(y[:, -1])


def encoder():
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    return nn.Sequential(nn.Embedding(1000, 256), nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(256, 10))


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def resnet18():
    import torchvision
    return torchvision.models.resnet18(weights=None)


if not folder and row == "resnet18":
    import torchvision
before = status("RssAnon:")
with open("/proc/self/clear_refs", "w") as f:
    f.write("5")  # the peak begins again

tokens = lambda *shape: torch.randint(0, 1000, shape)
model, x, labels = {
    "lstm_classifier": lambda: (Classifier(nn.LSTM), tokens(32, 50), (32,)),
    "gru_classifier": lambda: (Classifier(nn.GRU), tokens(32, 50), (32,)),
    "mlp": lambda: (mlp(), torch.randn(64, 784), (64,)),
    "encoder": lambda: (encoder(), tokens(8, 64), (8, 64)),
    "resnet18": lambda: (resnet18(), torch.randn(8, 3, 64, 64), (8,)),
}[row]()
model.train()
if folder:
    os.makedirs(folder, exist_ok=True)
    torch.onnx.export(model, (x,), os.path.join(folder, row + ".onnx"), opset_version=17, input_names=["x"], output_names=["logits"],
                      training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False)
    with open(os.path.join(folder, row + ".json"), "w") as f:
        json.dump({"x": list(x.shape), "below": 1000 if x.dtype == torch.int64 else 0, "labels": list(labels)}, f)
y = torch.randint(0, 10, labels)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def step():
    optimizer.zero_grad()
    out = model(x)
    loss = nn.functional.cross_entropy(out.flatten(0, -2), y.flatten())
    loss.backward()
    optimizer.step()


if not folder:
    for _ in range(5):
        step()
    print(status("VmHWM:") - status("RssFile:") - before)
    sys.exit()
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    step()
    print(1e3 * (time.perf_counter() - start), flush=True)
