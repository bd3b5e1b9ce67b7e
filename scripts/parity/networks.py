"""The networks of the parity suite: each a module, the batches it trains on and the loss, in the ways in which people write and export them."""
import math
from typing import List

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CASES = {}


def case(loss="cross_entropy", *, opset=17, mode="train", fold=True, script=False, fresh=False, dynamic=None, narrow=False, straight=False, keep=False, **of_loss):
    """Registers a function that gives a module and a function of k that gives the inputs of batch k by name, and its target.

    mode is how the module trains and how it is exported: train, eval, or both: exported in eval mode, then trained. Parameters
    are moved from what they begin with, so that none are alike, unless fresh. narrow is for modules that the exporter writes wrongly in float64, straight for such
    as train through quantization. keep is the exporter's keep_initializers_as_inputs.
    """
    def add(make):
        CASES[make.__name__] = {"make": make, "loss": {"kind": loss, **of_loss}, "opset": opset, "mode": mode, "fold": fold,
                                "script": script, "fresh": fresh, "dynamic": dynamic, "narrow": narrow, "straight": straight, "keep": keep}
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


# --- whole models of further kinds --------------------------------------------------------------

@case(dynamic={"x": {0: "batch", 1: "time"}, "lengths": {0: "batch"}})
def tagger_char_cnn_bilstm():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.chars, self.conv = nn.Embedding(12, 5, padding_idx=0), nn.Conv1d(5, 6, 3, padding=1)
            self.words = nn.Embedding(20, 6)
            self.lstm, self.head = nn.LSTM(12, 7, 2, batch_first=True, bidirectional=True), nn.Linear(14, 5)

        def forward(self, words, chars, lengths):
            b, t, n = chars.shape
            c = self.conv(self.chars(chars.reshape(b * t, n)).transpose(1, 2)).max(2)[0].view(b, t, -1)
            x = torch.cat([self.words(words), c], 2)
            p = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            z = torch.zeros(4, b, 7, dtype=x.dtype)
            y, _ = self.lstm(p, (z, z))
            y, _ = pad_packed_sequence(y, batch_first=True, total_length=t)
            return self.head(y)
    return Model(), lambda k: ({"words": tokens(20, 3, 5), "chars": tokens(12, 3, 5, 4), "lengths": lengths_of(3, 5)}, tokens(5, 3, 5))


@case(script=True, mode="eval", opset=15)
def pointer_network():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc = nn.LSTM(2, 6, batch_first=True)
            self.cell = Cell(2, 6)
            self.q, self.k, self.v = nn.Linear(6, 6, bias=False), nn.Linear(6, 6), nn.Linear(6, 1, bias=False)
            self.start = nn.Parameter(torch.randn(2))

        def forward(self, x, target):
            mem, hc = self.enc(x)
            h = hc[0][0]
            b, n = x.shape[0], x.shape[1]
            given = self.start.unsqueeze(0).expand(b, 2)
            keys = self.k(mem)
            mask = torch.zeros(b, n, dtype=x.dtype)
            out: List[torch.Tensor] = []
            for t in range(target.shape[1]):
                h = self.cell(given, h)
                sc = self.v(torch.tanh(self.q(h).unsqueeze(1) + keys)).squeeze(2) - 5.0 * mask
                out.append(sc)
                i = target[:, t]
                mask = mask.scatter(1, i.unsqueeze(1), 1.0)
                given = torch.gather(x, 1, i.view(-1, 1, 1).expand(b, 1, 2)).squeeze(1)
            return torch.stack(out, 1)

    def batch(k):
        y = torch.stack([torch.randperm(5) for _ in range(3)])
        return {"x": torch.randn(3, 5, 2), "target": y}, y
    return Model(), batch


@case("mse")
def conv_lstm():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.g, self.out = nn.Conv2d(2 + 3, 12, 3, padding=1), nn.Conv2d(3, 1, 1)
            self.ci, self.cf, self.co = (nn.Parameter(torch.randn(1, 3, 6, 6)) for _ in range(3))

        def forward(self, x):
            b = x.shape[0]
            h = torch.zeros(b, 3, 6, 6, dtype=x.dtype)
            c = torch.zeros_like(h)
            for t in range(x.shape[1]):
                i, f, g, o = torch.split(self.g(torch.cat([x[:, t], h], 1)), 3, 1)
                i, f = torch.sigmoid(i + self.ci * c), torch.sigmoid(f + self.cf * c)
                c = f * c + i * torch.tanh(g)
                h = torch.sigmoid(o + self.co * c) * torch.tanh(c)
            return self.out(h)
    return Model(), lambda k: ({"x": torch.randn(2, 4, 2, 6, 6)}, torch.randn(2, 1, 6, 6))


@case("mse", script=True, mode="eval", narrow=True)
def loop_break_continue():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            tot = torch.zeros_like(x)
            for i in range(10):
                x = 0.8 * torch.tanh(self.a(x))
                if i % 3 == 1:
                    continue
                tot = tot + x
                if bool(x.abs().max() < 0.3):
                    break
            return self.b(tot)
    return Model(), lambda k: ({"x": torch.randn(3, 4)}, torch.randn(3, 2))


@case(script=True, mode="eval")
def early_exit():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.ha, self.b, self.hb = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            h = torch.relu(self.a(x))
            y = self.ha(h)
            if bool(torch.softmax(y, 1).max() < 0.8):
                y = y + self.hb(torch.relu(self.b(h)))
            return y
    return Model(), lambda k: ({"x": (0.3 + k) * torch.randn(4, 6)}, tokens(3, 4))


@case(dynamic={"t": {0: "b", 1: "s"}})
def gpt_rotary_interleaved_mqa():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.q, self.k, self.v, self.o, self.n, self.h = nn.Embedding(11, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False), nn.Linear(8, 8), nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 11)
            f = torch.outer(torch.arange(16.0), 1 / 100 ** (torch.arange(0, 4, 2).float() / 4))
            self.register_buffer("cos", f.cos())
            self.register_buffer("sin", f.sin())

        def rot(self, x):
            t = x.shape[-2]
            a, b = x[..., ::2], x[..., 1::2]
            c, d = self.cos[:t], self.sin[:t]
            return torch.stack([a * c - b * d, a * d + b * c], -1).flatten(-2)

        def forward(self, t):
            x = self.e(t)
            b, n = t.shape
            y = self.n(x)
            q = self.rot(self.q(y).view(b, n, 2, 4).transpose(1, 2))
            k = self.rot(self.k(y).view(b, n, 1, 4).transpose(1, 2))
            v = self.v(y).view(b, n, 1, 4).transpose(1, 2)
            m = torch.ones(n, n, dtype=torch.bool).tril()
            w = (q @ k.transpose(-1, -2) / 2).masked_fill(~m, torch.finfo(x.dtype).min).softmax(-1)
            return self.h(x + self.o((w @ v).transpose(1, 2).reshape(b, n, 8)))
    return Model(), lambda k: ({"t": tokens(11, 2, 6)}, tokens(11, 2, 6))


@case(opset=14, dynamic={"t": {0: "b", 1: "s"}, "pk": {2: "p"}, "pv": {2: "p"}})
def kv_cache_decoder():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.qkv, self.o, self.h = nn.Embedding(11, 8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.h.weight = self.e.weight

        def forward(self, t, pk, pv):
            x = self.e(t)
            b, n = t.shape
            p = pk.shape[2]
            q, k, v = (y.view(b, n, 2, 4).transpose(1, 2) for y in self.qkv(x).chunk(3, 2))
            k, v = torch.cat([pk, k], 2), torch.cat([pv, v], 2)
            i = torch.arange(n).unsqueeze(1) + p
            j = torch.arange(n + p).unsqueeze(0)
            w = (q @ k.transpose(2, 3) * 0.5 + torch.where(j <= i, 0.0, -1e4).to(x.dtype)).softmax(3)
            return self.h(x + self.o((w @ v).transpose(1, 2).flatten(2))), k, v
    return Model(), lambda k: ({"t": tokens(11, 2, 3), "pk": torch.randn(2, 2, 2 + k, 4), "pv": torch.randn(2, 2, 2 + k, 4)}, tokens(11, 2, 3))


@case(opset=16)
def bert_like_mlm():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.p, self.ty, self.n = nn.Embedding(13, 8, padding_idx=0), nn.Embedding(10, 8), nn.Embedding(2, 8), nn.LayerNorm(8, eps=1e-12)
            self.q, self.k, self.v, self.o, self.n1 = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
            self.f1, self.f2, self.n2 = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)
            self.t, self.tn, self.bias = nn.Linear(8, 8), nn.LayerNorm(8), nn.Parameter(torch.zeros(13))
            self.register_buffer("pos", torch.arange(10).unsqueeze(0))

        def forward(self, ids, mask, types):
            b, t = ids.shape
            x = self.n(self.w(ids) + self.p(self.pos[:, :t]) + self.ty(types))
            m = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10000.0
            q, k, v = (l(x).view(b, t, 2, 4).permute(0, 2, 1, 3) for l in (self.q, self.k, self.v))
            w = F.softmax(torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(4) + m, -1)
            x = self.n1(x + self.o(torch.matmul(w, v).permute(0, 2, 1, 3).contiguous().view(b, t, 8)))
            x = self.n2(x + self.f2(F.gelu(self.f1(x))))
            pooled = torch.tanh(self.t(x[:, 0]))
            return F.linear(self.tn(F.gelu(self.t(x))), self.w.weight, self.bias), pooled

    def batch(k):
        l = lengths_of(3, 6)
        y = tokens(13, 3, 6)
        y[torch.rand(3, 6) < 0.5] = -100
        y[0, 0] = 3
        return {"ids": tokens(13, 3, 6), "mask": present(l, 6).long(), "types": tokens(2, 3, 6)}, y
    return Model(), batch


