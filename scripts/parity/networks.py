"""The networks of the parity suite: each a module, the batches it trains on and the loss, in the ways in which people write and export them."""
import math
from typing import List

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CASES = {}


def case(loss="cross_entropy", *, opset=17, mode="train", fold=True, script=False, fresh=False, dynamic=None, narrow=False, **of_loss):
    """Registers a function that gives a module and a function of k that gives the inputs of batch k by name, and its target.

    mode is how the module trains and how it is exported: train, eval, or both: exported in eval mode, then trained. Parameters
    are moved from what they begin with, so that none are alike, unless fresh. narrow is for modules that the exporter writes wrongly in float64.
    """
    def add(make):
        CASES[make.__name__] = {"make": make, "loss": {"kind": loss, **of_loss}, "opset": opset, "mode": mode, "fold": fold,
                                "script": script, "fresh": fresh, "dynamic": dynamic, "narrow": narrow}
        return make
    return add


def tokens(n, *shape):
    return torch.randint(0, n, shape)


def lengths_of(batch, time):
    """Lengths in any order, the greatest of them the time's."""
    lengths = torch.randint(1, time + 1, (batch,))
    lengths[torch.randint(0, batch, ())] = time
    return lengths


def present(lengths, time):
    return torch.arange(time).unsqueeze(0) < lengths.unsqueeze(1)


# --- recurrent ----------------------------------------------------------------------------------

class Recurrent(nn.Module):
    """A classifier by everything that a recurrent layer gives: its outputs over time and its last states."""

    def __init__(self, cell, packed=False, initial=False, **options):
        super().__init__()
        self.rnn = cell(5, 6, **options)
        self.packed, self.initial = packed, initial
        ways = 2 if self.rnn.bidirectional else 1
        self.layers = ways * self.rnn.num_layers
        out = options.get("proj_size", 6)
        self.head = nn.Linear(ways * out + self.layers * (out + 6 if cell is nn.LSTM else 6), 4)

    def forward(self, x, *given):
        lengths, given = (given[0], given[1:]) if self.packed else (None, given)
        state = given if len(given) > 1 else given[0] if given else None
        first = self.rnn.batch_first
        batch = x.shape[0 if first else 1]
        if self.packed:
            if state is None:
                zeros = torch.zeros(self.layers, batch, 6, dtype=x.dtype)
                state = (zeros, zeros) if self.rnn.mode == "LSTM" else zeros
            x = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        y, last = self.rnn(x, state)
        if self.packed:
            y, _ = pad_packed_sequence(y, batch_first=first)
        last = torch.cat(last, 2) if isinstance(last, tuple) else last
        mean = y.mean(1 if first else 0)
        return self.head(torch.cat([mean, last.transpose(0, 1).reshape(batch, -1)], 1)), y, last


def recurrent(name, cell, opset=17, fold=True, time=None, **options):
    def make():
        model = Recurrent(cell, **options)

        def batch(k):
            t = time or 5 + k % 2
            x = torch.randn(3, t, 5) if model.rnn.batch_first else torch.randn(t, 3, 5)
            inputs = {"x": x}
            if model.packed:
                inputs["lengths"] = lengths_of(3, t)
            if model.initial:
                inputs["h0"] = torch.randn(model.layers, 3, 6)
                if cell is nn.LSTM:
                    inputs["c0"] = torch.randn(model.layers, 3, 6)
            return inputs, tokens(4, 3)
        return model, batch
    make.__name__ = name
    b, t = (0, 1) if options.get("batch_first") else (1, 0)
    dynamic = {"x": {b: "batch", t: "time"}, "lengths": {0: "batch"}, "h0": {1: "batch"}, "c0": {1: "batch"}}
    case(opset=opset, fold=fold, dynamic=dynamic)(make)


for kind, cell in {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}.items():
    recurrent(kind, cell)
    recurrent(kind + "_batch_first_no_bias", cell, opset=13, batch_first=True, bias=False)
    recurrent(kind + "_3_layers", cell, num_layers=3, fold=False)
    recurrent(kind + "_bidirectional_initial", cell, opset=14, bidirectional=True, initial=True)
    recurrent(kind + "_packed", cell, packed=True, batch_first=True)
    recurrent(kind + "_packed_not_folded", cell, opset=15, packed=True, fold=False)
    recurrent(kind + "_packed_2_layers_bidirectional", cell, opset=16, packed=True, num_layers=2, bidirectional=True)
    recurrent(kind + "_packed_2_layers_bidirectional_initial", cell, packed=True, initial=True, batch_first=True, num_layers=2, bidirectional=True)
recurrent("rnn_relu_packed_bidirectional", nn.RNN, nonlinearity="relu", packed=True, bidirectional=True, num_layers=2)
recurrent("lstm_projections", nn.LSTM, proj_size=3)


@case()
def cells_by_hand():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.gru, self.lstm = nn.RNNCell(4, 5), nn.GRUCell(5, 5), nn.LSTMCell(5, 6)
            self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x):
            a = b = torch.zeros(x.shape[0], 5, dtype=x.dtype)
            h = c = torch.zeros(x.shape[0], 6, dtype=x.dtype)
            for t in range(x.shape[1]):
                a = self.rnn(x[:, t], a)
                b = self.gru(a, b)
                h, c = self.lstm(b, (h, c))
                h = self.norm(h)
            return self.head(h)
    return Steps(), lambda k: ({"x": torch.randn(4, 5, 4)}, tokens(3, 4))


@case(dynamic={"tokens": {0: "batch", 1: "time"}}, ignore_index=0)
def language_model_tied():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.head = nn.Embedding(15, 8), nn.LSTM(8, 8, 2, batch_first=True), nn.Linear(8, 15)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.lstm(self.embed(tokens))[0])
    return Model(), lambda k: ({"tokens": tokens(15, 3, 6)}, tokens(15, 3, 6))


