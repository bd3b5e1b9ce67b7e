"""Records what PyTorch computes for the networks of networks.py: outputs, gradients, and a hundred steps of five optimizers, each in float32 and in
float64, from the weights that it exports. Needs Debian's python3-torch, python3-torchvision and python3-onnx.

    /usr/bin/python3 parity.py FOLDER [NAME…]

A network's folder gets
    about.json              the loss, the mode, and for each optimizer its settings, its losses in float32 and in float64, and how far rounding makes them stray
    batch_N.npz             the inputs of batch N by name, and labels; step s trains on batch s modulo their number
    float32/, float64/      model.onnx, names.json, outputs.npz (N/output) and gradients.npz of the loss of batch 0
    float64/trained.npz     optimizer/parameter: the weights and running statistics after the last step
One that is there already is not made again unless it is named.
"""
import math
import os
import shutil
import sys
import time
import warnings

import numpy as np
import onnx
import torch
from torch.nn import functional as F
from torch.onnx import TrainingMode

import networks

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "export"))
from record import OPTIMIZERS, RATES, as_tuple, names, write_json, write_npz  # noqa: E402

warnings.filterwarnings("ignore")
STEPS, BATCHES = 100, 4


def build(case, dtype, state=None):
    """The module as it is always made, with those parameters and buffers, and the function that makes its batches."""
    torch.manual_seed(0)
    model, batch = case["make"]()
    if not case["fresh"]:
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn_like(p)
    model = model.to(dtype).train(case["mode"] != "eval")
    if state is not None:
        model.load_state_dict(state)
    return model, batch