@case()
def cross_attention_perceiver():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lat = nn.Parameter(torch.randn(4, 8))
            self.inp = nn.Linear(5, 8)
            self.x, self.s, self.h = nn.MultiheadAttention(8, 2, batch_first=True), nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)
            self.n1, self.n2 = nn.LayerNorm(8), nn.LayerNorm(8)

        def forward(self, x):
            m = self.inp(x)
            l = self.lat.unsqueeze(0).expand(x.shape[0], -1, -1)
            l = l + self.x(self.n1(l), m, m)[0]
            y = self.n2(l)
            l = l + self.s(y, y, y, need_weights=False)[0]
            return self.h(l.mean(1))
    return Model(), lambda k: ({"x": torch.randn(3, 7, 5)}, tokens(3, 3))


@case(opset=13, fold=False)
def swin_window_roll():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.pe, self.qkv, self.o, self.n, self.merge, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(32, 12, bias=False), nn.Linear(12, 4)
            self.tab = nn.Parameter(torch.randn(9, 2))
            c = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
            r = (c[:, :, None] - c[:, None] + 1).permute(1, 2, 0)
            self.register_buffer("idx", r[..., 0] * 3 + r[..., 1])

        def win(self, x, shift):
            b, h, w, c = x.shape
            if shift:
                x = torch.roll(x, (-1, -1), (1, 2))
            y = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
            q, k, v = self.qkv(y).view(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
            a = q * 0.5 @ k.transpose(-2, -1) + self.tab[self.idx.view(-1)].view(4, 4, 2).permute(2, 0, 1).unsqueeze(0)
            y = self.o((a.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, c))
            y = y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
            return torch.roll(y, (1, 1), (1, 2)) if shift else y

        def forward(self, x):
            x = self.pe(x).permute(0, 2, 3, 1)
            for sh in (0, 1):
                x = x + self.win(self.n(x), sh)
            x = self.merge(torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1))
            return self.head(x.mean((1, 2)))
    return images(Model(), 2, 3, 8)


@case("mse")
def interpolations_all():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(5))
            self.l, self.v = nn.Conv1d(2, 2, 3, padding=1), nn.Conv3d(2, 2, 1)

        def forward(self, x, y, z):
            x = torch.tanh(self.c[0](F.interpolate(x, size=(7, 9), mode="bicubic", align_corners=True)))
            x = torch.tanh(self.c[1](F.interpolate(x, scale_factor=(0.5, 2.0), mode="nearest")))
            x = torch.tanh(self.c[2](F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)))
            x = torch.tanh(self.c[3](F.interpolate(x, scale_factor=0.7, mode="bilinear", recompute_scale_factor=True)))
            x = torch.tanh(self.c[4](F.interpolate(x, size=(4, 4), mode="bilinear")))
            y = self.l(F.interpolate(y, scale_factor=2, mode="linear"))
            z = self.v(F.interpolate(z, size=(3, 4, 5), mode="trilinear", align_corners=False))
            return x.flatten(1).mean(1) + y.flatten(1).mean(1) + z.flatten(1).mean(1), x, y, z
    return Model(), lambda k: ({"x": torch.randn(2, 2, 5, 4), "y": torch.randn(2, 2, 5), "z": torch.randn(2, 2, 2, 3, 4)}, torch.randn(2))


@case("mse")
def transposed_1d_2d_3d():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.ConvTranspose1d(4, 6, 4, 3, 1, output_padding=2, groups=2), nn.ConvTranspose2d(3, 4, (3, 2), (2, 3), (1, 0), output_padding=(1, 2), dilation=(2, 1)), nn.ConvTranspose3d(2, 3, 2, 2, output_padding=1, bias=False)

        def forward(self, x, y, z):
            return torch.cat([self.a(x).flatten(1).tanh()[:, :20], self.b(y).flatten(1).tanh()[:, :50], self.c(z).flatten(1).tanh()[:, 30:90]], 1)
    return Model(), lambda k: ({"x": torch.randn(2, 4, 5), "y": torch.randn(2, 3, 4, 3), "z": torch.randn(2, 2, 3, 2, 3)}, torch.randn(2, 130))


@case("mse", opset=13)
def pools_1d_3d_ceil():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(2, 3, 3), nn.Conv3d(1, 2, 2)
            self.f = nn.LazyLinear(3)

        def forward(self, x, z):
            x, z = self.a(x), self.b(z)
            p = [F.max_pool1d(x, 3, 2, 1, ceil_mode=True), F.avg_pool1d(x, 3, 2, 1, ceil_mode=True), F.avg_pool1d(x, 4, 3, 1, count_include_pad=False), F.adaptive_avg_pool1d(x, 2), F.adaptive_max_pool1d(x, 4), F.lp_pool1d(x.abs() + .1, 3, 2),
                 F.max_pool3d(z, 2, 2, ceil_mode=True), F.avg_pool3d(z, 3, 2, 1), F.adaptive_avg_pool3d(z, (1, 2, 1)), F.adaptive_max_pool3d(z, (2, 1, 1)), F.max_pool3d(z, 2, 1, dilation=2)]
            return self.f(torch.cat([y.flatten(1) for y in p], 1))
    m = Model()
    m(torch.randn(3, 2, 14), torch.randn(3, 1, 5, 5, 5))
    return m, lambda k: ({"x": torch.randn(3, 2, 14), "z": torch.randn(3, 1, 5, 5, 5)}, torch.randn(3, 3))


@case("mse", opset=16, fold=False)
def norm_variants():
    class RMS(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.g = nn.Parameter(torch.ones(n))

        def forward(self, x):
            return F.normalize(x, dim=-1) * self.g * x.shape[-1] ** 0.5

    class RMS2(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.g = nn.Parameter(torch.ones(n))

        def forward(self, x):
            v = x.pow(2).mean(-1, keepdim=True)
            return x / (v + 1e-5).sqrt() * (1 + self.g)

    class Ada(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(3, 16)

        def forward(self, x, z):
            a, b = self.l(z).chunk(2, 1)
            return F.layer_norm(x, (8,)) * (1 + a) + b

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d, self.l, self.o = RMS(8), RMS2(8), Ada(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x, z):
            x = self.a(self.l(x))
            x = x + torch.tanh(self.b(x))
            x = self.c(x, z)
            std, mean = torch.std_mean(x, -1, keepdim=True)
            return self.o(self.d((x - mean) / (std + 1e-3)))
    return Model(), lambda k: ({"x": torch.randn(4, 8), "z": torch.randn(4, 3)}, torch.randn(4, 2))


@case()
def einsum_heavy():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Parameter(torch.randn(4, 2, 3) / 2), nn.Parameter(torch.randn(4, 2, 3) / 2), nn.Parameter(torch.randn(2, 3, 5) / 2), nn.Parameter(torch.randn(5, 3))
            self.u = nn.Parameter(torch.randn(4, 4) / 2)

        def forward(self, x):
            q, k = torch.einsum("btd,dhk->bhtk", x, self.a), torch.einsum("b t d, d h k -> b h t k", x, self.b)
            w = torch.einsum("bhik,bhjk->bhij", q, k).softmax(-1)
            y = torch.einsum("bhij,bhjk,hko->bio", w, k, self.c)
            z = torch.einsum("bi,ij,bj->b", x[:, 0], self.u, x[:, 1])
            return torch.einsum("bio,oc->bc", y, self.d) + z.unsqueeze(1) * torch.einsum("...o->...", y.mean(1)).unsqueeze(1)
    return Model(), lambda k: ({"x": torch.randn(3, 4, 4)}, tokens(3, 3))


@case("mse", opset=16, dynamic={"x": {0: "n"}})
def moe_nonzero_index_add():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.g, self.a, self.b = nn.Linear(5, 2), nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x):
            p = self.g(x).softmax(1)
            i = p.argmax(1)
            out = torch.zeros(x.shape[0], 4, dtype=x.dtype)
            for e, net in enumerate((self.a, self.b)):
                at = torch.nonzero(i == e).squeeze(1)
                out = out.index_put((at,), net(x[at]) * p[at, e].unsqueeze(1))
            return out
    return Model(), lambda k: ({"x": torch.randn(6, 5)}, torch.randn(6, 4))


@case("nll", opset=16)
def gat_edge_softmax():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.a, self.o = nn.Linear(4, 6, bias=False), nn.Parameter(torch.randn(2, 6)), nn.Linear(6, 3)

        def forward(self, x, e):
            h = self.w(x).view(-1, 2, 3)
            src, dst = e[0], e[1]
            sc = F.leaky_relu((torch.cat([h[src], h[dst]], -1) * self.a).sum(-1), 0.2)
            sc = (sc - sc.max()).exp()
            den = torch.zeros(x.shape[0], 2, dtype=x.dtype).scatter_add(0, dst.unsqueeze(1).expand(-1, 2), sc)
            al = sc / (den.index_select(0, dst) + 1e-9)
            out = torch.zeros_like(h).scatter_add(0, dst.view(-1, 1, 1).expand(-1, 2, 3), al.unsqueeze(-1) * h[src])
            return F.log_softmax(self.o(F.elu(out.flatten(1))), 1)
    return Model(), lambda k: ({"x": torch.randn(6, 4), "e": torch.stack([tokens(6, 14), tokens(6, 14)])}, tokens(3, 6))


@case("mse")
def gnn_pool_segments():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(18, 2)

        def forward(self, x, seg):
            h = torch.relu(self.a(x))
            i = seg.unsqueeze(1).expand_as(h)
            n = torch.zeros(3, dtype=x.dtype).scatter_add(0, seg, torch.ones_like(seg, dtype=x.dtype)).clamp(min=1)
            tot = torch.zeros(3, 6, dtype=x.dtype).scatter_add(0, i, h)
            oh = F.one_hot(seg, 3).to(x.dtype)
            mx = (h.unsqueeze(1) + (oh - 1).unsqueeze(2) * 1e3).max(0)[0]
            return self.b(torch.cat([tot, tot / n.unsqueeze(1), torch.sigmoid(mx)], 1))
    return Model(), lambda k: ({"x": torch.randn(7, 4), "seg": torch.cat([torch.arange(3), tokens(3, 4)])}, torch.randn(3, 2))


@case("mse")
def rff_cdist_kernel():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.g, self.w = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.tensor([0.5])), nn.Linear(5, 2)

        def forward(self, x):
            d = torch.cdist(x, self.c)
            e = (x.unsqueeze(1) - self.c).abs().sum(2)
            return self.w(torch.exp(-F.softplus(self.g) * d ** 2) + 0.1 * e)
    return Model(), lambda k: ({"x": torch.randn(4, 3)}, torch.randn(4, 2))


@case()
def mel_conv_dft_matrix():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            n = torch.arange(16.0)
            k = torch.arange(9.0)
            a = 2 * math.pi * torch.outer(k, n) / 16
            self.register_buffer("re", (a.cos() * torch.hann_window(16)).unsqueeze(1))
            self.register_buffer("im", (a.sin() * torch.hann_window(16)).unsqueeze(1))
            self.mel, self.conv, self.gru, self.h = nn.Linear(9, 6, bias=False), nn.Conv2d(1, 3, 3, padding=1), nn.GRU(18, 5, batch_first=True, bidirectional=True), nn.Linear(10, 4)

        def forward(self, x):
            p = F.conv1d(x.unsqueeze(1), self.re, stride=8).pow(2) + F.conv1d(x.unsqueeze(1), self.im, stride=8).pow(2)
            m = torch.log(self.mel.weight.abs() @ p + 1e-5)
            m = (m - m.mean((1, 2), keepdim=True)) / (m.std((1, 2), keepdim=True) + 1e-5)
            y = F.relu(self.conv(m.unsqueeze(1))).permute(0, 3, 1, 2).flatten(2)
            return self.h(self.gru(y)[0].mean(1))
    return Model(), lambda k: ({"x": torch.randn(3, 64)}, tokens(4, 3))


@case("l1")
def ctc_forward_loss_in_graph():
    class Model(nn.Module):
        """CTC's forward recursion written out, the loss as an output."""
        def __init__(self):
            super().__init__()
            self.g, self.h = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 4)

        def forward(self, x, y):
            lp = F.log_softmax(self.h(self.g(x)[0]), 2)
            b, L = y.shape
            ext = torch.stack([torch.zeros_like(y), y], 2).view(b, 2 * L)
            ext = torch.cat([ext, torch.zeros_like(y[:, :1])], 1)
            e = lp.gather(2, ext.unsqueeze(1).expand(-1, x.shape[1], -1))
            neg = torch.full((b, 1), -1e4, dtype=x.dtype)
            a = torch.cat([e[:, 0, :2], torch.full((b, 2 * L - 1), -1e4, dtype=x.dtype)], 1)
            skip = torch.cat([torch.zeros(b, 2, dtype=torch.bool), (ext[:, 2:] != 0) & (ext[:, 2:] != ext[:, :-2])], 1)
            for t in range(1, x.shape[1]):
                s1 = torch.cat([neg, a[:, :-1]], 1)
                s2 = torch.cat([neg, neg, a[:, :-2]], 1)
                s2 = torch.where(skip, s2, torch.full_like(s2, -1e4))
                a = torch.logsumexp(torch.stack([a, s1, s2], 0), 0) + e[:, t]
            return -torch.logsumexp(a[:, -2:], 1)
    return Model(), lambda k: ({"x": torch.randn(3, 7, 3), "y": 1 + tokens(3, 3, 2)}, torch.zeros(3))


