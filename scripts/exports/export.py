"""Exports networks as PyTorch and torchvision have them, with random weights, at several opsets, each with inputs and the answers
of PyTorch beside it in the layout of the standard's cases. Needs Debian's python3-torch, python3-torchvision and python3-onnx.

    /usr/bin/python3 export.py FOLDER [NAME…]
"""
import json
import os
import random
import sys
import warnings

import numpy as np
import onnx.numpy_helper
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

warnings.filterwarnings("ignore")
OPSETS = (9, 11, 13, 17)
cases = {}


def case(name, opsets=OPSETS, script=False, train=False):
    """Registers a function that gives a module and its inputs. Some modules the exporter can only write as they train."""
    def add(f):
        cases[name] = (f, opsets, script, train)
        return f
    return add


def image(n=1, size=96):
    return torch.randn(n, 3, size, size)


for name, size in {"resnet18": 96, "mobilenet_v2": 96, "mobilenet_v3_small": 96, "mobilenet_v3_large": 96, "densenet121": 64, "shufflenet_v2_x0_5": 96,
                   "efficientnet_b0": 96, "squeezenet1_1": 96, "googlenet": 96, "inception_v3": 160, "mnasnet0_5": 96, "regnet_y_400mf": 96,
                   "resnext50_32x4d": 64, "convnext_tiny": 64, "swin_t": 64, "vit_b_16": 224, "maxvit_t": 224}.items():
    def make(name=name, size=size):
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return getattr(torchvision.models, name)(weights=None, **options), (image(1, size),)
    # Large files: the newest of the opsets and the oldest that most exports have.
    case(name, (11, 17) if name in ("swin_t", "maxvit_t", "convnext_tiny", "resnext50_32x4d") else OPSETS, train=name == "vit_b_16")(make)

for name in ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"):
    def make(name=name):
        class Only(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=5)

            def forward(self, x):
                return self.net(x)["out"]
        return Only(), (image(1, 64),)
    case(name, (11, 17))(make)

def detector(name, **options):
    """A detector whose scores tell boxes apart, as those of fresh weights do not."""
    net = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, num_classes=4, **options)
    for p in net.parameters():
        if p.dim() > 1:
            nn.init.kaiming_normal_(p)
    return net, ([torch.rand(3, 320, 320)],)


case("ssdlite320_mobilenet_v3_large", (11, 13, 17))(lambda: detector("ssdlite320_mobilenet_v3_large", detections_per_img=100))
case("fasterrcnn_mobilenet_v3_large_320_fpn", (11, 13, 17))(lambda: detector("fasterrcnn_mobilenet_v3_large_320_fpn", box_detections_per_img=50))



for name in ("regnet_x_400mf", "mnasnet1_3", "shufflenet_v2_x1_0"):
    case(name, (11, 17))(lambda name=name: (getattr(torchvision.models, name)(weights=None, num_classes=7), (image(1, 64),)))
case("r3d_18", (11, 17))(lambda: (torchvision.models.video.r3d_18(weights=None, num_classes=7), (torch.randn(1, 3, 4, 32, 32),)))


