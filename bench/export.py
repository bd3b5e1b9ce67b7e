"""Writes the networks that the bench times, with random weights, as PyTorch exports them, and rows.json, which says
with what inputs each is timed. Needs Debian's python3-torch, python3-torchvision and python3-onnx.

    /usr/bin/python3 export.py FOLDER
"""
import json
import math
import os
import sys

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
torch.manual_seed(0)
rows = []


def export(name, model, inputs, rows_of, dynamic=None, opset=17):
    """rows_of: the rows timed on this file, each a name and the shapes that its dynamic inputs have there."""
    path = os.path.join(folder, name + ".onnx")
    model.eval()
    with torch.no_grad():
        torch.onnx.export(model, tuple(inputs.values()), path, opset_version=opset, input_names=list(inputs),
                          dynamic_axes=dynamic, do_constant_folding=True)
    for row, shapes in rows_of.items():
        entry = {"row": row, "model": name + ".onnx", "inputs": {}}
        for key, value in inputs.items():
            integer = value.dtype == torch.int64
            entry["inputs"][key] = {"shape": shapes.get(key, list(value.shape)), "below": int(value.max()) + 1 if integer else 0}
        rows.append(entry)


class Classifier(nn.Module):
    def __init__(self, cell, layers=1, embed=64, hidden=256, both=False):
        super().__init__()
        self.embed = nn.Embedding(1000, embed)
        self.rnn = cell(embed, hidden, layers, batch_first=True, bidirectional=both)
        self.fc = nn.Linear(hidden * (2 if both else 1), 10)

    def forward(self, tokens):
        y, _ = self.rnn(self.embed(tokens))
        return self.fc(y[:, -1])


def tokens(batch, time, vocab=1000):
    t = torch.randint(0, vocab, (batch, time))
    t[0, 0] = vocab - 1
    return t


batch = {"tokens": {0: "batch"}}
for name, cell in [("lstm_classifier", nn.LSTM), ("gru_classifier", nn.GRU)]:
    export(name, Classifier(cell), {"tokens": tokens(32, 50)}, {name + " batch 32": {}, name + " batch 1": {"tokens": [1, 50]}}, batch)
export("bilstm", Classifier(nn.LSTM, 2, 64, 128, True), {"tokens": tokens(1, 100)}, {"bilstm 2x128 T=100 batch 1": {}}, batch)

mlp = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
export("mlp", mlp, {"pixels": torch.randn(64, 784)}, {"mlp batch 64": {}, "mlp batch 1": {"pixels": [1, 784]}}, {"pixels": {0: "batch"}})