@case("l1", narrow=True)
def info_nce_clip():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.t = nn.Linear(5, 4), nn.Linear(6, 4), nn.Parameter(torch.tensor(1.0))

        def forward(self, x, y):
            l = self.t.exp() * F.normalize(self.a(x), dim=1) @ F.normalize(self.b(y), dim=1).t()
            i = torch.arange(x.shape[0])
            return ((F.cross_entropy(l, i) + F.cross_entropy(l.t(), i)) / 2).reshape(1)
    return Model(), lambda k: ({"x": torch.randn(5, 5), "y": torch.randn(5, 6)}, torch.zeros(1))


@case("mse")
def dqn_dueling_gather():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.v, self.a = nn.Sequential(nn.Linear(5, 8), nn.ReLU()), nn.Linear(8, 1), nn.Linear(8, 3)

        def forward(self, x, act):
            h = self.b(x)
            a = self.a(h)
            q = self.v(h) + a - a.mean(1, keepdim=True)
            return q.gather(1, act), q, q.argmax(1), q.max(1)
    return Model(), lambda k: ({"x": torch.randn(6, 5), "act": tokens(3, 6, 1)}, torch.randn(6, 1))


@case("mse")
def actor_critic_gaussian():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.n, self.mu, self.v, self.ls = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 2), nn.Linear(8, 1), nn.Parameter(torch.zeros(2))

        def forward(self, x, a, adv):
            h = self.n(x)
            mu = self.mu(h)
            sd = self.ls.clamp(-2, 2).exp()
            lp = (-0.5 * ((a - mu) / sd) ** 2 - sd.log() - 0.5 * math.log(2 * math.pi)).sum(1)
            r = lp.exp()
            pg = -torch.min(r * adv, r.clamp(0.8, 1.2) * adv)
            return pg + 0.5 * self.v(h).squeeze(1).pow(2), mu, self.v(h)
    return Model(), lambda k: ({"x": torch.randn(5, 4), "a": torch.randn(5, 2), "adv": torch.randn(5)}, torch.zeros(5))


@case("mse")
def diffusion_unet_time():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.t = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 12))
            self.i, self.g1, self.c1, self.d, self.u, self.o = nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, 2, 1), nn.ConvTranspose2d(6, 6, 4, 2, 1), nn.Conv2d(12, 1, 3, padding=1)
            self.q = nn.Conv2d(6, 18, 1)

        def forward(self, x, t):
            f = torch.exp(-math.log(100.) * torch.arange(4) / 4).to(x.dtype)
            a = t.to(x.dtype).unsqueeze(1) * f
            sc, sh = self.t(torch.cat([a.sin(), a.cos()], 1)).chunk(2, 1)
            h = self.i(x)
            r = self.g1(h) * (1 + sc[:, :, None, None]) + sh[:, :, None, None]
            h = h + self.c1(F.silu(r))
            d = self.d(h)
            b, c, hh, w = d.shape
            q, k, v = self.q(d).view(b, 3, c, hh * w).unbind(1)
            d = d + (v @ (q.transpose(1, 2) @ k / c ** 0.5).softmax(-1).transpose(1, 2)).view(b, c, hh, w)
            return self.o(torch.cat([self.u(d), h], 1))
    return Model(), lambda k: ({"x": torch.randn(2, 1, 6, 6), "t": tokens(50, 2)}, torch.randn(2, 1, 6, 6))


@case("mse", fold=False, straight=True)
def fake_quant_qat():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x):
            w = torch.fake_quantize_per_tensor_affine(self.a.weight, 0.02, 0, -128, 127)
            h = torch.relu(F.linear(torch.fake_quantize_per_tensor_affine(x, 0.05, 128, 0, 255), w, self.a.bias))
            return self.b(torch.fake_quantize_per_tensor_affine(h, 0.03, 0, 0, 255))
    return Model(), lambda k: ({"x": torch.randn(4, 5)}, torch.randn(4, 2))


@case(opset=9, keep=True)
def opset9_everything():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.c, self.bn, self.g, self.f = nn.Embedding(9, 4), nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, t):
            x = F.relu(self.bn(self.c(self.e(t).transpose(1, 2))))
            y, h = self.g(x.transpose(1, 2))
            z = y.max(1)[0] + h[0]
            return self.f(F.hardtanh(z)) .clamp(-3, 3)
    return Model(), lambda k: ({"t": tokens(9, 3, 6)}, tokens(3, 3))


@case(ignore_index=0)
def t5_shared_embeddings():
    class A(nn.Module):
        def __init__(self, rel=False):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
            self.rel = nn.Embedding(6, 2) if rel else None

        def forward(self, x, m, mask=None):
            b, t, _ = x.shape
            u = m.shape[1]
            q, k, v = self.q(x).view(b, t, 2, 4).transpose(1, 2), self.k(m).view(b, u, 2, 4).transpose(1, 2), self.v(m).view(b, u, 2, 4).transpose(1, 2)
            a = torch.matmul(q, k.transpose(3, 2))
            if self.rel is not None:
                d = torch.arange(u)[None, :] - torch.arange(t)[:, None]
                n = torch.clamp(-d, min=0)
                big = 2 + (torch.log(n.float() / 2 + 1e-6) / math.log(4) * 3).to(torch.long)
                bk = torch.where(n < 2, n, torch.min(big, torch.full_like(big, 5)))
                a = a + self.rel(bk).permute(2, 0, 1).unsqueeze(0)
            if mask is not None:
                a = a + mask
            return self.o((a.softmax(-1) @ v).transpose(1, 2).contiguous().view(b, t, 8))

    class N(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.Embedding(12, 8)
            self.ea, self.en, self.eff, self.efn = A(True), N(), nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 8, bias=False)), N()
            self.da, self.dn, self.ca, self.cn, self.fn = A(True), N(), A(), N(), N()
            self.head = nn.Linear(8, 12, bias=False)
            self.head.weight = self.e.weight

        def forward(self, src, tgt):
            x = self.e(src)
            x = x + self.ea(self.en(x), self.en(x))
            x = x + self.eff(self.efn(x))
            y = self.e(tgt)
            n = tgt.shape[1]
            mask = torch.full((n, n), -1e4, dtype=x.dtype).triu(1)
            y = y + self.da(self.dn(y), self.dn(y), mask)
            y = y + self.ca(self.cn(y), x)
            return self.head(self.fn(y) * 8 ** -0.5)
    return Model(), lambda k: ({"src": tokens(12, 2, 5), "tgt": tokens(12, 2, 4)}, tokens(12, 2, 4))


