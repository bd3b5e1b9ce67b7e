"""Small images: Fashion-MNIST (Debian dataset-fashion-mnist, MIT) at half its size."""
import gzip

import numpy as np
import torch

FOLDER = "/usr/share/datasets/fashion-mnist/"


def fashion(part, count):
    """The first images of part train or t10k, [count,14,14] in 0..1 in steps of 1/255, and their classes."""
    with gzip.open(f"{FOLDER}{part}-images-idx3-ubyte.gz") as f:
        raw = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:count]
    with gzip.open(f"{FOLDER}{part}-labels-idx1-ubyte.gz") as f:
        labels = np.frombuffer(f.read(), np.uint8, offset=8)[:count]
    small = raw.reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype(np.float32) / np.float32(255)
    return torch.tensor(small), torch.tensor(labels.astype(np.int64))


def fit(model, x, y, epochs, lr, batch=64, batch_axis=0):
    """Trains with Adam and a cosine schedule; y is the class of each example."""
    steps = epochs * (len(y) // batch)
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    g = torch.Generator().manual_seed(1)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(y), generator=g)
        for at in range(0, len(order) - batch + 1, batch):
            k = order[at:at + batch]
            loss = torch.nn.functional.cross_entropy(model(x.index_select(batch_axis, k)), y[k])
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
        print("epoch", epoch, loss.item(), flush=True)


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()
