"""Writes fake_quantize.json beside it: the straight-through estimates of PyTorch. Recorded with PyTorch 1.13.

cases: rounding to qmin … qmax and back by scales and zero points, for all or for each index of an axis, with the gradients that dy gives
the input and, where the scales are learned, them.
training: two layers whose weights and activations are rounded, and their losses over steps of SGD. The weights begin as numbers that
rounding leaves as they are.
"""
import json
import os

import torch

torch.manual_seed(0)
INT8, UINT8 = (-128, 127), (0, 255)


def listed(t):
    return t.detach().flatten().tolist()


def case(scale, zero, bounds, axis=None, learned=False):
    shape = (3, 4)
    x = (torch.randn(shape) * 2).requires_grad_()
    with torch.no_grad():  # near 0, and beyond both ends (not half a step: ONNX divides by the scale, where PyTorch multiplies by its inverse)
        x.view(-1)[0], x.view(-1)[1], x.view(-1)[2], x.view(-1)[3] = 2.3 * scale[0], -1.7 * scale[0], 300 * max(scale), -300 * max(scale)
    s, z = torch.tensor(scale), torch.tensor(zero, dtype=torch.float if learned else torch.int32)
    s.requires_grad_(learned)
    if learned and axis is None:
        y = torch._fake_quantize_learnable_per_tensor_affine(x, s, z, *bounds, 1.0)
    elif learned:
        y = torch._fake_quantize_learnable_per_channel_affine(x, s, z, axis, *bounds, 1.0)
    elif axis is None:
        y = torch.fake_quantize_per_tensor_affine(x, scale[0], zero[0], *bounds)
    else:
        y = torch.fake_quantize_per_channel_affine(x, s, z, axis, *bounds)
    dy = torch.randn(shape)
    y.backward(dy)
    return {"shape": shape, "scale": scale, "zero": zero, "signed": bounds == INT8, "axis": axis, "x": listed(x), "dy": listed(dy), "y": listed(y), "dx": listed(x.grad),
            "dscale": listed(s.grad) if learned else None}


out = {"cases": []}
for learned in (False, True):
    # PyTorch cuts the negative zero point of a learned scale to the next integer up when it goes backward.
    for bounds, zero in ((INT8, 0), (INT8, 7 if learned else -7), (UINT8, 100)):
        out["cases"].append(case([0.03], [zero], bounds, learned=learned))
        out["cases"].append(case([0.03, 0.02, 0.011], [zero, zero, zero], bounds, 0, learned))
        out["cases"].append(case([0.03, 0.02, 0.011, 0.04], [zero, zero, zero, zero], bounds, 1, learned))


def weight(rows, cols, scale):
    w = torch.randn(rows, cols) * 0.4
    return torch.fake_quantize_per_channel_affine(w, scale, torch.zeros(rows, dtype=torch.int32), 0, *INT8).requires_grad_()


s1, s2 = torch.tensor([0.01, 0.008, 0.006, 0.009, 0.005]), torch.tensor([0.01, 0.007])
w1, b1, w2, b2 = weight(5, 3, s1), torch.zeros(5, requires_grad=True), weight(2, 5, s2), torch.zeros(2, requires_grad=True)
x, target = torch.randn(8, 3), torch.randn(8, 2)
record = {"x": listed(x), "target": listed(target), "w1": listed(w1), "w2": listed(w2), "s1": listed(s1), "s2": listed(s2), "losses": []}
optimizer = torch.optim.SGD([w1, b1, w2, b2], lr=0.1, momentum=0.9)
zeros = lambda s: torch.zeros(len(s), dtype=torch.int32)
for _ in range(20):
    h = torch.fake_quantize_per_tensor_affine(x, 0.02, 128, *UINT8)
    h = torch.relu(h @ torch.fake_quantize_per_channel_affine(w1, s1, zeros(s1), 0, *INT8).T + b1)
    h = torch.fake_quantize_per_tensor_affine(h, 0.01, 0, *UINT8)
    y = h @ torch.fake_quantize_per_channel_affine(w2, s2, zeros(s2), 0, *INT8).T + b2
    loss = torch.nn.functional.mse_loss(y, target)
    record["losses"].append(loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
out["training"] = record
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "fake_quantize.json"), "w") as f:
    json.dump(out, f)
    f.write("\n")
