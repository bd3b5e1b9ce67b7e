"""transformer: a causal transformer language model of Moby-Dick, pre-norm, two layers of four heads."""
import math

import torch
from torch import nn

import record
import texts

STEPS, BATCH, CONTEXT = 1500, 32, texts.WINDOW


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.register_buffer("mask", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril(), persistent=False)

    def attend(self, x):
        batch, time, width = x.shape
        split = lambda t: t.view(batch, time, self.heads, self.size).transpose(1, 2)
        q, k, v = (split(t) for t in self.qkv(x).chunk(3, dim=2))
        scores = q @ k.transpose(2, 3) / math.sqrt(self.size)
        scores = scores.masked_fill(~self.mask[:time, :time], float("-inf"))
        y = torch.softmax(scores, dim=3) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, time, width))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, vocab, width=64, layers=2, heads=4):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.position = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def evaluate(model, batch):
    with torch.no_grad():
        return record.cross_entropy(model(batch[0]), batch[1]).item()


def train(model):
    ids = texts.encode(fit)
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=STEPS, pct_start=0.1)
    for step, (x, y) in enumerate(texts.random_windows(ids, BATCH, STEPS, seed=1)):
        loss = record.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        if step % 250 == 0:
            print(step, loss.item(), flush=True)


torch.manual_seed(0)
fit, held = texts.moby_dick()
model = record.trained("transformer", Transformer(len(texts.CHARS)), train)
valid = texts.first_windows(texts.encode(held), 10**6)
print("held-out loss", evaluate(model, valid))

path = record.folder("transformer")
record.write_json(path + "/vocab.json", texts.CHARS)
inputs, outputs = {"tokens": valid[0][:2, :48]}, ["logits"]
record.export(model, path, inputs, outputs, {"tokens": {0: "batch", 1: "time"}, "logits": {0: "batch", 1: "time"}})
record.data_set(model, path, inputs, outputs)
record.data_set(model, path, {"tokens": valid[0][:1]}, outputs)
record.gradients(model, path, inputs)
x, y = texts.first_windows(texts.encode(texts.state_of_the_union()), 160)
record.curves(model, path, {"tokens": x, "target": y}, loss="cross_entropy", output="logits", batch_size=16)