def cast(inputs, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def loss_of(case, model, inputs, labels):
    y, about = as_tuple(model(*inputs.values()))[0], dict(case["loss"])
    kind = about.pop("kind")
    if "weight" in about:
        about["weight"] = torch.tensor(about["weight"], dtype=y.dtype)
    if kind in ("cross_entropy", "nll"):
        if y.dim() > 2 and labels.shape == y.shape[:-1]:  # classes along the last axis
            y, labels = y.flatten(0, -2), labels.flatten()
    f = {"cross_entropy": F.cross_entropy, "nll": F.nll_loss, "mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss, "bce_with_logits": F.binary_cross_entropy_with_logits}[kind]
    return f(y, labels, **about)


def export(case, model, inputs, folder):
    """Writes the model, and says which inputs the file has."""
    path = folder + "/model.onnx"
    training = TrainingMode.TRAINING if case["mode"] == "train" else TrainingMode.PRESERVE
    model.train(case["mode"] == "train")
    axes = {k: v for k, v in (case["dynamic"] or {}).items() if k in inputs}
    torch.onnx.export(torch.jit.script(model) if case["script"] else model, tuple(inputs.values()), path, opset_version=case["opset"], training=training,
                      input_names=list(inputs), output_names=case["outputs"], do_constant_folding=case["fold"], dynamic_axes=axes, keep_initializers_as_inputs=case["keep"])
    graph = onnx.load(path).graph
    found = names(model, graph)
    for name, p in model.named_parameters():
        if name in found and found[name]["initializer"] is None and "parts" not in found[name]:
            print(f"    {name} {list(p.shape)} is nowhere in the file")
    write_json(folder + "/names.json", {k: v for k, v in found.items() if v["shape"] or v["initializer"]})
    return [v.name for v in graph.input]


def gradients(case, model, inputs, labels):
    loss_of(case, model, inputs, labels).backward()
    return {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}


def curve(case, state, batches, name, rate, dtype, noise=None):
    """The settings, losses, weights of a run. With noise, gradients are disturbed as much as it says, and weights after each step by ten roundings to float32."""
    model, _ = build(case, dtype, state)
    optimizer = OPTIMIZERS[name](model.parameters(), rate)
    losses = []
    for step in range(STEPS):
        inputs, labels = batches[step % BATCHES]
        loss = loss_of(case, model, cast(inputs, dtype), labels.to(dtype) if labels.is_floating_point() else labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if noise:
            for n, p in model.named_parameters():
                if p.grad is not None:
                    p.grad += noise[n] * (2 * torch.rand_like(p) - 1)
        optimizer.step()
        if noise:
            with torch.no_grad():
                for p in model.parameters():
                    p *= 1 + 10 * torch.finfo(torch.float32).eps * (torch.rand_like(p) - 0.5)
    group = optimizer.param_groups[0]
    settings = {k: group[k] for k in ("lr", "momentum", "betas", "alpha", "eps", "weight_decay") if k in group}
    return settings, losses, {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


def curves(case, states, batches, name, rate, noise):
    """A run in float32 and one in float64, and how far that strays, up to each step, in three runs that are disturbed ten times as much
    as by float32: rounding may flip a rectifier or a maximum, and few roundings do, so that what a flip does is seen by larger ones."""
    settings, narrow, _ = curve(case, states[torch.float32], batches, name, rate, torch.float32)
    _, wide, weights = curve(case, states[torch.float64], batches, name, rate, torch.float64)
    torch.manual_seed(1)
    others = [narrow] + [curve(case, states[torch.float64], batches, name, rate, torch.float64, noise)[1] for _ in range(3)]
    stray = np.maximum.accumulate(np.max(np.abs(np.array(others) - wide), 0))
    relative = np.max(stray / np.abs(wide)) if min(np.abs(wide)) > 0 else math.inf
    return (relative if relative == relative else math.inf), {**settings, "float32": narrow, "float64": wide, "stray": list(stray)}, weights


def record(name, case, folder):
    batches = []
    for k in range(BATCHES):
        batch = build(case, torch.float32)[1]
        torch.manual_seed(100 + k)
        batches.append(batch(k))
    states, about = {}, {"loss": {"output": "output_0", **case["loss"]}, "mode": "train" if case["mode"] == "both" else "as_exported", "straight_through": case["straight"], "batches": BATCHES, "optimizers": {}}
    for dtype in (torch.float32, torch.float64):
        to = f"{folder}/{str(dtype)[6:]}"
        os.makedirs(to)
        wide = [(cast(i, dtype), l.to(dtype) if l.is_floating_point() else l) for i, l in batches]
        model, _ = build(case, dtype)
        with torch.no_grad():
            case["outputs"] = [f"output_{i}" for i in range(len(as_tuple(build(case, dtype)[0](*wide[0][0].values()))))]
        reads = export(case, model, wide[0][0], to)
        states[dtype] = model.state_dict()
        outputs = {}
        for k, (inputs, labels) in enumerate(wide):
            if dtype == torch.float32:
                write_npz(f"{folder}/batch_{k}.npz", {"labels": labels, **{n: v for n, v in inputs.items() if n in reads}})
            model, _ = build(case, dtype, states[dtype])
            with torch.no_grad():
                ys = as_tuple(model.train(case["mode"] == "train")(*inputs.values()))
            outputs.update({f"{k}/{n}": y for n, y in zip(case["outputs"], ys)})
        write_npz(to + "/outputs.npz", outputs)
        write_npz(to + "/gradients.npz", gradients(case, build(case, dtype, states[dtype])[0], *wide[0]))
    both = [gradients(case, build(case, d, states[d])[0], cast(batches[0][0], d), cast({"": batches[0][1]}, d)[""]) for d in states]
    noise = {n: 10 * (both[0][n] - g).abs().max() for n, g in both[1].items()}
    trained, summary = {}, []
    for optimizer in OPTIMIZERS:
        # A rate at which rounding shows little, so that a difference is a fault, if one of these is.
        tried = []
        for factor in (1, 0.3, 0.1):
            tried.append(curves(case, states, batches, optimizer, RATES[optimizer] * factor, noise))
            if tried[-1][0] < 1e-4:
                break
        stray, about["optimizers"][optimizer], weights = min(tried, key=lambda t: t[0])
        trained.update({f"{optimizer}/{k}": v for k, v in weights.items()})
        losses = about["optimizers"][optimizer]["float64"]
        summary.append(f"{optimizer} {np.mean(losses[:BATCHES]):.3g} to {np.mean(losses[-BATCHES:]):.3g}" + (f" (strays {stray:.1e})" if stray >= 1e-4 else ""))
    write_npz(folder + "/float64/trained.npz", trained)
    if case["narrow"]:
        os.remove(folder + "/float64/model.onnx")
    write_json(folder + "/about.json", {**about, "outputs": case["outputs"]})
    return ", ".join(summary)


def main():
    folder, wanted = sys.argv[1], sys.argv[2:]
    refused = []
    for name, case in networks.CASES.items():
        path = os.path.join(folder, name)
        if name not in wanted if wanted else os.path.exists(path + "/about.json"):
            continue
        shutil.rmtree(path, ignore_errors=True)
        began = time.time()
        try:
            print(f"{name}: {record(name, case, path)}, {time.time() - began:.1f} s", flush=True)
        except (RuntimeError, torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError) as e:  # what the exporter has no way to write
            refused.append(f"{name}: {' '.join(str(e).split())[:300]}")
            print("refused", refused[-1], flush=True)
            shutil.rmtree(path)
    for line in refused:
        print("PyTorch does not export", line)


main()
