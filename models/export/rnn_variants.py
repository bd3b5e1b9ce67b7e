"""rnn_variants: nn.RNN, nn.LSTM and nn.GRU in the forms in which people export them, with random weights."""
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import record

INPUT, HIDDEN, TIME = 5, 6, 7
KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Plain(nn.Module):
    """From zero states."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)


class Initial(Plain):
    """From states that are inputs."""

    def forward(self, x, h0):
        return self.rnn(x, h0)


class InitialLSTM(Plain):
    def forward(self, x, h0, c0):
        return self.rnn(x, (h0, c0))


class Packed(Plain):
    """Over sequences of different lengths, in any order, from zero states that are written out:
    left to PyTorch, the exporter takes their batch size for a constant."""

    def zeros(self, lengths):
        zeros = torch.zeros(self.rnn.num_layers * (2 if self.rnn.bidirectional else 1), lengths.shape[0], HIDDEN)
        return (zeros, zeros) if self.rnn.mode == "LSTM" else zeros

    def run(self, x, lengths):
        first = self.rnn.batch_first
        y, state = self.rnn(pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False), self.zeros(lengths))
        return pad_packed_sequence(y, batch_first=first)[0], state

    def forward(self, x, lengths):
        return self.run(x, lengths)


class LastState(Packed):
    """Only the last state."""

    def forward(self, x, lengths):
        return self.run(x, lengths)[1]


class FixedBatch(Packed):
    """From PyTorch's own zeros."""

    def zeros(self, lengths):
        return None


VARIANTS = {
    "rnn_tanh": ("rnn", Plain, {}),
    "rnn_relu_batch_first": ("rnn", Plain, {"nonlinearity": "relu", "batch_first": True}),
    "rnn_tanh_2_layers_bidirectional_initial": ("rnn", Initial, {"num_layers": 2, "bidirectional": True}),
    "lstm": ("lstm", Plain, {}),
    "lstm_no_bias": ("lstm", Plain, {"bias": False}),
    "lstm_batch_first_initial": ("lstm", InitialLSTM, {"batch_first": True}),
    "lstm_bidirectional": ("lstm", Plain, {"bidirectional": True}),
    "lstm_2_layers": ("lstm", Plain, {"num_layers": 2}),
    "lstm_2_layers_bidirectional_batch_first_initial": ("lstm", InitialLSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "lstm_packed": ("lstm", Packed, {"batch_first": True}),
    "lstm_packed_bidirectional": ("lstm", Packed, {"bidirectional": True}),
    "lstm_packed_fixed_batch": ("lstm", FixedBatch, {}),
    "lstm_packed_last_state": ("lstm", LastState, {"batch_first": True}),
    "lstm_not_folded": ("lstm", InitialLSTM, {"batch_first": True, "do_constant_folding": False}),
    "gru": ("gru", Plain, {}),
    "gru_no_bias": ("gru", Plain, {"bias": False}),
    "gru_batch_first_initial": ("gru", Initial, {"batch_first": True}),
    "gru_2_layers_bidirectional": ("gru", Plain, {"num_layers": 2, "bidirectional": True}),
    "gru_packed_bidirectional": ("gru", Packed, {"bidirectional": True, "batch_first": True}),
    "gru_not_folded": ("gru", Plain, {"bidirectional": True, "do_constant_folding": False}),
}


def example(rnn, module, batch, time):
    x = torch.randn(batch, time, INPUT) if rnn.batch_first else torch.randn(time, batch, INPUT)
    inputs = {"x": x}
    layers = rnn.num_layers * (2 if rnn.bidirectional else 1)
    if module in (Initial, InitialLSTM):
        inputs["h0"] = torch.randn(layers, batch, HIDDEN)
    if module is InitialLSTM:
        inputs["c0"] = torch.randn(layers, batch, HIDDEN)
    if issubclass(module, Packed):
        lengths = 1 + torch.randperm(time)[:batch]
        lengths[batch // 2] = time  # not the first, so that the order is not already descending
        inputs["lengths"] = lengths
    return inputs


for number, (name, (kind, module, options)) in enumerate(VARIANTS.items()):
    torch.manual_seed(number)
    folding = {k: v for k, v in options.items() if k == "do_constant_folding"}
    rnn = KINDS[kind](INPUT, HIDDEN, **{k: v for k, v in options.items() if k not in folding})
    model = module(rnn).eval()
    path = record.folder("rnn_variants/" + name)
    inputs = example(rnn, module, 3, TIME)
    states = ["hn", "cn"] if kind == "lstm" else ["hn"]
    outputs = states if module is LastState else ["y", *states]
    batch, time = (0, 1) if rnn.batch_first else (1, 0)
    sequence = {batch: "batch", time: "time"}
    dynamic = {"x": sequence, "y": sequence, "lengths": {0: "batch"}, **{s: {1: "batch"} for s in ("h0", "c0", "hn", "cn")}}
    record.export(model, path, inputs, outputs, {n: a for n, a in dynamic.items() if n in [*inputs, *outputs]}, **folding)
    record.data_set(model, path, inputs, outputs)
    record.data_set(model, path, example(rnn, module, 3 if module is FixedBatch else 2, 4), outputs)
    record.gradients(model, path, inputs)
