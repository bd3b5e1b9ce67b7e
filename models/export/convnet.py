"""convnet: Conv, BatchNorm, ReLU and MaxPool on Fashion-MNIST, exported for training, for inference
with its batch norms folded into the convolutions, and for inference with them kept."""
import torch
from torch import nn
from torch.onnx import TrainingMode

import images
import record

TRAIN, BATCH = 20_000, 32


class ConvNet(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(16 * 3 * 3, classes)

    def forward(self, image):
        x = self.pool(torch.relu(self.bn1(self.conv1(image))))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        return self.fc(torch.flatten(x, 1))


torch.manual_seed(0)
x, y = images.fashion("train", TRAIN)
tx, ty = images.fashion("t10k", 10_000)
x, tx = x[:, None], tx[:, None]
model = record.trained("convnet", ConvNet(), lambda m: images.fit(m, x, y, epochs=4, lr=3e-3))
print("test accuracy", images.accuracy(model, tx, ty))

inputs, outputs = {"image": tx[:8]}, ["logits"]
second = {"image": tx[8:11]}
dynamic = {"image": {0: "batch"}, "logits": {0: "batch"}}
state = {k: v.clone() for k, v in model.state_dict().items()}


def record_all(name, train_mode, **options):
    path = record.folder(name)
    model.load_state_dict(state)
    model.train(train_mode)
    record.export(model, path, inputs, outputs, dynamic, **options)
    for batch in inputs, second:
        model.load_state_dict(state)  # in train mode every run moves the running statistics
        record.data_set(model, path, batch, outputs)
    record.gradients(model, path, inputs)
    model.load_state_dict(state)
    return path


path = record_all("convnet", True, training=TrainingMode.TRAINING, do_constant_folding=False)
statistics = {}


def running_statistics(optimizer, m):
    if optimizer == "sgd_momentum":
        statistics.update({k: v.clone() for k, v in m.state_dict().items() if "running" in k or "num_batches" in k})


record.curves(model, path, {"image": tx[1000:1000 + 10 * BATCH], "target": ty[1000:1000 + 10 * BATCH]}, loss="cross_entropy",
              output="logits", batch_size=BATCH, mode="train", rates={"sgd_momentum": 0.006}, after=running_statistics)
record.write_npz(path + "/running_stats.npz", statistics)

path = record_all("convnet_eval", False)
record.state_dict(model, path)
path = record_all("convnet_preserved", False, training=TrainingMode.PRESERVE, do_constant_folding=False)
record.curves(model, path, {"image": tx[1000:1000 + 10 * BATCH], "target": ty[1000:1000 + 10 * BATCH]}, loss="cross_entropy",
              output="logits", batch_size=BATCH, mode="eval", rates={"sgd_momentum": 5e-4, "rmsprop": 2e-4})