@case("transformer_with_masks", (11, 13, 17), train=True)
def _():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Transformer(16, 4, 1, 1, 24, dropout=0, batch_first=True)

        def forward(self, source, target, mask, padding):
            return self.net(source, target, tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    return Masked(), (torch.randn(2, 6, 16), torch.randn(2, 5, 16), nn.Transformer.generate_square_subsequent_mask(5), padding)


for what, options in {"sequence_first": {}, "no_bias": {"bias": False}, "bias_kv": {"add_bias_kv": True}, "zero_attn": {"add_zero_attn": True}, "averaged": {"batch_first": True}}.items():
    @case("mha_" + what, (11, 13, 17))
    def _(options=options, what=what):
        class Attend(nn.Module):
            def __init__(self):
                super().__init__()
                self.mha = nn.MultiheadAttention(12, 3, **options)

            def forward(self, q, k):
                return self.mha(q, k, k, average_attn_weights=what == "averaged")
        return Attend(), (torch.randn(4, 2, 12), torch.randn(4, 2, 12))


class Recurrent(nn.Module):
    def __init__(self, cell, packed=False, states=False, **options):
        super().__init__()
        self.rnn = cell(5, 6, batch_first=True, **options)
        self.packed, self.states = packed, states

    def forward(self, x, lengths=None, h=None, c=None):
        state = h if c is None else (h, c)
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        y, last = self.rnn(x, state)
        if self.packed:
            y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        return (y, *last) if isinstance(last, tuple) else (y, last)


for kind, cell in {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}.items():
    for what, options in {"plain": {}, "two_layers": {"num_layers": 2}, "both": {"bidirectional": True}, "two_both": {"num_layers": 2, "bidirectional": True},
                          "no_bias": {"bias": False}}.items():
        case(f"{kind}_{what}")(lambda cell=cell, options=options: (Recurrent(cell, **options), (torch.randn(3, 7, 5),)))
    case(f"{kind}_packed")(lambda cell=cell: (Recurrent(cell, packed=True), (torch.randn(3, 7, 5), torch.tensor([7, 4, 2]))))
    case(f"{kind}_packed_both")(lambda cell=cell: (Recurrent(cell, packed=True, num_layers=2, bidirectional=True), (torch.randn(3, 7, 5), torch.tensor([7, 4, 2]))))


for kind, cell in {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}.items():
    class Last(nn.Module):  # of a packed batch the states alone, from states that are given
        def __init__(self, cell=cell):
            super().__init__()
            self.rnn = cell(5, 6, bidirectional=True)

        def forward(self, x, lengths, h):
            state = (h, h * 0.5) if isinstance(self.rnn, nn.LSTM) else h
            return self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths), state)[1]
    case(f"{kind}_packed_states")(lambda Last=Last: (Last(), (torch.randn(7, 3, 5), torch.tensor([7, 4, 2]), torch.randn(2, 3, 6))))


@case("lstm_cell_by_hand")
def _():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(4, 5)

        def forward(self, x, h, c):
            out = []
            for t in range(x.shape[1]):
                h, c = self.cell(x[:, t], (h, c))
                out.append(h)
            return torch.stack(out, 1), h, c
    return Steps(), (torch.randn(2, 4, 4), torch.zeros(2, 5), torch.zeros(2, 5))


@case("seq2seq_attention")
def _():
    class Seq2Seq(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.encoder = nn.Embedding(20, 6), nn.GRU(6, 8, batch_first=True)
            self.cell, self.key, self.out = nn.GRUCell(14, 8), nn.Linear(8, 8), nn.Linear(8, 20)

        def forward(self, source, target):
            memory, h = self.encoder(self.embed(source))
            h, keys, logits = h[0], self.key(memory), []
            for t in range(target.shape[1]):
                weights = torch.softmax(torch.bmm(keys, h.unsqueeze(2)).squeeze(2), 1)
                context = (weights.unsqueeze(2) * memory).sum(1)
                h = self.cell(torch.cat([self.embed(target[:, t]), context], 1), h)
                logits.append(self.out(h))
            return torch.stack(logits, 1)
    return Seq2Seq(), (torch.randint(0, 20, (2, 6)), torch.randint(0, 20, (2, 4)))


@case("transformer_encoder", (11, 13, 17), train=True)
def _():
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0, batch_first=True)
    return nn.TransformerEncoder(layer, 2), (torch.randn(2, 5, 16),)


@case("transformer_norm_first", (11, 13, 17))
def _():
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True, activation="gelu"), (torch.randn(2, 5, 16), torch.triu(torch.full((5, 5), float("-inf")), 1))


@case("transformer_decoder", (11, 13, 17))
def _():
    return nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), (torch.randn(2, 5, 16), torch.randn(2, 3, 16))


@case("multihead_attention")
def _():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.mha = nn.MultiheadAttention(12, 3, batch_first=True, kdim=8, vdim=10)

        def forward(self, q, k, v, padding):
            return self.mha(q, k, v, key_padding_mask=padding)
    return Attend(), (torch.randn(2, 4, 12), torch.randn(2, 5, 8), torch.randn(2, 5, 10), torch.tensor([[False] * 5, [False, False, False, True, True]]))


@case("norms")
def _():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(4, 8), nn.Conv2d(8, 8, 3, groups=4), nn.InstanceNorm2d(8, affine=True),
                         nn.LayerNorm([8, 12, 12]), nn.LocalResponseNorm(3)), (image(2, 16),)