@case(dynamic={"x": {0: "batch"}})
def lstm_learned_state():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 6), nn.Linear(6, 3)
            self.h, self.c = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 1, 6))

        def forward(self, x):
            n = x.shape[0]
            y, (h, c) = self.lstm(x.transpose(0, 1), (self.h.expand(-1, n, -1).contiguous(), self.c.expand(-1, n, -1).contiguous()))
            return self.head(h[0] + torch.tanh(c[0]) + y.amax(0))
    return Model(), lambda k: ({"x": torch.randn(4, 5, 4)}, tokens(3, 4))


# --- sequence to sequence -----------------------------------------------------------------------

class Cell(nn.Module):
    """A gated cell that the exporter can write in scripts and at unknown sizes, as it cannot PyTorch's."""

    def __init__(self, inputs, size):
        super().__init__()
        self.update, self.reset, self.new = (nn.Linear(inputs + size, size) for _ in range(3))

    def forward(self, x, h):
        both = torch.cat([x, h], 1)
        z = torch.sigmoid(self.update(both))
        return z * h + (1.0 - z) * torch.tanh(self.new(torch.cat([x, torch.sigmoid(self.reset(both)) * h], 1)))


class Bahdanau(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.query, self.key, self.score = nn.Linear(size, size, bias=False), nn.Linear(size, size), nn.Linear(size, 1, bias=False)

    def forward(self, h, memory, mask):
        scores = self.score(torch.tanh(self.query(h).unsqueeze(1) + self.key(memory))).squeeze(2)
        weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), 1)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1)


@case(ignore_index=0, label_smoothing=0.1)
def seq2seq_bahdanau():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.encoder = nn.Embedding(12, 6), nn.GRU(6, 4, batch_first=True, bidirectional=True)
            self.attend, self.cell, self.out = Bahdanau(8), Cell(14, 8), nn.Linear(22, 12)

        def forward(self, source, lengths, target):
            zeros = torch.zeros(2, source.shape[0], 4, dtype=self.out.weight.dtype)
            packed = pack_padded_sequence(self.embed(source), lengths, batch_first=True, enforce_sorted=False)
            memory, h = self.encoder(packed, zeros)
            memory, _ = pad_packed_sequence(memory, batch_first=True)
            h, logits = torch.cat([h[0], h[1]], 1), []
            mask = present(lengths, memory.shape[1])
            for t in range(target.shape[1]):
                given = self.embed(target[:, t])
                context = self.attend(h, memory, mask)
                h = self.cell(torch.cat([given, context], 1), h)
                logits.append(self.out(torch.cat([h, context, given], 1)))
            return torch.stack(logits, 1)
    return Model(), lambda k: ({"source": tokens(12, 3, 6), "lengths": lengths_of(3, 6), "target": tokens(12, 3, 4)}, tokens(12, 3, 4))


@case(opset=14)
def seq2seq_luong():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(10, 6), nn.Embedding(11, 6)
            self.encoder, self.decoder = nn.LSTM(6, 8, 2), nn.LSTM(6, 8, 2)
            self.general, self.combine, self.out = nn.Linear(8, 8, bias=False), nn.Linear(16, 8), nn.Linear(8, 11)

        def forward(self, source, target):
            memory, state = self.encoder(self.source(source))
            h, _ = self.decoder(self.target(target), state)
            scores = torch.einsum("thd,shd->hts", h, self.general(memory))
            context = torch.einsum("hts,shd->thd", scores.softmax(2), memory)
            return self.out(torch.tanh(self.combine(torch.cat([context, h], 2))))
    return Model(), lambda k: ({"source": tokens(10, 5, 3), "target": tokens(11, 4, 3)}, tokens(11, 4, 3))


