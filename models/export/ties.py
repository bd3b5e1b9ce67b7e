"""round_trip/ties: what the exporter does to weights that are one parameter, and to parameters that are merely equal.

head.weight is embed.weight: one parameter, used as it is by Gather and transposed by MatMul. The two
LayerNorms are as they begin, all ones and zeros: four parameters of two values, that are to be
trained apart.
"""
import torch
from torch import nn

import record

BATCH, VOCAB, WIDTH = 16, 12, 8


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.norm1(self.embed(tokens))
        return self.head(self.norm2(torch.tanh(self.mix(x)) + x))


torch.manual_seed(0)
model = Tied().eval()
path = record.folder("round_trip/ties")
tokens = torch.randint(VOCAB, (10 * BATCH, 6))
inputs, outputs = {"tokens": tokens[:3]}, ["logits"]
axes = {0: "batch", 1: "time"}
record.export(model, path, inputs, outputs, {"tokens": axes, "logits": axes})
record.data_set(model, path, inputs, outputs)
record.data_set(model, path, {"tokens": tokens[3:5, :4]}, outputs)
record.gradients(model, path, inputs)
record.state_dict(model, path)
record.curves(model, path, {"tokens": tokens, "target": (tokens * 5 + 1) % VOCAB}, loss="cross_entropy", output="logits", batch_size=BATCH)