@case("mse", opset=13)
def inplace_slices_assign():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            out = torch.zeros(x.shape[0], 6, 4, dtype=x.dtype)
            h = torch.tanh(self.a(x))
            out[:, 0:3] = h[:, :3]
            out[:, 3:, 1:3] = h[:, 2:5, :2] * 0.5
            out[:, 5, 0] = h[:, 0, 0]
            out[:, -1] += 1.0
            return self.b(out)
    return Model(), lambda k: ({"x": torch.randn(3, 5, 4)}, torch.randn(3, 6, 2))


@case("mse", script=True, mode="eval", opset=16)
def tree_lstm_scripted_gather():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.l, self.r, self.o = nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, tok, left, right):
            h = self.e(tok)
            for i in range(left.shape[0]):
                n = torch.tanh(self.l(h[left[i]]) + self.r(h[right[i]]))
                h = torch.cat([h, n.unsqueeze(0)], 0)
            return self.o(h[-1])
    return Model(), lambda k: ({"tok": tokens(8, 4), "left": torch.tensor([0, 2, 4]), "right": torch.tensor([1, 3, 5])}, torch.randn(2))


@case("mse", script=True, mode="eval")
def memory_network_optional_branch():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, q, mem, hops, flag):
            for h in range(int(hops)):
                p = torch.softmax(torch.matmul(self.a(mem), q.unsqueeze(2)).squeeze(2), 1)
                o = (p.unsqueeze(2) * mem).sum(1)
                if bool(flag):
                    q = self.b(q) + o
                else:
                    q = q + o
            return self.c(q)
    return Model(), lambda k: ({"q": torch.randn(3, 4), "mem": torch.randn(3, 5, 4), "hops": torch.tensor(1 + k), "flag": torch.tensor(k % 2 == 0)}, torch.randn(3, 2))


@case()
def qrnn_sru_ssm_scan():
    class Model(nn.Module):
        """State-space layer by cumulative products, and a depthwise FIR."""
        def __init__(self):
            super().__init__()
            self.i, self.a, self.b, self.c, self.d, self.conv, self.h = nn.Linear(3, 6), nn.Parameter(torch.randn(6)), nn.Linear(6, 6), nn.Linear(6, 6), nn.Parameter(torch.randn(6)), nn.Conv1d(6, 6, 3, groups=6), nn.Linear(6, 4)

        def forward(self, x):
            u = self.i(x)
            u = F.silu(self.conv(F.pad(u.transpose(1, 2), (2, 0))).transpose(1, 2))
            dt = F.softplus(self.b(u))
            A = -torch.exp(self.a)
            la = torch.cumsum(dt * A, 1)
            hs = torch.exp(la) * torch.cumsum(torch.exp(-la) * dt * u, 1)
            return self.h(self.c(hs) * torch.sigmoid(u) + self.d * u)
    return Model(), lambda k: ({"x": torch.randn(3, 6, 3)}, tokens(4, 3, 6))


@case("mse", dynamic={"x": {0: "b"}, "z": {0: "b"}})
def wide_deep_mixed_inputs():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.ModuleList(nn.Embedding(n, 3) for n in (5, 7, 4))
            self.bn, self.d, self.cross, self.o = nn.BatchNorm1d(4), nn.Sequential(nn.Linear(13, 8), nn.PReLU(), nn.Linear(8, 4)), nn.ParameterList([nn.Parameter(torch.randn(13)) for _ in range(2)]), nn.Linear(17, 1)

        def forward(self, cat, num):
            x = torch.cat([e(cat[:, i]) for i, e in enumerate(self.e)] + [self.bn(num)], 1)
            y = x
            for w in self.cross:
                y = x * (y @ w).unsqueeze(1) + y
            return self.o(torch.cat([y, self.d(x)], 1))
    return Model(), lambda k: ({"cat": tokens(4, 5, 3), "num": torch.randn(5, 4)}, torch.randn(5, 1))


@case("mse", fold=False)
def low_rank_lora():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.a, self.b, self.m = nn.Linear(6, 6), nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False), nn.Parameter(torch.ones(6, 1))

        def forward(self, x):
            w = self.w.weight + 2.0 * self.b.weight @ self.a.weight
            w = self.m * w / w.norm(dim=1, keepdim=True)
            return F.linear(x, w, self.w.bias)
    return Model(), lambda k: ({"x": torch.randn(4, 6)}, torch.randn(4, 6))


def learned_states(name, cell, opset, fold=True):
    """Packed, both ways, in two layers, from states that are parameters."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = cell(4, 5, 2, batch_first=True, bidirectional=True)
            self.states = nn.ParameterList(nn.Parameter(torch.randn(4, 1, 5)) for _ in range(2 if cell is nn.LSTM else 1))
            self.head = nn.Linear(20, 3)

        def forward(self, x, lengths):
            states = tuple(s.repeat(1, x.shape[0], 1) for s in self.states)
            y, last = self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), states if len(states) > 1 else states[0])
            h = last[0] if isinstance(last, tuple) else last
            y, n = pad_packed_sequence(y, batch_first=True)
            return self.head(torch.cat([h[-2], h[-1], y.sum(1) / n.to(y.dtype).unsqueeze(1)], 1))

    def make():
        return Model(), lambda k: ({"x": torch.randn(3, 6, 4), "lengths": lengths_of(3, 6)}, tokens(3, 3))
    make.__name__ = name
    case(opset=opset, fold=fold, dynamic={"x": {0: "batch", 1: "time"}, "lengths": {0: "batch"}})(make)


learned_states("lstm_learned_states_packed", nn.LSTM, 17)
learned_states("gru_learned_states_packed", nn.GRU, 14, fold=False)
learned_states("rnn_learned_states_packed", nn.RNN, 11)


# --- networks that once went wrong, and of kinds that no other is ----------------------------------------

@case("mse", script=True, mode="eval", fold=False)
def hopfield_energy_while():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = nn.Parameter(0.3 * torch.randn(5, 5)), nn.Parameter(torch.randn(5))

        def energy(self, s):
            w = 0.5 * (self.w + self.w.t())
            return (-0.5 * (s @ w * s).sum(1) - s @ self.b + 0.5 * s.pow(2).sum(1))

        def forward(self, x):
            s = torch.tanh(x)
            w = 0.5 * (self.w + self.w.t())
            last = self.energy(s).mean()
            drop = torch.ones_like(last)
            n = 0
            while n < 20 and bool(drop > 0.01):
                s = s + 0.3 * (torch.tanh(s @ w + self.b) - s)
                e = self.energy(s).mean()
                drop = (last - e).abs()
                last = e
                n += 1
            return s, last
    return Model(), lambda k: ({"x": torch.randn(3, 5)}, torch.randn(3, 5))


@case("mse", script=True, mode="eval", dynamic={"x": {1: "t"}})
def recurrent_attention_history():
    """Each step attends to all earlier states, which are kept in a list."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.q, self.out = Cell(8, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 2)

        def forward(self, x):
            h = torch.zeros(x.shape[0], 5, dtype=x.dtype)
            past = [h]
            for t in range(x.shape[1]):
                m = torch.stack(past, 1)
                w = torch.softmax(torch.bmm(m, self.q(h).unsqueeze(2)).squeeze(2), 1)
                c = torch.bmm(w.unsqueeze(1), m).squeeze(1)
                h = self.cell(torch.cat([x[:, t], c], 1), h)
                past.append(h)
            return self.out(h)
    return Model(), lambda k: ({"x": torch.randn(3, 3 + k, 3)}, torch.randn(3, 2))


@case("mse", script=True, mode="eval", narrow=True)
def ode_adaptive_heun():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 7), nn.Linear(7, 3)

        def f(self, y):
            return self.b(torch.tanh(self.a(y)))

        def forward(self, y):
            t = torch.zeros((), dtype=y.dtype)
            h = torch.full((), 0.5, dtype=y.dtype)
            n = 0
            while bool(t < 1.0) and n < 30:
                h = torch.minimum(h, 1.0 - t)
                k1 = self.f(y)
                k2 = self.f(y + h * k1)
                err = (h * (k2 - k1)).abs().max()
                if bool(err < 0.3):
                    y = y + h / 2 * (k1 + k2)
                    t = t + h
                    h = h * 1.2
                else:
                    h = h * 0.5
                n += 1
            return y
    return Model(), lambda k: ({"y": torch.randn(4, 3)}, torch.randn(4, 3))