@case("nll", script=True, mode="eval")
def seq2seq_scripted():
    """Teacher forcing in a Loop whose length is an input, attention in its body."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.encoder = nn.Embedding(10, 6), nn.GRU(6, 8, batch_first=True)
            self.cell, self.out = Cell(14, 8), nn.Linear(16, 10)

        def forward(self, source, target, steps):
            memory, last = self.encoder(self.embed(source))
            h = last[0]
            out: List[torch.Tensor] = []
            for t in range(int(steps)):
                weights = torch.softmax(torch.bmm(memory, h.unsqueeze(2)).squeeze(2), 1)
                context = (weights.unsqueeze(2) * memory).sum(1)
                h = self.cell(torch.cat([self.embed(target[:, t]), context], 1), h)
                out.append(torch.log_softmax(self.out(torch.cat([h, context], 1)), 1))
            return torch.stack(out, 2)
    return Model(), lambda k: ({"source": tokens(10, 3, 5), "target": tokens(10, 3, 6), "steps": torch.tensor(3 + k)}, tokens(10, 3, 3 + k))


# --- convolutions -------------------------------------------------------------------------------

def image(n=4, c=3, size=10):
    return torch.randn(n, c, size, size)


class View(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.view(x.shape[0], *self.shape)


def classifier(*layers, channels, classes=4):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def images(model, n=4, c=3, size=10, classes=4):
    return model, lambda k: ({"x": image(n, c, size)}, tokens(classes, n))


@case()
def convnet_batch_norm():
    return images(classifier(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.3, eps=1e-3), nn.ReLU(), channels=8))


@case(fresh=True, weight=[1.0, 2.0, 0.5, 1.5])
def convnet_batch_norm_fresh():
    return images(classifier(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6), channels=6))


@case(mode="both", opset=13)
def convnet_batch_norm_of_inference():
    return images(classifier(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.1), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.1), channels=8))


@case(mode="eval")
def convnet_batch_norm_frozen():
    return images(classifier(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ELU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), channels=8))


@case(fold=False)
def convnet_group_norm():
    return images(classifier(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.GELU(), nn.Conv2d(6, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(8, 8), channels=8))


@case()
def convnet_group_norm_folded():
    return images(classifier(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.GELU(), nn.Conv2d(6, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), channels=8))


@case(opset=14)
def convnet_instance_norm():
    return images(nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.InstanceNorm2d(8, affine=True), nn.ELU(), nn.Flatten(), nn.Linear(72, 4)))


@case(opset=14, fresh=True)
def convnet_instance_norm_plain():
    return images(nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.InstanceNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(72, 4)))


@case(opset=16)
def convnet_layer_norm():
    return images(classifier(nn.Conv2d(3, 6, 3), nn.LayerNorm([6, 8, 8]), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.LayerNorm([6, 6], elementwise_affine=False), nn.Mish(), nn.Conv2d(8, 8, 3), channels=8))


@case(opset=13)
def convnet_local_response_norm():
    return images(classifier(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.LocalResponseNorm(3, alpha=0.1, beta=0.6, k=2.0), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.LocalResponseNorm(5), channels=8))


@case("mse")
def norms_1d_3d():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.an = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)
            self.b, self.bn = nn.Conv3d(2, 4, (2, 3, 3), stride=(1, 2, 1)), nn.BatchNorm3d(4)
            self.fc, self.fn, self.out = nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x, y):
            a = torch.tanh(self.an(self.a(x))).mean(2)
            b = F.softplus(self.bn(self.b(y))).mean((2, 3, 4))
            return self.out(torch.sigmoid(self.fn(self.fc(torch.cat([a, b], 1)))))
    return Model(), lambda k: ({"x": torch.randn(4, 4, 9), "y": torch.randn(4, 2, 4, 7, 5)}, torch.randn(4, 3))


@case("mse", fresh=True)
def batch_norm_no_affine_no_statistics():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.BatchNorm1d(6, affine=False), nn.BatchNorm1d(5, track_running_stats=False)
            self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.two(torch.tanh(self.b(self.one(self.a(x)))))
    return Model(), lambda k: ({"x": torch.randn(5, 6)}, torch.randn(5, 2))


@case()
def convs_of_every_kind():
    return images(classifier(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.SiLU(), nn.Conv2d(6, 8, 3, dilation=2, groups=2), nn.ReLU6(), nn.Conv2d(8, 8, (3, 1), padding=(1, 0)),
                             nn.Hardswish(), nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"),
                             nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.ConvTranspose2d(6, 8, 3, 2, 1, 1, groups=2), nn.MaxPool2d(3, 2, 1, ceil_mode=True), channels=8))


@case("bce_with_logits")
def autoencoder_transposed():
    model = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ELU(), nn.Conv2d(6, 8, 3, 2, 1), nn.SELU(), nn.Flatten(), nn.Linear(32, 5), nn.Tanh(), nn.Linear(5, 32), View(8, 2, 2),
                          nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.ConvTranspose2d(6, 1, 4, 2, 1, dilation=1))
    return model, lambda k: ({"x": torch.randn(4, 1, 8, 8)}, torch.rand(4, 1, 8, 8))


@case("l1")
def super_resolution():
    model = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.PReLU(8), nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(), nn.Conv2d(8, 4, 3, padding=1), nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.Conv2d(4, 4, 1), nn.PixelShuffle(2))
    return model, lambda k: ({"x": torch.randn(3, 1, 6, 6)}, torch.randn(3, 1, 12, 12))


@case("mse")
def upsamplings():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(5))

        def forward(self, x):
            x = torch.tanh(self.a(F.interpolate(x, scale_factor=2)))
            x = torch.tanh(self.b(F.interpolate(x, size=(9, 7), mode="bilinear")))
            x = torch.tanh(self.c(F.interpolate(x, size=(6, 11), mode="bilinear", align_corners=True)))
            x = torch.tanh(self.d(F.interpolate(x, scale_factor=1.5, mode="bicubic")))
            return self.e(F.interpolate(x, size=(5, 5)))
    return Model(), lambda k: ({"x": torch.randn(2, 2, 5, 4)}, torch.randn(2, 2, 5, 5))


@case("huber", delta=0.5)
def pools():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4 * (36 + 16 + 9 + 8 + 16), 3)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(torch.cat([y.flatten(1) for y in (F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 3, ceil_mode=True), F.adaptive_avg_pool2d(x, (3, 3)), F.adaptive_max_pool2d(x, (4, 2)), F.lp_pool2d(x.abs() + 0.1, 2, 3))], 1))
    return Model(), lambda k: ({"x": torch.randn(3, 2, 12, 12)}, 2 * torch.randn(3, 3))


@case(ignore_index=255, weight=[0.5, 1.0, 2.0])
def unet():
    class Block(nn.Sequential):
        def __init__(self, a, b):
            super().__init__(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down1, self.down2, self.middle = Block(1, 4), Block(4, 8), Block(8, 8)
            self.up2, self.up1, self.shrink = Block(16, 4), Block(8, 4), nn.ConvTranspose2d(8, 8, 2, 2)
            self.out = nn.Conv2d(4, 3, 1)

        def forward(self, x):
            a = self.down1(x)
            b = self.down2(F.max_pool2d(a, 2))
            c = self.middle(F.max_pool2d(b, 2))
            d = self.up2(torch.cat([self.shrink(c), b], 1))
            d = F.interpolate(d, scale_factor=2.0, mode="bilinear", align_corners=False)
            return self.out(self.up1(torch.cat([d, a], 1)))

    def batch(k):
        y = tokens(3, 2, 12, 12)
        y[torch.rand(2, 12, 12) < 0.2] = 255
        return {"x": image(2, 1, 12)}, y
    return UNet(), batch


@case("mse", opset=13, fold=False)
def tcn_weight_norm():
    class Block(nn.Module):
        def __init__(self, a, b, dilation):
            super().__init__()
            self.conv = nn.utils.weight_norm(nn.Conv1d(a, b, 3, dilation=dilation, padding=2 * dilation))
            self.trim, self.skip = 2 * dilation, nn.Conv1d(a, b, 1)

        def forward(self, x):
            return torch.tanh(self.conv(x)[:, :, :-self.trim] + self.skip(x))
    return nn.Sequential(Block(2, 4, 1), Block(4, 4, 2), Block(4, 6, 4), nn.Conv1d(6, 1, 1)), lambda k: ({"x": torch.randn(3, 2, 14)}, torch.randn(3, 1, 14))


@case()
def wavenet():
    class Gated(nn.Module):
        def __init__(self, dilation):
            super().__init__()
            self.both, self.out = nn.Conv1d(6, 12, 2, dilation=dilation), nn.Conv1d(6, 12, 1)
            self.dilation = dilation

        def forward(self, x):
            res, skip = self.out(F.glu(self.both(F.pad(x, (self.dilation, 0))), 1)).chunk(2, 1)
            return x + res, skip

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks, self.head = nn.Embedding(8, 6), nn.ModuleList(Gated(d) for d in (1, 2, 4)), nn.Conv1d(6, 8, 1)

        def forward(self, x):
            x, total = self.embed(x).transpose(1, 2), 0
            for b in self.blocks:
                x, skip = b(x)
                total = total + skip
            return self.head(F.relu(total))
    return Model(), lambda k: ({"x": tokens(8, 3, 12)}, tokens(8, 3, 12))


@case(fold=False)
def pixel_cnn():
    class Masked(nn.Conv2d):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            mask = torch.ones_like(self.weight)
            mask[:, :, 1, 2:], mask[:, :, 2:] = 0, 0
            self.register_buffer("mask", mask)

        def forward(self, x):
            return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)
    return nn.Sequential(Masked(1, 6, 3), nn.CELU(), Masked(6, 6, 3), nn.CELU(), nn.Conv2d(6, 5, 1)), lambda k: ({"x": image(3, 1, 6)}, tokens(5, 3, 6, 6))


@case("mse")
def activations():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fs = [F.relu, F.relu6, lambda x: F.elu(x, 0.7), F.selu, lambda x: F.celu(x, 1.3), F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh,
                       lambda x: F.leaky_relu(x, 0.2), F.softplus, lambda x: F.softplus(x, beta=2.0), F.softsign, F.logsigmoid, F.tanhshrink, F.softshrink, F.hardshrink, torch.sigmoid, torch.tanh, torch.erf, torch.exp,
                       lambda x: F.softmax(x, 1), lambda x: F.log_softmax(x, 0), lambda x: F.threshold(x, 0.0, 0.0), torch.sin, torch.atan, lambda x: torch.log1p(x * x), torch.sqrt, torch.rsqrt, lambda x: x.pow(2.5)]
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in self.fs)
            self.prelu, self.glu = nn.PReLU(4, 0.3), nn.Linear(4, 8)

        def forward(self, x):
            total = self.prelu(x) + F.glu(self.glu(x), 1)
            for layer, f in zip(self.layers, self.fs):
                y = layer(x)
                total = total + 0.3 * f(y * y + 0.1 if f in (torch.sqrt, torch.rsqrt) or f is self.fs[-1] else y)
            return total
    return Model(), lambda k: ({"x": torch.randn(5, 4)}, torch.randn(5, 4))


def of_torchvision(name, make, size=32, n=2, opset=17, fold=True, mode="train"):
    def f():
        return images(make(), n, 3, size, 4)
    f.__name__ = name
    case(opset=opset, fold=fold, mode=mode)(f)


models = torchvision.models


def half(net, channels):
    """A ResNet without its wide layers."""
    net.layer3, net.layer4, net.fc = nn.Identity(), nn.Identity(), nn.Linear(channels, 4)
    return net


of_torchvision("resnet", lambda: half(models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]), 128), n=4, size=16)
of_torchvision("resnext_bottleneck", lambda: half(models.resnet.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4), 512), opset=13, n=4, size=16)
of_torchvision("mobilenet_v2", lambda: models.MobileNetV2(4, 0.25, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]], dropout=0.0), n=4, opset=14)
of_torchvision("mobilenet_v3", lambda: models.MobileNetV3([models.mobilenetv3.InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1), models.mobilenetv3.InvertedResidualConfig(16, 5, 48, 24, True, "HS", 2, 1, 1)], 32, 4, dropout=0.0), n=4)
of_torchvision("densenet", lambda: models.DenseNet(6, (2, 2), 8, 2, num_classes=4), n=4)
of_torchvision("shufflenet", lambda: models.ShuffleNetV2([2, 2, 2], [8, 16, 24, 32, 32], 4), n=4, size=64)
of_torchvision("efficientnet", lambda: models.EfficientNet([models.efficientnet.MBConvConfig(1, 3, 1, 16, 8, 1), models.efficientnet.MBConvConfig(4, 5, 2, 8, 16, 2)], 0.0, stochastic_depth_prob=0.0, num_classes=4), n=4)
of_torchvision("squeezenet", lambda: nn.Sequential(*models.SqueezeNet("1_1").features[:5], nn.Conv2d(128, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), mode="eval")
of_torchvision("convnext", lambda: models.ConvNeXt([models.convnext.CNBlockConfig(12, 24, 1), models.convnext.CNBlockConfig(24, None, 1)], 0.0, num_classes=4))
of_torchvision("regnet", lambda: models.RegNet(models.regnet.BlockParams([1, 1], [8, 16], [4, 8], [1.0, 1.0], [2, 2], 0.25), 4, 8), n=4)
of_torchvision("vit", lambda: models.VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=4), size=16, fold=False)
of_torchvision("swin", lambda: models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.0, num_classes=4), opset=16, fold=False)


# --- transformers -------------------------------------------------------------------------------

class Encoder(nn.Module):
    def __init__(self, layers=2, causal=False, classes=6, **options):
        super().__init__()
        self.embed, self.position = nn.Embedding(12, 8), nn.Parameter(torch.randn(10, 8))
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options), layers)
        self.head, self.causal = nn.Linear(8, classes), causal

    def forward(self, tokens, lengths=None):
        x = self.embed(tokens) + self.position[:tokens.shape[1]]
        mask = torch.triu(torch.full((tokens.shape[1], tokens.shape[1]), float("-inf"), dtype=x.dtype), 1) if self.causal else None
        padding = None if lengths is None else ~present(lengths, tokens.shape[1])
        return self.head(self.layers(x, mask, padding))


@case(fold=False, ignore_index=0)
def encoder_post_norm_padded():
    return Encoder(), lambda k: ({"tokens": tokens(12, 3, 6), "lengths": lengths_of(3, 6)}, tokens(6, 3, 6))


@case(fold=False, opset=14)
def encoder_pre_norm_causal():
    return Encoder(norm_first=True, causal=True, activation="gelu"), lambda k: ({"tokens": tokens(12, 3, 6)}, tokens(6, 3, 6))


@case()
def encoder_folded():
    return Encoder(), lambda k: ({"tokens": tokens(12, 3, 10)}, tokens(6, 3, 10))


@case(fold=False, label_smoothing=0.2, ignore_index=0)
def transformer_whole():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(10, 8), nn.Embedding(11, 8)
            self.net = nn.Transformer(8, 2, 1, 2, 16, dropout=0.0, batch_first=True)
            self.head = nn.Linear(8, 11)

        def forward(self, source, target, lengths):
            n = target.shape[1]
            mask = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
            padding = ~present(lengths, source.shape[1])
            return self.head(self.net(self.source(source), self.target(target), tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding))
    return Model(), lambda k: ({"source": tokens(10, 3, 5), "target": tokens(11, 3, 4), "lengths": lengths_of(3, 5)}, tokens(11, 3, 4))


@case()
def attention_folded_in_pieces():
    """Queries of one thing, keys and values of another: the exporter cuts the joint weight."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, q, m):
            return self.head(self.attend(q, m, m)[0].mean(1))
    return Model(), lambda k: ({"q": torch.randn(3, 4, 8), "m": torch.randn(3, 5, 8)}, tokens(3, 3))


