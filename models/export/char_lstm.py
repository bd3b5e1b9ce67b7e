"""char_lstm: a character language model of Moby-Dick, with a new domain to fine-tune it on."""
import copy

import torch
from torch import nn

import record
import texts

STEPS, BATCH, HIDDEN = 5000, 32, 128


class CharLSTM(nn.Module):
    def __init__(self, vocab, embed=32, hidden=HIDDEN):
        super().__init__()
        self.embed = nn.Embedding(vocab, embed)
        self.lstm = nn.LSTM(embed, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocab)

    def forward(self, tokens, h0, c0):
        y, (hn, cn) = self.lstm(self.embed(tokens), (h0, c0))
        return self.head(y), hn, cn


def loss_of(model, x, y):
    zero = torch.zeros(1, len(x), HIDDEN)
    return record.cross_entropy(model(x, zero, zero)[0], y)


def evaluate(model, batch):
    with torch.no_grad():
        return loss_of(model, *batch).item()


def train(model):
    ids = texts.encode(fit)
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
    for step, (x, y) in enumerate(texts.random_windows(ids, BATCH, STEPS, seed=1)):
        loss = loss_of(model, x, y)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        if step % 500 == 0:
            print(step, loss.item(), flush=True)


def finetune(model, ids, steps=300, batch=16, lr=2e-3, clip=1.0):
    """PyTorch's own fine-tuning on the new domain, by a recipe that needs no random numbers."""
    cut = len(ids) * 9 // 10
    fit, held = ids[:cut], texts.first_windows(ids[cut:], 64)
    starts = [i * 7919 % (len(fit) - texts.WINDOW - 1) for i in range(steps * batch)]
    model = copy.deepcopy(model).train()
    before, losses = evaluate(model, held), []
    opt = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(steps):
        loss = loss_of(model, *texts.windows(fit, starts[step * batch:(step + 1) * batch]))
        losses.append(loss.item())
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        opt.step()
    return {
        "text": "domain/state_of_the_union.txt", "encoding": "vocab.json; a character that is not there is 0",
        "train": "the first 90 % of the characters (len*9/10, rounded down)",
        "valid": "of the rest, windows 0 to 63, window i beginning at 64*i; the mean over all their characters",
        "window": texts.WINDOW, "batch_size": batch, "steps": steps,
        "windows": "example i (16*step + its place in the batch) begins at i*7919 mod (len(train)-65)",
        "target": "the characters one further on", "state": "h0 and c0 are zeros for every window",
        "optimizer": {"kind": "adamw", "lr": lr, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01},
        "clip_grad_norm": clip, "mode": "train",
        "valid_before": before, "valid_after": evaluate(model, held), "losses": losses,
    }


torch.manual_seed(0)
fit, held = texts.moby_dick()
model = record.trained("char_lstm", CharLSTM(len(texts.CHARS)), train)
valid = texts.first_windows(texts.encode(held), 10**6)
print("held-out loss", evaluate(model, valid))

path = record.folder("char_lstm")
record.write_json(path + "/vocab.json", texts.CHARS)
speeches = texts.state_of_the_union()
with open(path + "/domain/state_of_the_union.txt", "w") as f:
    f.write(speeches)
with open(path + "/domain/moby_dick_held_out.txt", "w") as f:
    f.write("".join(c if c in texts.INDEX else " " for c in held[-20_000:]))

torch.manual_seed(1)
inputs = {"tokens": valid[0][:2], "h0": torch.randn(1, 2, HIDDEN) * 0.1, "c0": torch.randn(1, 2, HIDDEN) * 0.1}
outputs = ["logits", "hn", "cn"]
state = {1: "batch"}
record.export(model, path, inputs, outputs, {
    "tokens": {0: "batch", 1: "time"}, "h0": state, "c0": state, "logits": {0: "batch", 1: "time"}, "hn": state, "cn": state})
record.data_set(model, path, inputs, outputs)
record.data_set(model, path, {"tokens": valid[0][:1, :7], "h0": inputs["h0"][:, :1], "c0": inputs["c0"][:, :1]}, outputs)
record.gradients(model, path, inputs)

ids = texts.encode(speeches)
x, y = texts.first_windows(ids, 160)
zero = torch.zeros(1, len(x), HIDDEN)
record.curves(model, path, {"tokens": x, "h0": zero, "c0": zero, "labels": y}, loss="cross_entropy", output="logits", target="labels",
              batch_size=16, batch_axis={"h0": 1, "c0": 1}, rates={"sgd_momentum": 0.1, "rmsprop": 1e-3, "adagrad": 1e-2})
reference = finetune(model, ids)
print("new domain", reference["valid_before"], "to", reference["valid_after"])
record.write_json(path + "/finetune_reference.json", reference)