@case("mse", script=True, mode="eval", opset=16, dynamic={"x": {1: "t"}})
def neural_turing_machine():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.key, self.beta, self.gate, self.shift, self.gamma = Cell(6, 6), nn.Linear(6, 3), nn.Linear(6, 1), nn.Linear(6, 1), nn.Linear(6, 3), nn.Linear(6, 1)
            self.erase, self.add, self.out, self.start = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(9, 2), nn.Parameter(torch.randn(5, 3))

        def forward(self, x):
            b = x.shape[0]
            m = self.start.unsqueeze(0).repeat(b, 1, 1)
            w = torch.softmax(torch.zeros(b, 5, dtype=x.dtype), 1)
            h = torch.zeros(b, 6, dtype=x.dtype)
            r = torch.zeros(b, 3, dtype=x.dtype)
            ys: List[torch.Tensor] = []
            for t in range(x.shape[1]):
                h = self.cell(torch.cat([x[:, t], r], 1), h)
                k = self.key(h).unsqueeze(1)
                cos = (m * k).sum(2) / (m.pow(2).sum(2).sqrt() * k.pow(2).sum(2).sqrt() + 1e-6)
                wc = torch.softmax(F.softplus(self.beta(h)) * cos, 1)
                g = torch.sigmoid(self.gate(h))
                w = g * wc + (1 - g) * w
                s = torch.softmax(self.shift(h), 1)
                w = s[:, 0:1] * torch.roll(w, 1, 1) + s[:, 1:2] * w + s[:, 2:3] * torch.roll(w, -1, 1)
                w = w ** (1 + F.softplus(self.gamma(h)))
                w = w / w.sum(1, keepdim=True)
                m = m * (1 - w.unsqueeze(2) * torch.sigmoid(self.erase(h)).unsqueeze(1)) + w.unsqueeze(2) * torch.tanh(self.add(h)).unsqueeze(1)
                r = torch.bmm(w.unsqueeze(1), m).squeeze(1)
                ys.append(self.out(torch.cat([h, r], 1)))
            return torch.stack(ys, 1)
    return Model(), lambda k: ({"x": torch.randn(3, 3 + k % 2, 3)}, torch.randn(3, 3 + k % 2, 2))


@case(script=True, mode="eval", dynamic={"x": {1: "t"}})
def stacked_states_in_list():
    """The states of several layers in a list whose elements are set in the loop over time."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.out = Cell(4, 5), Cell(5, 5), Cell(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            hs: List[torch.Tensor] = []
            for i in range(3):
                hs.append(torch.zeros(x.shape[0], 5, dtype=x.dtype))
            for t in range(x.shape[1]):
                hs[0] = self.a(x[:, t], hs[0])
                hs[1] = self.b(hs[0], hs[1])
                hs[2] = self.c(hs[1] + hs[0], hs[2])
            return self.out(hs[2] + hs[1])
    return Model(), lambda k: ({"x": torch.randn(3, 3 + k, 4)}, tokens(3, 3))


@case(script=True, mode="eval", dynamic={"x": {1: "t"}})
def reverse_and_forward_loops():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.b, self.out = Cell(4, 5), Cell(4, 5), nn.Linear(10, 3)

        def forward(self, x):
            h = torch.zeros(x.shape[0], 5, dtype=x.dtype)
            fs: List[torch.Tensor] = []
            bs: List[torch.Tensor] = []
            for t in range(x.shape[1]):
                h = self.f(x[:, t], h)
                fs.append(h)
            h = torch.zeros(x.shape[0], 5, dtype=x.dtype)
            for t in range(x.shape[1] - 1, -1, -1):
                h = self.b(x[:, t], h)
                bs.insert(0, h)
            return self.out(torch.cat([torch.stack(fs, 1), torch.stack(bs, 1)], 2))
    return Model(), lambda k: ({"x": torch.randn(3, 3 + k, 4)}, tokens(3, 3, 3 + k))


@case("mse", script=True, mode="eval")
def ragged_rows_by_length():
    """A loop over the batch, each row of its own length."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.e = nn.Linear(4, 6), nn.Linear(6, 2), nn.Parameter(torch.randn(6))

        def forward(self, x, n):
            out: List[torch.Tensor] = []
            for i in range(x.shape[0]):
                k = int(n[i])
                if k > 0:
                    h = torch.relu(self.a(x[i, :k]))
                    out.append(torch.cat([h.mean(0), h.max(0)[0]])[3:9])
                else:
                    out.append(self.e)
            return self.b(torch.stack(out))

    def batch(k):
        n = tokens(5, 4)
        n[k] = 0
        return {"x": torch.randn(4, 4, 4), "n": n}, torch.randn(4, 2)
    return Model(), batch


@case("mse", script=True, mode="eval")
def sinkhorn_and_soft_dtw():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(3, 4)

        def forward(self, x, y):
            a, b = self.f(x), self.f(y)
            d = (a.unsqueeze(1) - b.unsqueeze(0)).pow(2).mean(2)
            l = -d
            for _ in range(5):
                l = l - torch.logsumexp(l, 1, keepdim=True)
                l = l - torch.logsumexp(l, 0, keepdim=True)
            n, m = d.shape[0], d.shape[1]
            r = torch.full((n + 1, m + 1), 1e5, dtype=d.dtype)
            r[0, 0] = 0.0
            for i in range(1, n + 1):
                for j in range(1, m + 1):
                    s = torch.stack([r[i - 1, j - 1], r[i - 1, j], r[i, j - 1]])
                    r[i, j] = d[i - 1, j - 1] - torch.logsumexp(-s, 0)
            return 0.1 * torch.stack([(l.exp() * d).sum(), r[n, m]])
    return Model(), lambda k: ({"x": torch.randn(4, 3), "y": torch.randn(3, 3)}, torch.randn(2))


@case(script=True, mode="eval")
def greedy_feedback_argmax():
    """Decoding from its own words: what is fed back is an argmax, beside teacher forcing."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.cell, self.o = nn.Embedding(9, 5), Cell(5, 6), nn.Linear(6, 9)

        def forward(self, x, y, forced):
            h = torch.tanh(self.e(x).mean(1)).repeat(1, 2)[:, :6]
            w = y[:, 0]
            out: List[torch.Tensor] = []
            for t in range(y.shape[1]):
                h = self.cell(self.e(w), h)
                l = self.o(h)
                out.append(l)
                if bool(forced[t]):
                    w = y[:, t]
                else:
                    w = l.argmax(1)
            return torch.stack(out, 1)
    return Model(), lambda k: ({"x": tokens(9, 3, 4), "y": tokens(9, 3, 5), "forced": torch.rand(5) < 0.5}, tokens(9, 3, 5))


@case("mse", script=True, mode="eval", opset=13)
def lstm_inside_loop():
    """A recurrent layer run again and again over what it gave, its states carried."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.out, self.into = nn.GRU(5, 5), nn.Linear(5, 2), nn.Linear(3, 5)

        def forward(self, x, n):
            y = self.into(x)
            h = torch.zeros(1, x.shape[1], 5, dtype=x.dtype)
            for _ in range(int(n)):
                z, h = self.gru(y, h)
                y = y + z
            return self.out(y), h
    return Model(), lambda k: ({"x": torch.randn(4, 3, 3), "n": torch.tensor(1 + k)}, torch.randn(4, 3, 2))


@case("mse", script=True, mode="eval", narrow=True)
def conv_recurrence_in_loop():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.u, self.n, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)

        def forward(self, x, n):
            f = self.c(x)
            h = torch.zeros_like(f)
            for _ in range(int(n)):
                z, c = self.u(h + f).chunk(2, 1)
                h = h + torch.sigmoid(z) * (torch.tanh(c) - h)
                h = self.n(h)
                h = F.avg_pool2d(F.interpolate(h, scale_factor=2.0, mode="nearest"), 2)
            return self.out(h)
    return Model(), lambda k: ({"x": torch.randn(2, 1, 5, 5), "n": torch.tensor(1 + k)}, torch.randn(2, 1, 5, 5))


@case("mse", script=True, mode="eval", narrow=True)
def branch_of_unequal_use():
    """Branches that capture different weights, one of them none, and a branch within a loop that changes a state of two."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.s = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.randn(4))

        def forward(self, x, flags):
            h = x
            c = torch.zeros_like(x)
            for i in range(flags.shape[0]):
                f = int(flags[i])
                if f == 0:
                    h = torch.tanh(self.a(h)) * self.s
                elif f == 1:
                    c = c + h * self.s
                    h = self.b(h)
                elif f == 2:
                    h, c = c, h
                else:
                    c = c * 0.5
            return h + c
    return Model(), lambda k: ({"x": torch.randn(3, 4), "flags": torch.tensor([[0, 1, 2, 3, 1], [1, 1, 0, 2, 3], [2, 0, 0, 1, 2], [3, 2, 1, 0, 1]][k])}, torch.randn(3, 4))


@case("mse", script=True, mode="eval")
def loop_of_no_turns():
    """Trip counts of zero among others: gradients of what never ran are none."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x, n):
            outs: List[torch.Tensor] = [x]
            for i in range(int(n)):
                x = torch.tanh(self.a(x))
                outs.append(x)
            return self.b(torch.cat(outs, 0).sum(0, keepdim=True)) + self.b(x).mean()
    return Model(), lambda k: ({"x": torch.randn(3, 4), "n": torch.tensor([2, 0, 3, 1][k])}, torch.randn(1, 2))


@case("mse", script=True, mode="eval")
def kalman_filter():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.h, self.q, self.r = nn.Parameter(torch.eye(2) + 0.1 * torch.randn(2, 2)), nn.Parameter(torch.randn(1, 2)), nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(1))

        def forward(self, y):
            m = torch.zeros(2, 1, dtype=y.dtype)
            p = torch.eye(2, dtype=y.dtype)
            out: List[torch.Tensor] = []
            for t in range(y.shape[0]):
                m = self.a @ m
                p = self.a @ p @ self.a.t() + F.softplus(self.q) * torch.eye(2, dtype=y.dtype)
                s = self.h @ p @ self.h.t() + F.softplus(self.r)
                k = p @ self.h.t() / s
                e = y[t].view(1, 1) - self.h @ m
                m = m + k @ e
                p = p - k @ self.h @ p
                out.append((e * e / s + torch.log(s)).squeeze())
            return torch.stack(out)
    return Model(), lambda k: ({"y": torch.randn(6)}, torch.randn(6))