@case("mse", fold=False)
def attention_of_other_sizes():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, kdim=5, vdim=6, add_bias_kv=True)

        def forward(self, q, k, v, away):
            y, weights = self.attend(q, k, v, key_padding_mask=away)
            return y, weights
    return Model(), lambda k: ({"q": torch.randn(3, 2, 8), "k": torch.randn(4, 2, 5), "v": torch.randn(4, 2, 6), "away": torch.tensor([[False] * 4, [False, False, k > 1, True]])}, torch.randn(3, 2, 8))


class Attention(nn.Module):
    def __init__(self, size=8, heads=2):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x, bias):
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(x).split(d, 2))
        return self.out((torch.softmax(q @ k.transpose(2, 3) / math.sqrt(d // self.heads) + bias, 3) @ v).transpose(1, 2).reshape(b, t, d))


@case(dynamic={"tokens": {0: "batch", 1: "time"}})
def gpt_tied():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.n1, self.attend, self.n2, self.mlp = nn.LayerNorm(8), Attention(), nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 32), nn.GELU(approximate="tanh"), nn.Linear(32, 8))

        def forward(self, x, bias):
            x = x + self.attend(self.n1(x), bias)
            return x + self.mlp(self.n2(x))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.position, self.blocks, self.norm = nn.Embedding(12, 8), nn.Embedding(16, 8), nn.ModuleList(Block() for _ in range(2)), nn.LayerNorm(8)
            self.head = nn.Linear(8, 12, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            t = tokens.shape[1]
            x = self.embed(tokens) + self.position(torch.arange(t))
            bias = torch.zeros(t, t, dtype=x.dtype).masked_fill(torch.ones(t, t).tril() == 0, float("-inf"))
            for b in self.blocks:
                x = b(x, bias)
            return self.head(self.norm(x))
    return GPT(), lambda k: ({"tokens": tokens(12, 2, 5 + k)}, tokens(12, 2, 5 + k))


@case()
def llama():
    class RMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.n1, self.n2 = RMSNorm(), RMSNorm()
            self.q, self.k, self.v, self.o = nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False), nn.Linear(8, 8, bias=False)
            self.gate, self.up, self.down = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False), nn.Linear(12, 8, bias=False)

        def rotate(self, x):
            t, d = x.shape[2], x.shape[3]
            angle = torch.arange(t).to(x.dtype).unsqueeze(1) * torch.pow(torch.tensor(10000.0, dtype=x.dtype), -torch.arange(0, d, 2).to(x.dtype) / d)
            cos, sin = torch.cat([angle.cos()] * 2, 1), torch.cat([angle.sin()] * 2, 1)
            return x * cos + torch.cat([-x[..., d // 2:], x[..., :d // 2]], -1) * sin

        def forward(self, x):
            b, t, _ = x.shape
            y = self.n1(x)
            q = self.rotate(self.q(y).view(b, t, 2, 4).transpose(1, 2))
            k, v = (w(y).view(b, t, 1, 4).transpose(1, 2).expand(b, 2, t, 4) for w in (self.k, self.v))
            scores = torch.einsum("bhqd,bhkd->bhqk", q, self.rotate(k)) / 2 + torch.full((t, t), float("-inf"), dtype=x.dtype).triu(1)
            x = x + self.o(torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v).transpose(1, 2).reshape(b, t, 8))
            y = self.n2(x)
            return x + self.down(F.silu(self.gate(y)) * self.up(y))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks, self.norm, self.head = nn.Embedding(12, 8), nn.Sequential(Block(), Block()), RMSNorm(), nn.Linear(8, 12, bias=False)

        def forward(self, tokens):
            return self.head(self.norm(self.blocks(self.embed(tokens))))
    return Model(), lambda k: ({"tokens": tokens(12, 2, 6)}, tokens(12, 2, 6))


@case(opset=14)
def linear_attention_cumsum():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.q, self.k, self.v, self.head = nn.Embedding(10, 8), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 10)

        def forward(self, tokens):
            x = self.embed(tokens)
            q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
            total = torch.cumsum(torch.einsum("btd,bte->btde", k, v), 1)
            norm = torch.cumsum(k, 1)
            return self.head(torch.einsum("btd,btde->bte", q, total) / torch.einsum("btd,btd->bt", q, norm).unsqueeze(2))
    return Model(), lambda k: ({"tokens": tokens(10, 2, 6)}, tokens(10, 2, 6))


@case()
def relative_position_bias():
    """As T5 has it: buckets of distances, in a table of biases; ALiBi's slopes beside it."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.attend, self.bias, self.slope, self.head = nn.Embedding(10, 8), Attention(), nn.Embedding(5, 2), nn.Parameter(torch.tensor([0.5, 0.25])), nn.Linear(8, 10)

        def forward(self, tokens):
            i = torch.arange(tokens.shape[1])
            away = i.unsqueeze(0) - i.unsqueeze(1)
            x = self.embed(tokens)
            bias = self.bias(away.clamp(-2, 2) + 2).permute(2, 0, 1) - self.slope.view(2, 1, 1) * away.abs().to(x.dtype)
            return self.head(self.attend(x, bias))
    return Model(), lambda k: ({"tokens": tokens(10, 2, 6)}, tokens(10, 2, 6))


# --- gathered, scattered, chosen ----------------------------------------------------------------

@case()
def embedding_bags():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.sum, self.head = nn.EmbeddingBag(12, 6, mode="mean"), nn.EmbeddingBag(12, 6, mode="sum"), nn.Linear(12, 3)

        def forward(self, a, b, offsets):
            return self.head(torch.cat([self.mean(a), self.sum(b, offsets)], 1))
    return Model(), lambda k: ({"a": tokens(12, 3, 4), "b": tokens(12, 9), "offsets": torch.tensor([0, 2 + k % 2, 6])}, tokens(3, 3))


@case()
def mixture_of_experts():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.w1, self.w2, self.head = nn.Linear(6, 4), nn.Parameter(torch.randn(4, 6, 8) / 3), nn.Parameter(torch.randn(4, 8, 6) / 3), nn.Linear(6, 3)

        def forward(self, x):
            value, which = self.gate(x).topk(2, 1)
            weights = torch.zeros(x.shape[0], 4, dtype=x.dtype).scatter(1, which, value.softmax(1))
            y = torch.einsum("enh,ehd->end", torch.relu(torch.einsum("nd,edh->enh", x, self.w1)), self.w2)
            return self.head(torch.einsum("ne,end->nd", weights, y))
    return Model(), lambda k: ({"x": torch.randn(6, 6)}, tokens(3, 6))


@case()
def experts_gathered():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.experts, self.head = nn.Linear(6, 4), nn.Parameter(torch.randn(4, 6, 5)), nn.Linear(5, 3)

        def forward(self, x):
            value, which = self.gate(x).softmax(1).topk(2, 1)
            y = torch.matmul(x.unsqueeze(1).unsqueeze(1), self.experts[which]).squeeze(2)
            return self.head((value.unsqueeze(2) * y).sum(1))
    return Model(), lambda k: ({"x": torch.randn(6, 6)}, tokens(3, 6))


@case("nll", opset=16)
def graph_convolution():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.edge, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(16, 1), nn.Linear(8, 3)

        def forward(self, x, source, target):
            h = torch.relu(self.a(x))
            index = target.unsqueeze(1).expand(-1, 8)
            h = h + torch.zeros_like(h).scatter_add(0, index, self.b(h[source]))
            score = torch.exp(F.leaky_relu(self.edge(torch.cat([h[source], h[target]], 1)), 0.2))
            total = torch.zeros(x.shape[0], 1, dtype=x.dtype).scatter_add(0, target.unsqueeze(1), score)
            h = torch.zeros_like(h).scatter_add(0, index, h[source] * score / total[target])
            return F.log_softmax(self.head(h), 1)
    return Model(), lambda k: ({"x": torch.randn(7, 5), "source": tokens(7, 12), "target": tokens(7, 12)}, tokens(3, 7))


@case()
def point_net():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.align = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU())
            self.turn, self.net = nn.Linear(8, 9), nn.Sequential(nn.Conv1d(3, 12, 1), nn.BatchNorm1d(12), nn.ReLU())
            self.head = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x):
            turn = self.turn(self.align(x).max(2)[0]).view(-1, 3, 3) + torch.eye(3, dtype=x.dtype)
            return self.head(self.net(torch.bmm(turn, x)).max(2)[0])
    return Model(), lambda k: ({"x": torch.randn(5, 3, 9)}, tokens(3, 5))


@case("mse")
def sorted_and_indexed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 4)

        def forward(self, x, i):
            y = torch.sort(self.a(x), 1)[0]
            z = self.b(x)
            z = torch.where(z > 0, z.gather(1, i), z.flip(1).roll(1, 1))
            z = z.masked_fill(i == 0, 0.5)
            w = torch.cat([y[:, ::2], z[:, 1:4], torch.stack(z.unbind(1)[:3], 1) * y.min(1, keepdim=True)[0], (z - y).norm(dim=1, keepdim=True).expand(-1, 3)], 1)
            return self.c(w)
    return Model(), lambda k: ({"x": torch.randn(4, 6), "i": tokens(6, 4, 6)}, torch.randn(4, 4))


@case("mse")
def reductions():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(11, 2)

        def forward(self, x):
            x = self.a(x)
            parts = [x.sum(1), x.mean(2), x.prod(1), x.max(1)[0], x.min(2)[0], x.norm(dim=1), x.norm(p=1, dim=2), x.std(1), x.var(2, unbiased=False), x.logsumexp(1), torch.cumsum(x, 1)[:, -2], torch.log_softmax(x, 2).sum(1)]
            return self.b(torch.tanh(torch.stack([p.mean(1) for p in parts[:8]] + [p.amax(1) for p in parts[8:11]], 1) + 0.1 * parts[11].sum(1, keepdim=True)))
    return Model(), lambda k: ({"x": torch.randn(4, 3, 4)}, torch.randn(4, 2))


@case("mse")
def spatial_transformer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.where, self.conv = nn.Linear(64, 6), nn.Conv2d(1, 2, 3)

        def forward(self, x):
            theta = 0.2 * self.where(x.flatten(1)).view(-1, 2, 3) + torch.tensor([[0.9, 0.1, 0.05], [-0.1, 0.8, 0.1]], dtype=x.dtype)
            line = torch.linspace(-0.95, 0.95, 8, dtype=x.dtype)
            points = torch.stack([line.repeat(8), line.repeat_interleave(8), torch.ones(64, dtype=x.dtype)], 1)
            grid = torch.matmul(points, theta.transpose(1, 2)).view(-1, 8, 8, 2)
            return self.conv(F.grid_sample(x, grid, align_corners=False, padding_mode="border"))
    return Model(), lambda k: ({"x": torch.randn(3, 1, 8, 8)}, torch.randn(3, 2, 6, 6))


# --- control flow -------------------------------------------------------------------------------

@case("mse", script=True, mode="eval")
def loop_trip_count():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.into = nn.Linear(4, 4), nn.Linear(3, 4)

        def forward(self, x, n):
            h = torch.zeros(x.shape[0], 4, dtype=x.dtype)
            for i in range(int(n)):
                h = torch.tanh(self.step(h) + self.into(x)) + 0.1 * float(i)
            return h
    return Model(), lambda k: ({"x": torch.randn(3, 3), "n": torch.tensor(1 + 2 * k)}, torch.randn(3, 4))


@case("mse", script=True, mode="eval", opset=14)
def loop_while_large():
    """As long as the sum is large: the number of turns hangs on the data and on the weights."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = x
            while bool(h.abs().sum() > 4.0):
                h = 0.6 * torch.tanh(self.w(h)) * h + 0.3 * h
            return self.out(h)
    return Model(), lambda k: ({"x": 2.0 ** (k + 1) * torch.randn(3, 4)}, torch.randn(3, 2))


@case(script=True, mode="eval", dynamic={"tokens": {1: "time"}})
def loop_over_tokens():
    """A recurrent network written out in a script, over a time that changes, its outputs gathered in a list."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.gates, self.head = nn.Embedding(9, 5), nn.Linear(11, 24), nn.Linear(6, 9)

        def forward(self, tokens):
            x = self.embed(tokens)
            h = torch.zeros(x.shape[0], 6, dtype=x.dtype)
            c = torch.zeros(x.shape[0], 6, dtype=x.dtype)
            out: List[torch.Tensor] = []
            for t in range(x.shape[1]):
                i, f, g, o = self.gates(torch.cat([x[:, t], h], 1)).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                out.append(self.head(h))
            return torch.stack(out, 1)
    return Model(), lambda k: ({"tokens": tokens(9, 3, 3 + k)}, tokens(9, 3, 3 + k))


@case("mse", script=True, mode="eval")
def loops_nested_with_if():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, n, m):
            for i in range(int(n)):
                y = x
                for j in range(int(m)):
                    if j % 2 == 0:
                        y = torch.tanh(self.a(y))
                    else:
                        y = torch.sigmoid(self.b(y)) * x
                if bool(y.mean() > 0):
                    x = x + self.c(y)
                else:
                    x = x - y
            return x
    return Model(), lambda k: ({"x": torch.randn(3, 4), "n": torch.tensor(1 + k % 3), "m": torch.tensor(1 + k)}, torch.randn(3, 4))


@case(script=True, mode="eval", opset=13)
def mixture_of_branches():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)), nn.Linear(5, 3)

        def forward(self, x):
            if bool(x[0, 0] > 0):
                if bool(x[0, 1] > 0):
                    y = self.a(x)
                else:
                    y = self.b(x).tanh()
            else:
                y = self.c(x) * x.sum(1, keepdim=True)
            return self.head(y)

    def batch(k):
        x = torch.randn(4, 4)
        x[0, 0], x[0, 1] = (1.0, -1.0)[k // 2], (1.0, -1.0)[k % 2]
        return {"x": x}, tokens(3, 4)
    return Model(), batch


@case("l1", script=True, mode="eval")
def adaptive_computation():
    """Halts when enough has been accumulated, with what is left as the last weight."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.halt, self.out = Cell(4, 5), nn.Linear(5, 1), nn.Linear(5, 2)

        def forward(self, x):
            h = torch.zeros(x.shape[0], 5, dtype=x.dtype)
            total = torch.zeros(x.shape[0], 1, dtype=x.dtype)
            y = torch.zeros(x.shape[0], 5, dtype=x.dtype)
            n = 0
            while n < 6 and bool(total.min() < 0.9):
                h = self.step(x, h)
                p = torch.min(0.4 * torch.sigmoid(self.halt(h)), 1.0 - total)
                y = y + p * h
                total = total + p
                n += 1
            return self.out(y), total
    return Model(), lambda k: ({"x": torch.randn(3, 4)}, torch.randn(3, 2))


class Feedback(nn.Module):
    """N hidden layers that all feed back, as models/feedback has them, with gates and biases."""
    def __init__(self):
        super().__init__()
        self.into, self.own, self.up, self.back, self.head = nn.Linear(5, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 4), nn.Linear(4, 6, bias=False), nn.Linear(4, 4)

    def forward(self, x, steps):
        h = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        o = torch.zeros(x.shape[0], 4, dtype=x.dtype)
        for _ in range(int(steps)):
            above = torch.sigmoid(self.up(h) + self.head(o))
            h = torch.tanh(self.into(x) + self.own(h) + self.back(o))
            o = above
        return o, h


@case("mse", script=True, mode="eval")
def feedback_loop():
    return Feedback(), lambda k: ({"x": torch.randn(4, 5), "steps": torch.tensor(2 + 3 * k)}, torch.rand(4, 4))


@case("mse", script=True, mode="eval", fold=False)
def deep_equilibrium():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.u, self.norm, self.out = nn.Linear(5, 5, bias=False), nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2)

        def forward(self, x):
            z = torch.zeros(x.shape[0], 5, dtype=x.dtype)
            u = self.u(x)
            moved, n = True, 0
            while moved and n < 30:
                after = self.norm(torch.tanh(0.3 * self.w(z) + u))
                moved = bool((after - z).abs().max() > 1e-2)
                z = after
                n += 1
            return self.out(z)
    return Model(), lambda k: ({"x": torch.randn(3, 3)}, torch.randn(3, 2))


# --- others -------------------------------------------------------------------------------------

@case("mse")
def vae_with_noise():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.mu, self.log, self.decoder = nn.Linear(8, 10), nn.Linear(10, 3), nn.Linear(10, 3), nn.Sequential(nn.Linear(3, 10), nn.Softplus(), nn.Linear(10, 8))

        def forward(self, x, noise):
            h = F.silu(self.encoder(x))
            mu, log = self.mu(h), self.log(h).clamp(-3, 3)
            y = self.decoder(mu + noise * torch.exp(0.5 * log))
            return torch.cat([y, 0.1 * (log.exp() + mu * mu - log)], 1)
    return VAE(), lambda k: ({"x": torch.randn(5, 8), "noise": torch.randn(5, 3)}, torch.randn(5, 11))


@case("l1")
def mixture_density():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 12))

        def forward(self, x, y):
            pi, mu, log = self.net(x).chunk(3, 1)
            return -torch.logsumexp(F.log_softmax(pi, 1) - log - 0.5 * ((y - mu) / log.exp()) ** 2, 1)
    return Model(), lambda k: ({"x": torch.randn(6, 2), "y": torch.randn(6, 1)}, torch.zeros(6))