@case("activations", (13, 17))
def _():
    class All(nn.Module):
        def forward(self, x):
            fs = [F.relu, F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.leaky_relu, F.softplus, F.softsign, F.logsigmoid,
                  F.tanhshrink, F.softshrink, F.hardshrink, torch.sigmoid, torch.tanh, torch.erf, torch.exp, F.glu]
            return tuple(f(x) for f in fs) + (F.softmax(x, 1), F.log_softmax(x, 0), F.gelu(x, approximate="tanh"), F.prelu(x, torch.tensor([0.3])), F.threshold(x, 0.0, 0.0))
    return All(), (torch.randn(3, 6),)


@case("pools", (11, 13, 17))
def _():
    class All(nn.Module):
        def forward(self, x):
            return (F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 2, ceil_mode=True), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), F.avg_pool2d(x, 3, 2, ceil_mode=True),
                    F.adaptive_avg_pool2d(x, (1, 1)), F.adaptive_avg_pool2d(x, (4, 4)), F.adaptive_max_pool2d(x, (4, 2)), F.max_pool2d(x, 3, dilation=2), F.lp_pool2d(x, 2, 3))
    return All(), (torch.rand(1, 2, 12, 12),)


@case("resizes", (11, 13, 17))
def _():
    class All(nn.Module):
        def forward(self, x):
            return (F.interpolate(x, scale_factor=2), F.interpolate(x, size=(9, 5)), F.interpolate(x, scale_factor=1.7, mode="bilinear"),
                    F.interpolate(x, size=(13, 4), mode="bilinear", align_corners=True), F.interpolate(x, scale_factor=2.5, mode="bicubic"),
                    F.interpolate(x, size=(4, 4), mode="nearest"), F.pixel_shuffle(x, 2))
    return All(), (torch.randn(1, 4, 7, 6),)


@case("upsample_of_old", (9,))
def _():
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="nearest")), (image(1, 6),)


@case("transposed_convs")
def _():
    return nn.Sequential(nn.ConvTranspose2d(3, 6, 3, 2, 1, 1), nn.ConvTranspose2d(6, 4, 4, 2, groups=2, dilation=2)), (image(1, 6),)


@case("conv_1d_3d")
def _():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(4, 6, 5, padding=2, dilation=2), nn.Conv3d(2, 3, (2, 3, 3), stride=(1, 2, 1))
            self.d = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")

        def forward(self, x, y, z):
            return self.a(x), self.b(y), self.d(z)
    return Both(), (torch.randn(2, 4, 12), torch.randn(1, 2, 4, 7, 5), image(1, 7))


@case("indexing", (11, 13, 17))
def _():
    class All(nn.Module):
        def forward(self, x, i):
            y = x.clone()
            y[:, 1:3] = 2.0
            z = x.index_put((i,), torch.ones(3, 6))
            return (y, z, x[i], x[:, i], x[..., ::2], x.gather(1, i.unsqueeze(0).expand(4, 3)), x.scatter(1, i.unsqueeze(0).expand(4, 3), 5.0), x.scatter_add(1, i.unsqueeze(0).expand(4, 3), torch.ones(4, 3)),
                    x.index_select(0, i), x.masked_fill(x > 0, -1.0), x.masked_select(x > 0), torch.where(x > 0, x, -x), x.nonzero(), x.flip(0), x.roll(2, 1), x.unbind(0)[1], x.narrow(1, 2, 3))
    return All(), (torch.randn(4, 6), torch.tensor([1, 0, 3]))


@case("reductions")
def _():
    class All(nn.Module):
        def forward(self, x):
            return (x.sum(), x.mean(1), x.mean((0, 2), keepdim=True), x.prod(1), x.max(1)[0], x.max(1)[1], x.min(2, keepdim=True)[0], x.norm(dim=1), x.norm(p=1, dim=2), x.std(1), x.var(2, unbiased=False),
                    x.argmax(1), x.argmin(2), x.logsumexp(1), torch.cumsum(x, 1) if OPSET >= 11 else x, x.abs().amax(1), x.any() if False else x.gt(0).float().sum())
    return All(), (torch.randn(2, 3, 4),)