@case(script=True, mode="eval")
def tensor_stack_machine():
    """cat and slices as push and pop: sizes that change in the loop."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.m, self.o = nn.Embedding(6, 4), nn.Linear(8, 4), nn.Linear(4, 3)

        def forward(self, t, op):
            s = torch.zeros(0, 4, dtype=self.m.weight.dtype)
            k = 0
            for i in range(op.shape[0]):
                if bool(op[i] == 0):
                    s = torch.cat([s, self.e(t[k]).unsqueeze(0)], 0)
                    k += 1
                else:
                    top = torch.tanh(self.m(s[-2:].reshape(1, 8)))
                    s = torch.cat([s[:-2], top], 0)
            return self.o(s[-1:])
    return Model(), lambda k: ({"t": tokens(6, 3), "op": torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 1, 1]][k % 2])}, tokens(3, 1))


@case()
def involution_unfold():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.k, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 18, 1), nn.Linear(4, 4)

        def forward(self, x):
            x = self.stem(x)
            b, c, h, w = x.shape
            k = self.k(x).view(b, 2, 1, 9, h, w)
            u = F.unfold(x, 3, padding=1).view(b, 2, 2, 9, h, w)
            return self.head(F.relu((k * u).sum(3).view(b, c, h, w)).mean((2, 3)))
    return images(Model(), 2, 3, 6)


@case(opset=12)
def same_padding_even_kernels():
    return images(classifier(nn.Conv2d(3, 4, 4, padding=2), nn.Tanh(), nn.Conv2d(4, 4, (2, 3), padding=(1, 1), dilation=(2, 1)), nn.Softplus(2.0, 5.0), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
                             nn.Conv2d(6, 6, 3, padding=(1, 2), padding_mode="reflect"), nn.ConstantPad2d((1, 0, 2, 1), 0.7), nn.ReflectionPad2d((1, 2, 0, 1)), nn.ReplicationPad2d(1), nn.ZeroPad2d((-1, -1, 0, 0)), nn.Conv2d(6, 5, 2), channels=5), 2, 3, 7)


@case("mse", opset=11)
def volumes_and_lines():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b, self.t, self.c = nn.Conv3d(1, 3, 3, padding=1, groups=1), nn.InstanceNorm3d(3, affine=True), nn.Conv3d(3, 6, (1, 2, 2), stride=(1, 2, 2), groups=3, bias=False), nn.ConvTranspose3d(6, 2, 2, stride=(1, 2, 2), dilation=(1, 1, 1), padding=(0, 0, 0), output_padding=(0, 1, 0)), nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, dilation=2, groups=1)

        def forward(self, x):
            x = F.max_pool3d(F.pad(F.rrelu(self.n(self.a(x)), training=False), (0, 1, 1, 0, 0, 0), value=0.2), (1, 2, 2), stride=1)
            x = self.t(F.hardshrink(self.b(x), 0.05))
            x = F.avg_pool3d(x, 2, stride=(1, 2, 2), padding=(1, 0, 1), count_include_pad=False)
            return self.c(F.interpolate(x.mean((3, 4)), size=7, mode="linear", align_corners=False))
    return Model(), lambda k: ({"x": torch.randn(2, 1, 3, 6, 6)}, torch.randn(2, 3, 15))


@case("mse", opset=16)
def deformable_by_grid_sample():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.off, self.c = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 1)

        def forward(self, x):
            b, _, h, w = x.shape
            y, z = torch.meshgrid(torch.linspace(-0.97, 0.93, h), torch.linspace(-0.91, 0.97, w), indexing="ij")
            grid = torch.stack([z, y], -1).to(x.dtype) + 0.3 * torch.tanh(self.off(x)).permute(0, 2, 3, 1)
            a = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
            c = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
            d = F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)
            return self.c(a + c * d)
    return Model(), lambda k: ({"x": torch.randn(2, 2, 5, 6)}, torch.randn(2, 3, 5, 6))


@case("mse", opset=16)
def roi_align_detector_head():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(16, 5)

        def forward(self, x, boxes):
            f = torch.tanh(self.c(x))
            return self.fc(torchvision.ops.roi_align(f, boxes, (2, 2), 0.5, 2, aligned=True).flatten(1))

    def batch(k):
        lo = torch.rand(4, 2) * 6
        return {"x": torch.randn(2, 2, 8, 8), "boxes": torch.cat([tokens(2, 4, 1).float(), lo, lo + 2 + 5 * torch.rand(4, 2)], 1)}, torch.randn(4, 5)
    return Model(), batch


@case(opset=15)
def hourglass_inplace():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(6, affine=False), nn.Hardtanh(-1.5, 2.0, inplace=True))
            self.d, self.head = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Conv2d(6, 5, 1)

        def forward(self, x):
            x = self.c(x)
            s = x.clone()
            y = F.max_pool2d(x, 2)
            y = F.elu_(self.d(y)) + 0.1
            y = F.interpolate(y, scale_factor=2)
            s += y
            s[:, :3] *= 0.5
            s[:, 4, 1:3, ::2] = 0.25
            s.clamp_(max=1.7)
            return self.head(s)
    return Model(), lambda k: ({"x": image(2, 3, 6)}, tokens(5, 2, 6, 6))


@case("mse", opset=13)
def glow_coupling_flow():
    """A flow's two directions: affine couplings, an invertible 1x1 product with its determinant, actnorm."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.s, self.b = nn.Parameter(0.1 * torch.randn(1, 4)), nn.Parameter(torch.randn(1, 4))
            self.w = nn.Parameter(torch.eye(4) + 0.2 * torch.randn(4, 4))
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))

        def forward(self, x):
            z = (x + self.b) * torch.exp(self.s)
            z = z @ self.w.t()
            logdet = self.s.sum() + torch.log(torch.abs(torch.det(self.w)))
            a, b = z.chunk(2, 1)
            t, s = self.net(a).chunk(2, 1)
            s = 2 * torch.tanh(s / 2)
            b = b * torch.exp(s) + t
            z = torch.cat([a, b], 1)
            lp = -0.5 * (z ** 2 + math.log(2 * math.pi)).sum(1) + s.sum(1) + logdet
            return torch.cat([z, lp.unsqueeze(1)], 1)
    return Model(), lambda k: ({"x": 0.3 * torch.randn(5, 4)}, -torch.rand(5, 5))


@case("mse")
def rational_quadratic_spline_flow():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 14))

        def forward(self, x):
            p = self.net(x[:, :1])
            y = x[:, 1:].clamp(-2.9, 2.9)
            w = 0.02 + (1 - 0.1) * torch.softmax(p[:, :5], 1)
            h = 0.02 + (1 - 0.1) * torch.softmax(p[:, 5:10], 1)
            d = F.pad(0.01 + F.softplus(p[:, 10:]), (1, 1), value=1.0)
            cw = F.pad(torch.cumsum(w, 1), (1, 0)) * 6 - 3
            ch = F.pad(torch.cumsum(h, 1), (1, 0)) * 6 - 3
            i = (y >= cw[:, 1:-1]).sum(1, keepdim=True)
            g = lambda t, j=i: t.gather(1, j)
            x0, y0, dx, dy, d0, d1 = g(cw), g(ch), g(cw[:, 1:] - cw[:, :-1]), g(ch[:, 1:] - ch[:, :-1]), g(d), g(d, i + 1)
            s, t = dy / dx, (y - x0) / dx
            den = s + (d1 + d0 - 2 * s) * t * (1 - t)
            z = y0 + dy * (s * t * t + d0 * t * (1 - t)) / den
            ld = torch.log(s * s * (d1 * t * t + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2)) - 2 * torch.log(den)
            return torch.cat([z, ld], 1)
    return Model(), lambda k: ({"x": torch.randn(6, 2)}, torch.randn(6, 2))