@case("mse")
def conditional_random_field():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.emit, self.move = nn.Embedding(9, 5), nn.LSTM(5, 4, batch_first=True, bidirectional=True), nn.Linear(8, 4), nn.Parameter(torch.randn(4, 4))

        def forward(self, tokens, tags):
            e = self.emit(self.lstm(self.embed(tokens))[0])
            score = e.gather(2, tags.unsqueeze(2)).squeeze(2).sum(1) + self.move[tags[:, :-1], tags[:, 1:]].sum(1)
            alpha = e[:, 0]
            for t in range(1, e.shape[1]):
                alpha = torch.logsumexp(alpha.unsqueeze(2) + self.move, 1) + e[:, t]
            return torch.logsumexp(alpha, 1) - score
    return Model(), lambda k: ({"tokens": tokens(9, 3, 5), "tags": tokens(4, 3, 5)}, torch.zeros(3))


@case("bce_with_logits")
def factorisation_machine():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.first, self.deep = nn.Embedding(20, 4), nn.Embedding(20, 1), nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, i):
            v = self.embed(i)
            pairs = 0.5 * (v.sum(1).pow(2) - v.pow(2).sum(1)).sum(1, keepdim=True)
            return self.first(i).sum(1) + pairs + self.deep(v.flatten(1))
    return Model(), lambda k: ({"i": tokens(20, 6, 3)}, torch.randint(0, 2, (6, 1)).float())


