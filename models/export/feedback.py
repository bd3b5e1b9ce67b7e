"""feedback and feedback_converge: a network of N hidden layers whose layers all feed back.

    h_i(t+1) = tanh(W_ii h_i + W_i,i-1 h_i-1 + W_i,o h_o)    h_0 is the input, held fixed
    h_o(t+1) = tanh(W_oo h_o + W_o,N h_N)

All layers step at once, from zero. One runs for a number of steps (Loop with a trip count), the other
until no unit moves by as much as a tolerance (Loop with a condition). Both are scripted.
"""
from typing import List

import torch
from torch import nn

import record

INPUT, HIDDEN, OUTPUT, BATCH = 10, [16, 16], 4, 16


class Layer(nn.Module):
    """One layer's step: from itself, from the layer below, and from the output if it is hidden."""

    def __init__(self, size, below, out=0):
        super().__init__()
        self.own = nn.Linear(size, size, bias=False)
        self.below = nn.Linear(below, size, bias=False)
        self.back = nn.Linear(out, size, bias=False) if out else None

    def forward(self, own, below, out):
        total = self.own(own) + self.below(below)
        if self.back is not None:
            total = total + self.back(out)
        return torch.tanh(total)


class Feedback(nn.Module):
    sizes: List[int]

    def __init__(self, inputs, hidden, output):
        super().__init__()
        below = [inputs] + hidden
        self.hidden = nn.ModuleList(Layer(size, below[i], output) for i, size in enumerate(hidden))
        self.output = Layer(output, hidden[-1])
        self.sizes = hidden + [output]

    def step(self, x, state):
        """state is every layer's activation side by side, the output's last."""
        below, out = x, state[:, -self.sizes[-1]:]
        after: List[torch.Tensor] = []
        at = 0
        for i, layer in enumerate(self.hidden):
            own = state[:, at:at + self.sizes[i]]
            after.append(layer(own, below, out))
            below = own
            at += self.sizes[i]
        after.append(self.output(out, below, out))
        return torch.cat(after, 1)

    def forward(self, x, steps):
        state = torch.zeros(x.shape[0], sum(self.sizes), dtype=x.dtype)
        for _ in range(int(steps)):
            state = self.step(x, state)
        return state[:, -self.sizes[-1]:], state


class FeedbackConverge(Feedback):
    def forward(self, x, max_steps):
        state = torch.zeros(x.shape[0], sum(self.sizes), dtype=x.dtype)
        moving, count = True, 0
        while moving and count < int(max_steps):
            before, state = state, self.step(x, state)
            moving = bool((state - before).abs().max() >= 1e-5)
            count += 1
        return state[:, -self.sizes[-1]:], state, torch.tensor(count)


def clear_cut(model, x, limit):
    """No move is so near the tolerance that rounding could change the number of steps."""
    state = torch.zeros(len(x), sum(model.sizes))
    for _ in range(limit):
        before, state = state, model.step(x, state)
        move = (state - before).abs().max().item()
        assert abs(move - 1e-5) > 0.05 * 1e-5, move


def shipped(name, network, limit, outputs, more):
    path = record.folder(name)
    torch.manual_seed(1)
    model = network(INPUT, HIDDEN, OUTPUT).eval()
    x = torch.randn(10 * BATCH, INPUT)
    inputs = {"x": x[:3], limit: torch.tensor(more[0])}
    axis = {0: "batch"}
    graph = record.export(torch.jit.script(model), path, inputs, outputs, {n: axis for n in ("x", "output", "state")})
    assert sum(n.op_type == "Loop" for n in graph.node) == 1
    record.data_set(model, path, inputs, outputs)
    for k, steps in enumerate(more[1:]):
        record.data_set(model, path, {"x": x[4:9 + k], limit: torch.tensor(steps)}, outputs)
    record.gradients(model, path, inputs)
    if network is FeedbackConverge:
        with torch.no_grad():
            clear_cut(model, inputs["x"], more[0])
    target = torch.stack([x[:, :3].mean(1), x[:, 3:6].prod(1).tanh(), x[:, 6].sin(), x[:, 7] * 0.5], 1)
    record.curves(model, path, {"x": x, "target": target}, loss="mse", output="output", batch_size=BATCH,
                  fixed={limit: torch.tensor(more[0])}, rates={"sgd_momentum": 0.02})


shipped("feedback", Feedback, "steps", ["output", "state"], [12, 1, 0])
shipped("feedback_converge", FeedbackConverge, "max_steps", ["output", "state", "count"], [200, 3])