@case("mse", opset=11)
def unpool_and_indices():
    """What max pooling says of where its maxima were, used to scatter them back."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.o = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 1, 1)

        def forward(self, x):
            y = self.a(x)
            p, i = F.max_pool2d(y, 2, return_indices=True)
            p = torch.tanh(self.b(p))
            n, c, h, w = y.shape
            z = torch.zeros(n, c, h * w, dtype=x.dtype).scatter(2, i.flatten(2), p.flatten(2)).view(n, c, h, w)
            return self.o(z + y)
    return Model(), lambda k: ({"x": image(2, 1, 6)}, image(2, 1, 6))


@case("l1", opset=13, narrow=True)
def losses_of_classes_in_graph():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 1)
            self.register_buffer("w", torch.tensor([1.0, 0.5, 2.0, 1.5]))

        def forward(self, x, y, z):
            a, b = self.a(x), self.b(x)
            parts = [F.cross_entropy(a, y, weight=self.w), F.cross_entropy(a, y, ignore_index=2), F.cross_entropy(b, y, reduction="sum") / 7, F.nll_loss(F.log_softmax(b, 1), y, weight=self.w),
                     F.nll_loss(F.log_softmax(b, 1), y, reduction="none").max(),
                     F.kl_div(F.log_softmax(a, 1), F.softmax(b, 1), reduction="batchmean"), F.kl_div(F.log_softmax(a, 1), F.log_softmax(b, 1), log_target=True, reduction="sum"),
                     F.binary_cross_entropy_with_logits(self.c(x), z, pos_weight=torch.tensor([2.0], dtype=x.dtype)), F.cross_entropy(a, y, label_smoothing=0.0, reduction="none").mean()]
            return torch.stack([p.reshape(()) for p in parts])
    return Model(), lambda k: ({"x": torch.randn(6, 5), "y": tokens(4, 6), "z": torch.randint(0, 2, (6, 1)).float()}, torch.zeros(9))


@case("l1", narrow=True)
def losses_of_numbers_in_graph():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x, y, s):
            a, b = self.a(x), self.b(x)
            t = torch.where(s > 0, 1.0, -1.0).to(x.dtype)
            d = (b - y).abs()
            parts = [(a - y).pow(2).mean(), (a - y).abs().mean(), torch.where(d < 0.7, 0.5 * d * d, 0.7 * (d - 0.35)).mean(),
                     torch.where(t > 0, 1 - F.cosine_similarity(a, b), F.relu(F.cosine_similarity(a, b) - 0.1)).mean(), F.relu(-t * (a[:, 0] - b[:, 0]) + 0.2).mean(), torch.where(t > 0, a[:, 1], F.relu(0.8 - a[:, 1])).mean(), torch.log1p(torch.exp(-t * a[:, 2])).mean(),
                     F.relu(F.pairwise_distance(a, b) - F.pairwise_distance(a, y) + 0.5).mean(), (a.exp() - y.abs() * a).mean(), 0.5 * (torch.log(F.softplus(b) + 0.1) + (a - y) ** 2 / (F.softplus(b) + 0.1)).mean(), -((y > 0).to(x.dtype) * F.logsigmoid(a) + (y <= 0).to(x.dtype) * F.logsigmoid(-a)).mean(),
                     (1 - F.cosine_similarity(a, b, dim=1)).mean(), F.softplus(2 * (a - y)).mean()]
            return torch.stack(parts)
    return Model(), lambda k: ({"x": torch.randn(6, 5), "y": torch.randn(6, 4), "s": tokens(2, 6)}, torch.zeros(13))


@case("l1", fold=False, narrow=True)
def arcface_triplet_barlow():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.w, self.centres = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)), nn.Parameter(torch.randn(4, 5)), nn.Embedding(4, 5)

        def forward(self, a, b, y):
            ea, eb = self.net(a), self.net(b)
            cos = F.linear(F.normalize(ea), F.normalize(self.w)).clamp(-1 + 1e-4, 1 - 1e-4)
            hot = F.one_hot(y, 4).to(a.dtype)
            arc = F.cross_entropy(8 * torch.cos(torch.acos(cos) + 0.3 * hot), y)
            centre = (ea - self.centres(y)).pow(2).sum(1).mean()
            d = torch.cdist(ea, ea)
            same = y.unsqueeze(0) == y.unsqueeze(1)
            hard = F.relu(torch.where(same, d, torch.full_like(d, -1.0)).max(1)[0] - torch.where(same, torch.full_like(d, 99.0), d).min(1)[0] + 0.3).mean()
            za, zb = (ea - ea.mean(0)) / (ea.std(0) + 1e-4), (eb - eb.mean(0)) / (eb.std(0) + 1e-4)
            c = za.t() @ zb / a.shape[0]
            eye = torch.eye(5, dtype=a.dtype)
            barlow = ((torch.diagonal(c) - 1) ** 2).sum() + 0.01 * ((c * (1 - eye)) ** 2).sum()
            return torch.stack([arc, 0.1 * centre, hard, 0.1 * barlow])
    return Model(), lambda k: ({"a": torch.randn(8, 6), "b": torch.randn(8, 6), "y": torch.arange(8) % 4}, torch.zeros(4))


@case()
def tabnet_sparsemax():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.a, self.f, self.o = nn.BatchNorm1d(6), nn.Linear(4, 6), nn.Linear(6, 16), nn.Linear(8, 3)

        def sparsemax(self, z):
            s, _ = torch.sort(z, 1, descending=True)
            k = torch.arange(1, z.shape[1] + 1, dtype=z.dtype)
            cs = s.cumsum(1)
            n = (1 + k * s > cs).sum(1, keepdim=True)
            tau = (cs.gather(1, n - 1) - 1) / n.to(z.dtype)
            return F.relu(z - tau)

        def forward(self, x):
            x = self.bn(x)
            prior, h, out = torch.ones_like(x), F.glu(self.f(x), 1), 0
            for _ in range(3):
                m = self.sparsemax(self.a(h[:, 4:]) * prior)
                prior = prior * (1.3 - m)
                h = F.glu(self.f(m * x), 1)
                out = out + F.relu(h)
            return self.o(out)
    return Model(), lambda k: ({"x": torch.randn(6, 6)}, tokens(3, 6))


@case()
def soft_decision_tree_kan():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.leaf = nn.Linear(5, 7), nn.Parameter(torch.randn(8, 3))
            self.coef = nn.Parameter(torch.randn(5, 3, 6))
            self.register_buffer("knots", torch.linspace(-3, 3, 9))

        def spline(self, x):
            x = x.unsqueeze(-1)
            t = self.knots
            b = ((x >= t[:-1]) & (x < t[1:])).to(x.dtype)
            for k in (1, 2):
                b = (x - t[:-(k + 1)]) / (t[k:-1] - t[:-(k + 1)]) * b[..., :-1] + (t[k + 1:] - x) / (t[k + 1:] - t[1:-k]) * b[..., 1:]
            return b

        def forward(self, x):
            g = torch.sigmoid(self.gate(x))
            p = torch.ones_like(x[:, :1])
            for d in range(3):
                s = g[:, 2 ** d - 1:2 ** (d + 1) - 1]
                p = torch.stack([p * s, p * (1 - s)], 2).flatten(1)
            return p @ self.leaf + torch.einsum("bik,iok->bo", self.spline(x.clamp(-2.9, 2.9)), self.coef)
    return Model(), lambda k: ({"x": torch.randn(6, 5)}, tokens(3, 6))


@case("mse", opset=13)
def embedding_bag_offsets():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.s, self.m, self.o = nn.EmbeddingBag(12, 4, mode="sum"), nn.EmbeddingBag(12, 4, mode="mean"), nn.Linear(12, 2)
            self.x = nn.EmbeddingBag(12, 4, mode="max")

        def forward(self, i, off):
            return self.o(torch.cat([self.s(i, off), self.m(i, off), self.x(i, off)], 1))
    return Model(), lambda k: ({"i": tokens(12, 9), "off": torch.tensor([[0, 2, 5], [0, 1, 4], [0, 4, 6], [0, 3, 8]][k])}, torch.randn(3, 2))


@case("mse", opset=11)
def repeat_interleave_and_ragged():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.g, self.o = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, t, n):
            x = self.g(self.e(t))
            y = torch.repeat_interleave(x, n, dim=0)
            z = torch.repeat_interleave(x, 2, dim=1)[:, ::2]
            return self.o(torch.tanh(y) + z.mean(0))
    return Model(), lambda k: ({"t": tokens(9, 4), "n": torch.tensor([[1, 2, 0, 3], [2, 1, 2, 1], [0, 0, 5, 1], [1, 1, 1, 3]][k])}, torch.randn(6, 2))


@case("mse", opset=12)
def unfold_tensor_windows():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.q, self.o = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.i(x)
            w = torch.cat([torch.zeros(2, 2, 4, dtype=x.dtype), h], 1).unfold(1, 3, 1)
            a = torch.softmax(torch.einsum("btd,btdw->btw", self.q(h), w), -1)
            return self.o(torch.einsum("btw,btdw->btd", a, w))
    return Model(), lambda k: ({"x": torch.randn(2, 5, 3)}, torch.randn(2, 5, 2))


@case("mse", fold=False)
def ties_and_zeros():
    """Where gradients are not defined: PyTorch's choice among equal ones, at kinks and at norms of nothing."""
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.s = nn.Linear(4, 4, bias=False), nn.Parameter(torch.randn(6, 4))

        def forward(self, x):
            y = x.unsqueeze(1) * self.s
            z = self.a(x)
            parts = [y.abs().sum(1), y.clamp(min=0).sum(1), F.relu(y).sum(1), F.leaky_relu(y, 0.1).sum(1), F.elu(y).sum(1), y.norm(dim=1), y.pow(2).sum(1), torch.sign(y).sum(1),
                     F.softsign(y).sum(1),
                     F.normalize(y, dim=2).sum(1), (y + 1).prod(1), y.prod(1), y[:, :3].prod(1), z, F.hardswish(y).sum(1), F.prelu(y, self.s[0, :1]).sum(1), torch.maximum(y[:, 0], y[:, 1]), torch.minimum(y[:, 2], torch.zeros_like(z)),
                     y.std(1), y.var(1), F.selu(y).sum(1), F.celu(y).sum(1), F.softshrink(y).sum(1), y.norm(p=1, dim=1), y.amax(1), y.amin(1), (y * 0).logsumexp(1), y.pow(3).sum(1), F.gelu(y).sum(1), F.hardsigmoid(y).sum(1)]
            return 0.1 * torch.stack(parts, 1)

    def batch(k):
        x = torch.randn(5, 4)
        x[0] = 0
        x[1, 2] = 0
        return {"x": x}, torch.randn(5, 30, 4)
    return Model(), batch


@case("mse", opset=13, fold=False)
def indexing_of_every_kind():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.o = nn.Linear(4, 6), nn.Parameter(torch.randn(5, 6)), nn.Linear(6, 3)

        def forward(self, x, i, j, m):
            h = self.a(x)
            r = torch.arange(h.shape[0])
            parts = [h[r, i], h[:, i[0]], h[r, :, j][:, :1].expand(-1, 6), h.index_select(1, i[:2]).sum(1), torch.gather(h, 2, j.view(-1, 1, 1).expand(-1, h.shape[1], 1)).squeeze(2)[:, :1].expand(-1, 6),
                     h.flip(2)[:, -1], torch.roll(h, (1, -2), (1, 2))[:, 0], h[:, 1:-1].mean(1), h.transpose(0, 1)[1].mean(0, keepdim=True).expand(3, -1), h.narrow(1, 1, 2).sum(1), h.select(1, 2),
                     h[:, [0, 2]].sum(1)]
            y = torch.stack(parts, 0).sum(0)
            k = h.clone()
            k[r, i] = self.b[:h.shape[0]]
            k[:, 0, 2:4] += 1.0
            q = h.masked_fill(m.unsqueeze(-1), 0.3) + h.index_fill(1, i[:1], 0.5) + h.index_copy(1, i[:1], h[:, :1] * 3)
            s = h[m].sum(0) + torch.masked_select(h, m.unsqueeze(-1)).sum()
            t = torch.zeros_like(h).masked_scatter(m.unsqueeze(-1).expand_as(h), h)
            v = h.index_put((r, i), self.b[1:4], accumulate=True)
            return self.o(0.05 * (y + k.sum(1) + q.mean(1) + s + t.sum(1) + v.sum(1)))

    def batch(k):
        mask = torch.rand(3, 4) < 0.5
        mask[0, 0] = True
        return {"x": torch.randn(3, 4, 4), "i": tokens(4, 3), "j": tokens(6, 3), "m": mask}, torch.randn(3, 3)
    return Model(), batch