@case("mse", narrow=True)
def siamese_cosine():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))

        def forward(self, a, b):
            a, b = self.net(a), self.net(b)
            return torch.stack([F.cosine_similarity(a, b, 1), (F.normalize(a, dim=1) - F.normalize(b, p=1.0, dim=1)).pow(2).sum(1), F.pairwise_distance(a, b)], 1)
    return Model(), lambda k: ({"a": torch.randn(4, 6), "b": torch.randn(4, 6)}, torch.randn(4, 3))


@case("mse", mode="eval", fold=False)
def spectral_norm():
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 8)), nn.LeakyReLU(0.1), nn.utils.spectral_norm(nn.Linear(8, 3))), lambda k: ({"x": torch.randn(5, 6)}, torch.randn(5, 3))


@case("mse")
def neural_ode():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

        def forward(self, y):
            h = 0.2
            for i in range(4):
                g = lambda t, y: self.f(torch.cat([y, torch.full((y.shape[0], 1), t, dtype=y.dtype)], 1))
                k1 = g(h * i, y)
                k2 = g(h * i + h / 2, y + h / 2 * k1)
                k3 = g(h * i + h / 2, y + h / 2 * k2)
                y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + g(h * i + h, y + h * k3))
            return y
    return Model(), lambda k: ({"y": torch.randn(4, 3)}, torch.randn(4, 3))


