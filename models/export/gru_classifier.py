"""gru_classifier: which language a name is from, by a bidirectional GRU over names of different lengths."""
import csv
import shutil

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import record

BATCH, EPOCHS = 32, 12


class GRUClassifier(nn.Module):
    def __init__(self, vocab, classes, embed=24, hidden=48):
        super().__init__()
        self.embed = nn.Embedding(vocab, embed, padding_idx=0)
        self.gru = nn.GRU(embed, hidden, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, letters, lengths):
        packed = pack_padded_sequence(self.embed(letters), lengths, batch_first=True, enforce_sorted=False)
        # The zeros are PyTorch's own, but only when they are written out does the exporter see that
        # their size is the batch's: otherwise the file would hold the example's.
        zeros = torch.zeros(2, letters.shape[0], self.gru.hidden_size, dtype=self.fc.weight.dtype)
        _, hn = self.gru(packed, zeros)
        return self.fc(torch.cat([hn[0], hn[1]], 1))


def encode(names):
    """Letters padded with zeros to the longest name, and the lengths."""
    index = {c: i for i, c in enumerate(vocab)}
    letters = torch.zeros(len(names), max(map(len, names)), dtype=torch.int64)
    for row, name in zip(letters, names):
        row[:len(name)] = torch.tensor([index.get(c, 1) for c in name])
    return letters, torch.tensor([len(n) for n in names])


def train(model):
    steps = EPOCHS * (len(fit) // BATCH)
    opt = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    g = torch.Generator().manual_seed(1)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(fit), generator=g).tolist()
        for at in range(0, len(order) - BATCH + 1, BATCH):
            rows = [fit[k] for k in order[at:at + BATCH]]
            y = torch.tensor([classes.index(r["language"]) for r in rows])
            loss = nn.functional.cross_entropy(model(*encode([r["name"] for r in rows])), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
        print("epoch", epoch, loss.item(), flush=True)


path = record.folder("gru_classifier")
shutil.copyfile(record.scratch("names.csv"), path + "/names.csv")
with open(path + "/names.csv", encoding="utf-8", newline="") as f:
    rows = list(csv.DictReader(f))
fit, test = [r for i, r in enumerate(rows) if i % 10 != 9], rows[9::10]
classes = sorted({r["language"] for r in rows})
vocab = ["<pad>", "<unk>"] + sorted({c for r in fit for c in r["name"]})
record.write_json(path + "/vocab.json", vocab)
record.write_json(path + "/classes.json", classes)

torch.manual_seed(0)
model = record.trained("gru_classifier", GRUClassifier(len(vocab), len(classes)), train)
letters, lengths = encode([r["name"] for r in test])
languages = torch.tensor([classes.index(r["language"]) for r in test])
with torch.no_grad():
    print("test accuracy", (model(letters, lengths).argmax(1) == languages).float().mean().item())

mixed = torch.randperm(len(test), generator=torch.Generator().manual_seed(2))
letters, lengths, languages = letters[mixed], lengths[mixed], languages[mixed]


def batch(rows):
    """Those rows as a batch of its own, padded to its longest name only."""
    return {"letters": letters[rows, :lengths[rows].max()], "lengths": lengths[rows]}


inputs, outputs = batch(slice(0, 6)), ["logits"]
record.export(model, path, inputs, outputs, {
    "letters": {0: "batch", 1: "time"}, "lengths": {0: "batch"}, "logits": {0: "batch"}})
record.data_set(model, path, inputs, outputs)
record.data_set(model, path, batch(slice(6, 9)), outputs)
record.gradients(model, path, inputs)

# Every batch of the curves is padded alike, to a length that some name of the batch has.
n, longest = 10 * BATCH, 8
keep = (lengths <= longest).nonzero()[:, 0]
letters, lengths, languages = letters[keep, :longest], lengths[keep], languages[keep]
assert all((lengths[a:a + BATCH] == longest).any() for a in range(0, n, BATCH))
record.curves(model, path, {"letters": letters[:n], "lengths": lengths[:n], "target": languages[:n]}, loss="cross_entropy",
              output="logits", batch_size=BATCH, rates={"sgd_momentum": 0.02})