@case("mse", opset=14, fold=False)
def products_of_every_kind():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.v, self.bil, self.o = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(3, 5, 2)), nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(3, 4, 5)), nn.Linear(4, 4)

        def forward(self, x, y):
            p = x @ self.a                                                   # 3 5
            parts = [torch.addmm(p[:, :2], p, self.b[0], beta=0.5, alpha=2.0), torch.bmm(p.unsqueeze(1), self.b).squeeze(1), torch.baddbmm(self.b[:, :1], p.unsqueeze(1), self.b, beta=0.3, alpha=0.7).squeeze(1),
                     (p @ self.v).unsqueeze(1).expand(-1, 2), torch.matmul(self.v, self.b).sum(0, keepdim=True).expand(3, -1), torch.einsum("i,bij->bj", self.v, self.b), torch.einsum("...ij,...j->...i", self.b.transpose(1, 2), p),
                     torch.tensordot(p, self.b, dims=([0, 1], [0, 1])).expand(3, -1), torch.outer(x[:, 0], self.v)[:, :2], torch.dot(self.v, p[0]).expand(3, 2), torch.mv(p, self.v).unsqueeze(1).expand(-1, 2), torch.einsum("bi,oij,bj->bo", x, self.bil, p)[:, :2], torch.cross(x[:, :3], p[:, :3], dim=1)[:, :2], torch.einsum("bi,bj,bk->bi", x, p, y)[:, :2], torch.einsum("bii->bi", p.unsqueeze(2) * y[:, None, :5])[:, :2], torch.einsum("ij->ji", p)[:3, :2], torch.linalg.norm(p, dim=1, keepdim=True).expand(-1, 2), (x @ self.a @ self.a.t())[:, :2] * 0.1]
            return self.o(torch.cat([sum(parts[:9]), sum(parts[9:])], 1) * 0.05)
    return Model(), lambda k: ({"x": torch.randn(3, 4), "y": torch.randn(3, 5)}, torch.randn(3, 4))


@case("mse", opset=16)
def reductions_of_every_kind():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            h = self.a(x)
            parts = [h.sum((0, 1)), h.mean((0, 1), keepdim=True).squeeze(0).squeeze(0), h.amax((0, 1)), h.amin((0, 1)), torch.norm(h, dim=(0, 1)), h.norm(p=1, dim=0).sum(0), h.std((0, 1)),
                     h.var((0, 1), unbiased=False), torch.logsumexp(h, (0, 1)), h.prod(0).sum(0), h.cumsum(1)[:, -2].sum(0), h.max().expand(5), h.min().expand(5), h.mean().expand(5),
                     h.std().expand(5), torch.topk(h, 2, 1, largest=False)[0].sum((0, 1)), h.sort(1, descending=True)[0][:, 1].sum(0), torch.var_mean(h, 1)[0].sum(0), torch.std_mean(h, (0, 1))[1],
                     h.softmax(0).max(1)[0].sum(0), h.log_softmax(1).min(0)[0].sum(0), h.softmax(-1).pow(2).sum((0, 1))]
            return self.o(torch.tanh(0.1 * torch.stack(parts)))
    return Model(), lambda k: ({"x": torch.randn(3, 4, 4)}, torch.randn(22, 2))


@case("mse", opset=11)
def unique_and_counts():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.o = nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, t):
            u, inv, n = torch.unique(t, return_inverse=True, return_counts=True)
            x = torch.tanh(self.e(u)) / n.unsqueeze(1).to(self.o.weight.dtype)
            return self.o(x[inv])
    return Model(), lambda k: ({"t": tokens(10, 7)}, torch.randn(7, 2))


@case()
def transformer_xl_memory():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.q, self.kv, self.r, self.o, self.n, self.h = nn.Embedding(11, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 16, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 11)
            self.u, self.v = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(2, 4))

        def shift(self, x):
            b, h, t, s = x.shape
            return torch.cat([torch.zeros(b, h, t, 1, dtype=x.dtype), x], 3).view(b, h, s + 1, t)[:, :, 1:].reshape(b, h, t, s)

        def forward(self, t, mem):
            x = self.e(t)
            b, n = t.shape
            c = torch.cat([mem, x], 1)
            s = c.shape[1]
            q = self.q(x).view(b, n, 2, 4)
            k, v = self.kv(c).view(b, s, 2, 2, 4).unbind(2)
            pos = torch.arange(s - 1, -1, -1, dtype=x.dtype)
            f = pos.unsqueeze(1) / 100 ** (torch.arange(0, 4).to(x.dtype) / 4)
            r = self.r(torch.cat([f.sin(), f.cos()], 1)).view(s, 2, 4)
            ac = torch.einsum("bihd,bjhd->bhij", q + self.u, k)
            bd = self.shift(torch.einsum("bihd,jhd->bhij", q + self.v, r))
            mask = torch.ones(n, s, dtype=torch.bool).triu(1 + s - n)
            w = ((ac + bd) / 2).masked_fill(mask, float("-inf")).softmax(-1)
            y = torch.einsum("bhij,bjhd->bihd", w, v).reshape(b, n, 8)
            x = self.n(x + self.o(y))
            return self.h(x), x
    return Model(), lambda k: ({"t": tokens(11, 2, 4), "mem": torch.randn(2, 3, 8)}, tokens(11, 2, 4))


@case(script=True, mode="eval", dynamic={"x": {0: "b", 1: "t"}})
def mamba_selective_scan_scripted():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.x, self.dt, self.a, self.d, self.o = nn.Linear(3, 12), nn.Linear(6, 9), nn.Linear(1, 6), nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.ones(6)), nn.Linear(6, 4)
            self.conv = nn.Conv1d(6, 6, 3, padding=2, groups=6)

        def forward(self, x):
            u, z = self.i(x).chunk(2, 2)
            t = u.shape[1]
            u = F.silu(self.conv(u.transpose(1, 2))[:, :, :t].transpose(1, 2))
            p = self.x(u)
            dt, b, c = F.softplus(self.dt(p[:, :, :1])), p[:, :, 1:5], p[:, :, 5:]
            a = -torch.exp(self.a)
            h = torch.zeros(u.shape[0], 6, 4, dtype=x.dtype)
            ys: List[torch.Tensor] = []
            for s in range(t):
                h = torch.exp(dt[:, s].unsqueeze(-1) * a) * h + (dt[:, s] * u[:, s]).unsqueeze(-1) * b[:, s].unsqueeze(1)
                ys.append((h * c[:, s].unsqueeze(1)).sum(-1))
            y = torch.stack(ys, 1) + u * self.d
            return self.o(y * F.silu(z))
    return Model(), lambda k: ({"x": torch.randn(2, 3 + k, 3)}, tokens(4, 2, 3 + k))


@case(fold=False)
def mha_bias_kv_zero_attention():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.o = nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True), nn.MultiheadAttention(8, 4, kdim=5, vdim=3, bias=False), nn.Linear(8, 3)

        def forward(self, x, k, v, pad):
            y, w = self.a(x, x, x, key_padding_mask=pad, attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(2))
            y = y + self.b(x, k, v, attn_mask=torch.linspace(-1, 1, 20, dtype=x.dtype).view(5, 4))[0]
            return self.o(y), w
    return Model(), lambda k: ({"x": torch.randn(5, 2, 8), "k": torch.randn(4, 2, 5), "v": torch.randn(4, 2, 3), "pad": ~present(lengths_of(2, 5), 5)}, tokens(3, 5, 2))


@case(fresh=True, mode="both")
def fresh_batch_norms_of_inference():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.an, self.b, self.bn, self.c, self.cn, self.o = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6, momentum=0.2), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x):
            x = torch.tanh(self.an(self.a(x)))
            x = torch.tanh(self.bn(self.b(x)))
            return self.o(self.cn(torch.tanh(self.c(x))))
    return Model(), lambda k: ({"x": torch.randn(6, 5)}, tokens(3, 6))


@case(opset=9)
def opset9_recurrent_and_norms():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.n, self.l, self.ln, self.o = nn.Conv2d(1, 4, (3, 1), padding=(1, 0)), nn.InstanceNorm2d(4, affine=True), nn.LSTM(12, 5, bidirectional=True), nn.LayerNorm(10), nn.Linear(10, 4)

        def forward(self, x):
            y = F.leaky_relu(self.n(self.c(x)))
            y = F.max_pool2d(y, (2, 1)).permute(3, 0, 1, 2).flatten(2)
            y, _ = self.l(y)
            y = self.ln(y)
            y = torch.where(y > 0, y, 0.1 * y) + F.softplus(y) * torch.gt(y, 0.2).to(y.dtype)
            return self.o(y.transpose(0, 1)[:, -1] * F.prelu(y.mean(0), torch.tensor([0.25], dtype=x.dtype)))
    return Model(), lambda k: ({"x": torch.randn(2, 1, 6, 4)}, tokens(4, 2))