@case("mse")
def siren_of_fourier_features():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("b", torch.randn(2, 6))
            self.a, self.c, self.out = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            x = x @ self.b
            x = torch.cat([x.sin(), x.cos()], 1)
            return self.out(torch.sin(3 * self.c(torch.sin(3 * self.a(x)))))
    return Model(), lambda k: ({"x": torch.randn(7, 2)}, torch.randn(7, 1))


@case()
def squeeze_excite_highway():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.down, self.up, self.h, self.t, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            x = F.hardswish(self.conv(x))
            x = (x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))).mean((2, 3))
            t = torch.sigmoid(self.t(x))
            return self.head(t * F.mish(self.h(x)) + (1 - t) * x)
    return images(Model())


@case("mse", fold=False)
def kernel_regression():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.centres, self.width, self.value = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.randn(6, 2))

        def forward(self, x):
            d = (x.unsqueeze(1) - self.centres).pow(2).sum(2)
            return torch.softmax(-d * self.width.exp(), 1) @ self.value + torch.tensordot(x, self.value[:3], ([1], [0]))
    return Model(), lambda k: ({"x": torch.randn(5, 3)}, torch.randn(5, 2))


@case("mse")
def capsules():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(0.3 * torch.randn(6, 3, 4, 5))

        def forward(self, u):
            hat = torch.einsum("bid,ijdk->bijk", u, self.w)
            b = torch.zeros(u.shape[0], 6, 3, dtype=u.dtype)
            for r in range(3):
                s = (torch.softmax(b, 2).unsqueeze(3) * hat).sum(1)
                n = s.pow(2).sum(2, keepdim=True)
                v = s * n / (1 + n) / torch.sqrt(n + 1e-8)
                b = b + (hat * v.unsqueeze(1)).sum(3)
            return v.norm(dim=2)
    return Model(), lambda k: ({"u": torch.randn(3, 6, 4)}, torch.rand(3, 3))


@case()
def hypernetwork():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.maker, self.head = nn.Linear(5, 2 * 3 * 9), nn.Linear(2, 4)

        def forward(self, x, z):
            w = self.maker(z).view(-1, 3, 3, 3)
            y = F.conv2d(x.reshape(1, -1, 8, 8), w, groups=x.shape[0])
            return self.head(torch.relu(y.view(x.shape[0], 2, 6, 6)).mean((2, 3)))
    return Model(), lambda k: ({"x": torch.randn(3, 3, 8, 8), "z": torch.randn(3, 5)}, tokens(4, 3))


@case("nll", weight=[1.0, 0.3, 2.0], ignore_index=1, fresh=True)
def plain_mlp_fresh():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Hardtanh(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Softsign(), nn.Linear(8, 3), nn.LogSoftmax(1))

        def forward(self, x):
            return self.net(x)
    return Model(), lambda k: ({"x": torch.randn(6, 6)}, tokens(3, 6))