@case("elementwise")
def _():
    class All(nn.Module):
        def forward(self, x, y):
            return (x + y, x - y, x * y, x / y, x.pow(2), y.abs().pow(0.5), x.clamp(-0.5, 0.5), torch.max(x, y), torch.min(x, y), x.floor(), x.ceil(), x.sign(), x.sqrt().isnan().float(), 1 - x, x % 2.0,
                    x.abs().log(), x.abs().rsqrt(), x.reciprocal(), x.sin(), x.cos(), x.tan(), x.atan(), x.lt(y), x.eq(y), (x > 0) & (y > 0), (x > 0) | (y > 0), ~(x > 0), x.addcmul(x, y, value=0.5),
                    torch.div(x, 0.3, rounding_mode="floor"), x.round() if OPSET >= 11 else x, x.log1p().nan_to_num() if OPSET >= 11 else x)
    return All(), (torch.randn(3, 4), torch.randn(4))


@case("shapes")
def _():
    class All(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            return (x.view(n, c, h * w).transpose(1, 2), x.reshape(n, -1), x.permute(0, 2, 3, 1), x.flatten(1), x.unsqueeze(1).squeeze(1), x.expand(2, c, h, w), x.repeat(1, 2, 1, 1), torch.cat([x, x], 1),
                    torch.stack([x, x], 0), x.split(1, 1)[0], x.chunk(2, 2)[1], F.pad(x, (1, 2, 0, 1)), F.pad(x, (1, 1, 1, 1), mode="reflect"), F.pad(x, (1, 0, 1, 0), mode="replicate"),
                    torch.arange(w).float() + x, torch.ones(n, c), torch.zeros_like(x), torch.full((n, 2), 3.0), x.new_zeros(c, h))
    return All(), (torch.randn(1, 3, 4, 6),)


@case("products", (13, 17))
def _():
    class All(nn.Module):
        def forward(self, x, y):
            return (torch.einsum("bij,bjk->bik", x, y), torch.einsum("bij->bji", x), torch.matmul(x, y), torch.bmm(x, y), torch.addmm(x[0, :, :1], x[0], y[0, :, :1]), x @ y[0], torch.baddbmm(torch.zeros(1), x, y),
                    torch.outer(x[0, 0], y[0, :, 0]), torch.tensordot(x, y, ([2], [1])))
    return All(), (torch.randn(2, 3, 4), torch.randn(2, 4, 5))


@case("sorts", (17,))
def _():
    class All(nn.Module):
        def forward(self, x):
            return (*x.topk(3), *x.sort(1), x.argsort(1, descending=True), *x[0].unique(sorted=True, return_inverse=True), F.one_hot(x.argmax(1), 6), x.tril(), x.triu(1), torch.cumsum(x, 0))
    return All(), (torch.randn(4, 6),)


@case("grid_sample", (17,))
def _():
    class All(nn.Module):
        def forward(self, x, grid):
            return F.grid_sample(x, grid, align_corners=False), F.grid_sample(x, grid, mode="nearest", padding_mode="border", align_corners=True)
    return All(), (torch.randn(1, 2, 6, 6), torch.rand(1, 5, 5, 2) * 2.4 - 1.2)


@case("embeddings", (11, 13, 17))
def _():
    class All(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.bag = nn.Embedding(10, 4, padding_idx=0), nn.EmbeddingBag(10, 4, mode="mean")

        def forward(self, i):
            return self.embed(i), self.bag(i)
    return All(), (torch.randint(0, 10, (2, 5)),)


@case("losses", (13, 17))
def _():
    class All(nn.Module):
        def forward(self, x, target, y):
            return (F.cross_entropy(x, target), F.nll_loss(F.log_softmax(x, 1), target), (x - y).pow(2).mean(), (x - y).abs().mean(), F.binary_cross_entropy_with_logits(x, y.sigmoid()),
                    F.kl_div(F.log_softmax(x, 1), F.softmax(y, 1), reduction="batchmean"))
    return All(), (torch.randn(4, 5), torch.randint(0, 5, (4,)), torch.randn(4, 5))


@case("scripted_loop", (11, 13, 17), script=True)
def _():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = nn.Linear(4, 4)

        def forward(self, x, n: int):
            for i in range(n):
                x = torch.tanh(self.step(x))
            return x
    return Loop(), (torch.randn(2, 4), torch.tensor(5))


@case("scripted_while", (11, 13, 17), script=True)
def _():
    class While(nn.Module):
        def forward(self, x):
            k = torch.zeros(1)
            while bool(x.abs().sum() > 1.0):
                x = x * 0.7
                k = k + 1
            return x, k
    return While(), (torch.randn(3, 4) * 4,)


@case("scripted_if", (11, 13, 17), script=True)
def _():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            if bool(x.sum() > 0):
                y = self.a(x)
            else:
                y = self.b(x).relu()
            return y * 2
    return Branch(), (torch.randn(2, 4),)


@case("scripted_seq2seq", (11, 13, 17), script=True)
def _():
    class Greedy(nn.Module):
        """Attention over what is encoded, step by step, each on the word that the last one chose."""
        def __init__(self):
            super().__init__()
            self.embed, self.encoder, self.cell, self.out = nn.Embedding(20, 6), nn.GRU(6, 8, batch_first=True), nn.Linear(22, 8), nn.Linear(8, 20)

        def forward(self, source, steps: int):
            memory, state = self.encoder(self.embed(source))
            h = state[0]
            word = source[:, 0]
            logits = torch.zeros(0, source.shape[0], 20)
            for i in range(steps):
                weights = torch.softmax(torch.bmm(memory, h.unsqueeze(2)).squeeze(2), 1)
                h = torch.tanh(self.cell(torch.cat([self.embed(word), (weights.unsqueeze(2) * memory).sum(1), h], 1)))
                y = self.out(h)
                logits = torch.cat([logits, y.unsqueeze(0)])
                word = y.argmax(1)
            return logits
    return Greedy(), (torch.randint(0, 20, (2, 6)), torch.tensor(4))


def flat(v):
    if isinstance(v, torch.Tensor):
        return [v]
    if isinstance(v, dict):
        v = v.values()
    return [t for x in v for t in flat(x)]


def write(folder, inputs, answers):
    # Sums in another order differ by the last bits of their terms, which for a small result is more than its own.
    greatest = max((float(v.abs().max()) for v in answers if v.is_floating_point() and v.numel() and bool(v.isfinite().all())), default=0.0)
    with open(os.path.join(folder, "META.json"), "w") as f:
        json.dump({"Tol": [1e-4, 2e-5 * max(greatest, 1e-3)]}, f)
    data = os.path.join(folder, "test_data_set_0")
    os.makedirs(data, exist_ok=True)
    for kind, values in (("input", inputs), ("output", answers)):
        for i, v in enumerate(values):
            with open(os.path.join(data, f"{kind}_{i}.pb"), "wb") as f:
                f.write(onnx.numpy_helper.from_array(v.detach().numpy()).SerializeToString())


def main():
    global OPSET
    folder, wanted = sys.argv[1], sys.argv[2:]
    refused = []
    for name, (make, opsets, script, train) in cases.items():
        if wanted and name not in wanted:
            continue
        for OPSET in opsets:
            random.seed(0), np.random.seed(0), torch.manual_seed(0)
            model, inputs = make()
            model.train(train)
            out = os.path.join(folder, f"{name}-{OPSET}")
            os.makedirs(out, exist_ok=True)
            path = os.path.join(out, "model.onnx")
            try:
                with torch.no_grad():
                    answers = model(*[int(x) if script and x.dim() == 0 else x for x in inputs])
                    exported = torch.jit.script(model) if script else model
                    torch.onnx.export(exported, inputs if not script else tuple(inputs), path, opset_version=OPSET, keep_initializers_as_inputs=OPSET < 11,
                                      training=torch.onnx.TrainingMode.PRESERVE)
            except Exception as e:  # what the exporter has no way to write
                refused.append(f"{name} at opset {OPSET}: {str(e).strip().splitlines()[0][:140]}")
                for f in os.listdir(out):
                    os.remove(os.path.join(out, f))
                os.rmdir(out)
                continue
            # The exporter leaves out inputs that nothing reads.
            graph = onnx.load(path).graph
            held = {t.name for t in graph.initializer}
            count = len([v for v in graph.input if v.name not in held])
            write(out, flat(list(inputs))[:count], flat([answers]))
    for line in refused:
        print("PyTorch does not export", line)


main()
