"""Fine-tunes networks of models/, which PyTorch trained on one domain, on another, with three seeds of the order of examples, and records the
examples, their orders and what PyTorch reaches. Needs Debian's python3-torch, python3-onnx and python3-sklearn.

    /usr/bin/python3 transfer.py FOLDER

FOLDER/transfer/NAME gets about.json, examples.npz, valid.npz (examples, and labels) and order.npz (seed: the examples of each step).
"""
import json
import os
import sys

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
sys.path.append(os.path.join(MODELS, "export"))
from record import write_json, write_npz  # noqa: E402

SEEDS = (0, 1, 2)


def weights(name):
    """PyTorch's tensors out of a shipped file, by its names.json."""
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(f"{MODELS}/{name}/model.onnx").graph.initializer}
    found = {}
    with open(f"{MODELS}/{name}/names.json", encoding="utf-8") as f:
        for key, at in json.load(f).items():
            if at["initializer"] is None:
                continue
            w = held[at["initializer"]]
            if at["form"] == "transposed":
                w = w.T
            elif at["form"] == "gates":  # an LSTM's
                i, o, f_, c = np.split(w[at["direction"], at["offset"]:at["offset"] + at["shape"][0]], 4)
                w = np.concatenate([i, f_, c, o])
            found[key] = torch.tensor(w.copy())
    return found


def data_set(name, k=0):
    """The recorded inputs and first output of a shipped model."""
    read = lambda kind, i: torch.tensor(numpy_helper.to_array(onnx.load_tensor(f"{MODELS}/{name}/test_data_set_{k}/{kind}_{i}.pb")))
    count = len([f for f in os.listdir(f"{MODELS}/{name}/test_data_set_{k}") if f.startswith("input")])
    return [read("input", i) for i in range(count)], read("output", 0)


class CharLSTM(nn.Module):
    def __init__(self, vocab, embed=32, hidden=128):
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(vocab, embed), nn.LSTM(embed, hidden, batch_first=True), nn.Linear(hidden, vocab)

    def forward(self, tokens, h0, c0):
        return self.head(self.lstm(self.embed(tokens), (h0, c0))[0])


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(16 * 3 * 3, 10)

    def forward(self, image):
        x = self.pool(torch.relu(self.bn1(self.conv1(image))))
        return self.fc(torch.flatten(self.pool(torch.relu(self.bn2(self.conv2(x)))), 1))


def measure(model, inputs, labels):
    """The loss and the share of labels that are the likeliest class."""
    model.eval()
    with torch.no_grad():
        y = model(*inputs)
    return [F.cross_entropy(y.flatten(0, -2), labels.flatten()).item(), (y.argmax(-1) == labels).float().mean().item()]


def transfer(folder, name, module, axes, examples, labels, valid, valid_labels, *, kind, lr, steps, batch, clip=0.0):
    """examples and valid are the inputs by name, axes where the examples are, if not along the first."""
    make = {"adamw": torch.optim.AdamW, "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)}[kind]
    path = os.path.join(folder, "transfer", name)
    os.makedirs(path, exist_ok=True)
    shipped = weights(name)
    about = {"model": name, "optimizer": kind, "lr": lr, "momentum": 0.9 if kind == "sgd" else 0.0, "clip": clip, "axes": axes, "runs": {}}
    orders = {}
    for seed in SEEDS:
        model = module()
        missing, unexpected = model.load_state_dict(shipped, strict=False)
        assert not unexpected and all("num_batches" in m for m in missing), (missing, unexpected)
        inputs, output = data_set(name)
        model.eval()
        with torch.no_grad():
            assert torch.allclose(model(*inputs), output, atol=1e-4), "the shipped model is another"
        before = measure(model, valid.values(), valid_labels)
        g = torch.Generator().manual_seed(seed)
        rows = torch.cat([torch.randperm(len(labels), generator=g) for _ in range(1 + steps * batch // len(labels))])
        orders[str(seed)] = rows[:steps * batch].view(steps, batch)
        optimizer = make(model.parameters(), lr=lr)
        model.train()
        for k in orders[str(seed)]:
            loss = F.cross_entropy(model(*[v.index_select(axes.get(n, 0), k) for n, v in examples.items()]).flatten(0, -2), labels[k].flatten())
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        about["runs"][str(seed)] = {"before": before, "after": measure(model, valid.values(), valid_labels)}
        print(f"{name}, seed {seed}: loss {before[0]:.4f}, accuracy {before[1]:.4f} to {about['runs'][str(seed)]['after']}", flush=True)
    write_npz(path + "/examples.npz", {**examples, "labels": labels})
    write_npz(path + "/valid.npz", {**valid, "labels": valid_labels})
    write_npz(path + "/order.npz", orders)
    write_json(path + "/about.json", about)


def speeches(folder):
    """From Moby-Dick to the State of the Union."""
    with open(f"{MODELS}/char_lstm/vocab.json", encoding="utf-8") as f:
        index = {c: i for i, c in enumerate(json.load(f))}
    with open(f"{MODELS}/char_lstm/domain/state_of_the_union.txt", encoding="utf-8") as f:
        ids = torch.tensor([index.get(c, 0) for c in f.read()])
    count = (len(ids) - 1) // 64
    x, y = ids[:count * 64].view(count, 64), ids[1:count * 64 + 1].view(count, 64)
    cut = count * 9 // 10
    zeros = lambda n: {"h0": torch.zeros(1, n, 128), "c0": torch.zeros(1, n, 128)}
    held = slice(cut, cut + 128)
    transfer(folder, "char_lstm", lambda: CharLSTM(len(index)), {"h0": 1, "c0": 1}, {"tokens": x[:cut], **zeros(cut)}, y[:cut],
             {"tokens": x[held], **zeros(128)}, y[held], kind="adamw", lr=2e-3, steps=200, batch=16, clip=1.0)


def digits(folder):
    """From clothes to digits, with batch norms in training mode."""
    x, y = load_digits(return_X_y=True)
    x = F.interpolate(torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, size=(14, 14), mode="bilinear", align_corners=False)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(7))
    x, y = x[order], torch.tensor(y)[order]
    transfer(folder, "convnet_preserved", ConvNet, {}, {"image": x[:1197]}, y[:1197], {"image": x[1197:]}, y[1197:], kind="sgd", lr=0.02, steps=150, batch=32)


digits(sys.argv[1])
speeches(sys.argv[1])