class Block(nn.Module):
    """A pre-norm block as models write it by hand, so that the exporter sees its parts."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def split(self, x):
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)

    def attend(self, q, k, v, mask=None):
        scores = q @ k.transpose(2, 3) / math.sqrt(self.size)
        if mask is not None:
            scores = scores + mask
        y = torch.softmax(scores, -1) @ v
        return self.o(y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1))

    def forward(self, x):
        n = self.norm1(x)
        x = x + self.attend(self.split(self.q(n)), self.split(self.k(n)), self.split(self.v(n)))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    def __init__(self, layers, width, heads, length):
        super().__init__()
        self.embed = nn.Embedding(1000, width)
        self.position = nn.Parameter(torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, tokens):
        x = self.embed(tokens) + self.position
        for b in self.blocks:
            x = b(x)
        return x


export("encoder_4x256", Encoder(4, 256, 4, 64), {"tokens": tokens(8, 64)}, {"encoder 4x256 8x64 tokens": {}})
export("encoder_6x384", Encoder(6, 384, 6, 128), {"tokens": tokens(1, 128)}, {"encoder 6x384 T=128": {}})


class Decoder(nn.Module):
    """One token with a cache of keys and values, as GPT-2 is exported for decoding."""

    def __init__(self, layers=6, width=384, heads=6):
        super().__init__()
        self.embed = nn.Embedding(1000, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Linear(width, 1000, bias=False)

    def forward(self, token, past):
        x = self.embed(token)
        present = []
        for i, b in enumerate(self.blocks):
            n = b.norm1(x)
            k = torch.cat([past[i, 0], b.split(b.k(n))], 2)
            v = torch.cat([past[i, 1], b.split(b.v(n))], 2)
            present.append(torch.stack([k, v]))
            x = x + b.attend(b.split(b.q(n)), k, v)
            x = x + b.down(nn.functional.gelu(b.up(b.norm2(x))))
        return self.head(x), torch.stack(present)


export("decoder", Decoder(), {"token": tokens(1, 1), "past": torch.randn(6, 2, 1, 6, 127, 64)}, {"decoder 6x384, token after 127": {}},
       {"past": {4: "past"}})

# Of 500 MB, of which the time from the file to the first output is taken.
export("decoder_10x1024", Decoder(10, 1024, 16), {"token": tokens(1, 1), "past": torch.randn(10, 2, 1, 16, 127, 64)}, {"load of 500 MB to the first output": {}},
       {"past": {4: "past"}})
rows[-1]["load"] = True


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        two = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
                                         nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
        self.down = nn.ModuleList([two(3, 32), two(32, 64), two(64, 128)])
        self.middle = two(128, 256)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, 2) for c in (128, 64, 32))
        self.join = nn.ModuleList(two(2 * c, c) for c in (128, 64, 32))
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x):
        kept = []
        for d in self.down:
            x = d(x)
            kept.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.middle(x)
        for u, j in zip(self.up, self.join):
            x = j(torch.cat([u(x), kept.pop()], 1))
        return self.out(x)


export("unet", UNet(), {"image": torch.randn(1, 3, 128, 128)}, {"unet 128": {}})

import torchvision.models as vision  # noqa: E402

for name in ("resnet18", "mobilenet_v3_small", "squeezenet1_1"):
    export(name, getattr(vision, name)(weights=None), {"image": torch.randn(1, 3, 224, 224)}, {name + " 224": {}})



def quantize_products(source, name, row):
    """A copy of a network with its products by constants on bytes, as ONNX Runtime's quantize_dynamic writes them: activations are
    quantized when they are known, weights by column."""
    model = onnx.load(os.path.join(folder, source + ".onnx"))
    graph = model.graph
    consts = {t.name: t for t in graph.initializer}
    consts.update({n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"})
    nodes = []
    for i, n in enumerate(graph.node):
        weight = consts.get(n.input[1]) if n.op_type in ("MatMul", "Gemm") else None
        if weight is None:
            nodes.append(n)
            continue
        w = numpy_helper.to_array(weight)
        if n.op_type == "Gemm":  # torch's Linear of two dimensions: transB
            w = w.T
        scale = np.maximum(np.abs(w).max(0) / 127, 1e-12).astype(np.float32)
        part = lambda what: f"quantized_{i}_{what}"
        graph.initializer.extend([
            numpy_helper.from_array(np.ascontiguousarray(np.round(w / scale).astype(np.int8)), part("weight")),
            numpy_helper.from_array(scale, part("scale")), numpy_helper.from_array(np.zeros(len(scale), np.int8), part("zero"))])
        out = n.output[0] if n.op_type == "MatMul" else part("product")
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [n.input[0]], [part("a"), part("a_scale"), part("a_zero")]),
            helper.make_node("MatMulInteger", [part("a"), part("weight"), part("a_zero"), part("zero")], [part("sums")]),
            helper.make_node("Cast", [part("sums")], [part("floats")], to=TensorProto.FLOAT),
            helper.make_node("Mul", [part("a_scale"), part("scale")], [part("scales")]),
            helper.make_node("Mul", [part("floats"), part("scales")], [out])]
        if n.op_type == "Gemm":
            nodes.append(helper.make_node("Add", [out, n.input[2]], [n.output[0]]))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for n in graph.node for name in n.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.save(model, os.path.join(folder, name + ".onnx"))
    entry = next(r for r in rows if r["model"] == source + ".onnx")
    rows.append({**entry, "row": row, "model": name + ".onnx", "quantized": True})


quantize_products("mlp", "mlp_int8", "int8 mlp batch 64")
quantize_products("encoder_4x256", "encoder_4x256_int8", "int8 encoder 4x256 8x64 tokens")
quantize_products("encoder_6x384", "encoder_6x384_int8", "int8 encoder 6x384 T=128")

for m, k, n in [(512, 768, 3072), (1024, 1024, 1024)]:
    export(f"product_{m}_{k}_{n}", nn.Linear(k, n, bias=False), {"a": torch.randn(m, k)}, {f"product by a constant {m}×{n}×{k}": {}})
    quantize_products(f"product_{m}_{k}_{n}", f"product_{m}_{k}_{n}_int8", f"int8 product {m}×{n}×{k}")


def quantize_lstm():
    """The LSTM classifier with ONNX Runtime's DynamicQuantizeLSTM, whose weights are transposed bytes."""
    model = onnx.load(os.path.join(folder, "lstm_classifier.onnx"))
    graph = model.graph
    consts = {t.name: t for t in graph.initializer}
    for n in graph.node:
        if n.op_type != "LSTM":
            continue
        n.op_type, n.domain = "DynamicQuantizeLSTM", "com.microsoft"
        extra = []
        for i, what in ((1, "W"), (2, "R")):
            w = numpy_helper.to_array(consts[n.input[i]]).transpose(0, 2, 1)
            scale = (np.abs(w).max((1, 2)) / 127).astype(np.float32)
            n.input[i] = "quantized_" + what
            graph.initializer.extend([
                numpy_helper.from_array(np.ascontiguousarray(np.round(w / scale[:, None, None]).astype(np.int8)), n.input[i]),
                numpy_helper.from_array(scale, what + "_scale"), numpy_helper.from_array(np.zeros(len(scale), np.int8), what + "_zero")])
            extra += [what + "_scale", what + "_zero"]
        n.input.extend([""] * (8 - len(n.input)) + extra)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, os.path.join(folder, "lstm_classifier_int8.onnx"))
    for entry in [r for r in rows if r["model"] == "lstm_classifier.onnx"]:
        rows.append({**entry, "row": "int8 " + entry["row"], "model": "lstm_classifier_int8.onnx", "quantized": True})


quantize_lstm()

for name, row in [("resnet18", "int8 resnet18 224"), ("mobilenet_v2", "int8 mobilenet_v2 224"), ("mobilenet_v3_large", "int8 mobilenet_v3_large 224")]:
    net = getattr(vision.quantization, name)(weights=None, quantize=False).eval()
    net.fuse_model()
    net.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    torch.ao.quantization.prepare(net, inplace=True)
    with torch.no_grad():
        net(torch.randn(4, 3, 224, 224))
    torch.ao.quantization.convert(net, inplace=True)
    export(name + "_int8", net, {"image": torch.randn(1, 3, 224, 224)}, {row: {}}, opset=13)
    rows[-1]["quantized"] = True

with open(os.path.join(folder, "rows.json"), "w") as f:
    json.dump(rows, f, indent=1)
