"""What the export scripts share: exporting, and recording what PyTorch computes.

Every script is run as

    python3 NAME.py SCRATCH

where SCRATCH is a folder that is not committed: data comes from SCRATCH/node_modules (see the
Makefile) and trained weights are kept in SCRATCH/weights, so that a second run need not train again.

A model's folder gets
    model.onnx            torch.onnx.export's file
    test_data_set_N/      inputs and outputs as TensorProto files, in the order of the graph
    names.json            each PyTorch parameter: its shape, and where it is found in the file
    gradients.npz         gradients of the sum of output 0 of data set 0, for parameters and float inputs
    state_dict.npz, .pt   all parameters and buffers, for some models
    train_batches.npz     the examples of the training curves
    curves.json           fifty losses for each optimizer, in float32 and in float64
"""
import copy
import glob
import json
import os
import shutil
import sys

import numpy as np
import onnx
import torch
from onnx import numpy_helper

MODELS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = 50
torch.set_num_threads(1)


def scratch(*path):
    """A path inside the scratch folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {os.path.basename(sys.argv[0])} SCRATCH")
    return os.path.join(sys.argv[1], *path)


def folder(name):
    """The model's folder, without the files of an earlier run (other files in it stay)."""
    path = os.path.join(MODELS, name)
    os.makedirs(path, exist_ok=True)
    for old in glob.glob(path + "/test_data_set_*"):
        shutil.rmtree(old)
    return path


def trained(name, model, train):
    """The model, trained by train(model) unless its weights are in the scratch folder already."""
    file = scratch("weights", name + ".pt")
    if os.path.exists(file):
        model.load_state_dict(torch.load(file))
    else:
        train(model)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        torch.save(model.state_dict(), file)
    return model.eval()


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def write_npz(path, arrays):
    np.savez_compressed(path, **{k: v.detach().numpy() if torch.is_tensor(v) else v for k, v in arrays.items()})


def write_pb(path, name, tensor):
    with open(path, "wb") as f:
        f.write(numpy_helper.from_array(tensor.detach().numpy(), name).SerializeToString())


def as_tuple(y):
    """The outputs as the exporter lays them out: tuples and lists flattened."""
    if torch.is_tensor(y):
        return (y,)
    return tuple(t for part in y for t in as_tuple(part))


# --- export -----------------------------------------------------------------------------------

def export(model, path, inputs, outputs, dynamic=None, file="model.onnx", opset=17, **options):
    """Writes the model as ONNX; inputs is {name: example}, dynamic {name: {axis: symbol}}."""
    to = os.path.join(path, file)
    torch.onnx.export(model, tuple(inputs.values()), to, opset_version=opset, input_names=list(inputs),
                      output_names=list(outputs), dynamic_axes=dynamic, keep_initializers_as_inputs=False, **options)
    onnx.checker.check_model(to, full_check=True)
    graph = onnx.load(to).graph
    if [i.name for i in graph.input] != list(inputs) or [o.name for o in graph.output] != list(outputs):
        sys.exit(f"{to}: the exporter changed the inputs or outputs")
    if file == "model.onnx":
        write_json(path + "/names.json", names(model, graph))
    ops = [n.op_type for n in all_nodes(graph)]
    print(f"{os.path.relpath(to, MODELS)}: {os.path.getsize(to)} bytes,", " ".join(sorted(set(ops))))
    return graph


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def constants(graph):
    """Initializers and Constant nodes with their names, subgraphs included."""
    found = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found.update(constants(attribute.g))
            elif node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def names(model, graph):
    """Where each parameter and buffer of the model is in the file.

    form is verbatim (perhaps with further axes of one), transposed, or gates: part of a recurrent operator's weight, whose gates ONNX
    orders in its own way (LSTM: i o f c for PyTorch's i f g o; GRU: z r h for r z n). Then
    direction is the first index into the initializer and offset where its rows begin.
    joined is for what is in several initializers, parts, one after another along the first axis.
    buffer is there, and true, for what is no parameter; padding_idx for an embedding's row that is not trained. initializer is null when the file does not hold the values, as after folding; also names further
    ones that hold the same values, as they are or transposed, with axes of one or without. same_as is the name under which the module has the
    very same tensor before.
    """
    held = constants(graph)
    found, buffers, first = {}, {n for n, b in model.named_buffers()}, {}
    for name, value in model.state_dict().items():
        of = first.setdefault((value.data_ptr(), value.shape), name)
        if of != name and value.numel() > 0:  # the module has it under two names
            found[name] = {**found[of], "same_as": of}
            continue
        w = value.numpy()
        found[name] = {"shape": list(w.shape), "initializer": None}
        found[name].update(locate(name, w, held))
        p = pressed(w)
        also = [n for n, h in held.items() if w.size > 1 and (same(pressed(h), p) or same(pressed(h), p.T)) and n != found[name]["initializer"]]
        if also:
            found[name]["also"] = also
        if name in buffers:
            found[name]["buffer"] = True
    for prefix, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            found[f"{prefix}.weight".lstrip(".")]["padding_idx"] = module.padding_idx
    return found


def whole(w, held):
    for n, h in held.items():
        if w.size > 1 and same(h, w):
            return {"initializer": n, "form": "verbatim"}
    for n, h in held.items():
        if w.ndim == 2 and same(h, w.T):
            return {"initializer": n, "form": "transposed"}
    return {}


def locate(name, w, held):
    if name in held and same(held[name], w):
        return {"initializer": name, "form": "verbatim"}
    if found := whole(w, held):
        return found
    for n, h in held.items():  # with axes of one
        if w.size > 1 and h.size == w.size and [d for d in h.shape if d != 1] == [d for d in w.shape if d != 1] and same(h.reshape(w.shape), w):
            return {"initializer": n, "form": "verbatim"}
    for n, h in held.items():
        if h.ndim not in (2, 3) or h.dtype != w.dtype or w.size == 1:
            continue
        for order in ([0], [0, 3, 1, 2], [1, 0, 2]):
            if w.shape[0] % len(order):
                continue
            gates = np.split(w, len(order))
            part = np.concatenate([gates[g] for g in order])
            for direction in range(h.shape[0]):
                for offset in range(0, h.shape[1] - len(part) + 1, len(part)):
                    if same(h[direction, offset:offset + len(part)], part):
                        return {"initializer": n, "form": "gates", "direction": direction, "offset": offset}
    for parts in ((1, 2), (1, 1, 1)):  # attention's joint projection
        at = np.cumsum((0,) + parts) * len(w) // 3 if w.ndim in (1, 2) and len(w) % 3 == 0 else []
        found = [{"shape": [int(b - a), *w.shape[1:]], **whole(w[a:b], held)} for a, b in zip(at, at[1:])]
        if found and all("form" in f for f in found):
            return {"form": "joined", "parts": found}
    single = [n for n, h in held.items() if w.size == 1 and w.dtype.kind == "f" and h.size == 1 and h.dtype == w.dtype and h.flat[0] == w.flat[0]]
    if len(single) == 1 and held[single[0]].ndim > 0:
        return {"initializer": single[0], "form": "verbatim"}
    return {}


def pressed(a):
    """The array without its axes of one."""
    return a.reshape([d for d in a.shape if d != 1])


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)


def state_dict(model, path):
    """Writes the parameters and buffers as arrays, and as torch.save does."""
    write_npz(path + "/state_dict.npz", model.state_dict())
    torch.save(model.state_dict(), path + "/state_dict.pt")


# --- what PyTorch computes ----------------------------------------------------------------------

def data_set(model, path, inputs, outputs):
    """Records the outputs for these inputs as the next data set."""
    to = f"{path}/test_data_set_{len(glob.glob(path + '/test_data_set_*'))}"
    os.makedirs(to)
    with torch.no_grad():
        ys = as_tuple(model(*inputs.values()))
    for i, (name, x) in enumerate(inputs.items()):
        write_pb(f"{to}/input_{i}.pb", name, x)
    for i, (name, y) in enumerate(zip(outputs, ys)):
        write_pb(f"{to}/output_{i}.pb", name, y)


def gradients(model, path, inputs):
    """Records the gradient of the sum of output 0 for every parameter and floating input."""
    leaves = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in inputs.items()}
    model.zero_grad(set_to_none=True)
    as_tuple(model(*leaves.values()))[0].sum().backward()
    found = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}
    found.update({n: x.grad if x.grad is not None else torch.zeros_like(x)
                  for n, x in leaves.items() if x.is_floating_point()})
    write_npz(path + "/gradients.npz", found)
    model.zero_grad(set_to_none=True)


OPTIMIZERS = {
    "sgd_momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
    "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr=lr),
}
RATES = {"sgd_momentum": 0.05, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 3e-4, "adagrad": 3e-3}


def cross_entropy(logits, target):
    """The mean over all targets; the class axis is the last."""
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))


LOSSES = {"cross_entropy": cross_entropy, "mse": torch.nn.functional.mse_loss}


def curves(model, path, examples, *, loss, output, batch_size, mode="eval", target="target",
           batch_axis=None, fixed=None, rates=None, after=None):
    """Records fifty steps of each optimizer from the exported weights.

    examples holds one array per input that changes from batch to batch, and the target; batch_axis
    says where examples are not along the first axis, fixed gives the inputs that stay the same. A
    loss is the one before its step's update. after(name, model) sees each float32 model at the end.
    """
    write_npz(path + "/train_batches.npz", examples)
    batch_axis, fixed, rates = batch_axis or {}, fixed or {}, {**RATES, **(rates or {})}
    count = examples[target].shape[batch_axis.get(target, 0)]
    if count % batch_size:
        sys.exit(f"{path}: {count} examples do not fill batches of {batch_size}")
    about = {"batch_size": batch_size, "mode": mode, "loss": loss, "output": output, "target": target,
             "batch_axis": batch_axis, "fixed_inputs": {k: v.tolist() for k, v in fixed.items()}, "optimizers": {}}
    for name, make in OPTIMIZERS.items():
        runs = []
        for dtype, suffix in ((torch.float32, ""), (torch.float64, "_f64")):
            m = copy.deepcopy(model).to(dtype).train(mode == "train")
            cast = lambda t: t.to(dtype) if t.is_floating_point() else t
            opt, losses, margin = make(m.parameters(), rates[name]), [], pool_margin(m)
            for step in range(STEPS):
                at = step * batch_size % count
                part = {k: cast(v).narrow(batch_axis.get(k, 0), at, batch_size) for k, v in examples.items()}
                y = part.pop(target)
                inputs = {**part, **{k: cast(v) for k, v in fixed.items()}}
                value = LOSSES[loss](as_tuple(m(*[inputs[k] for k in input_order(m, inputs)]))[0], y)
                losses.append(value.item())
                opt.zero_grad()
                value.backward()
                opt.step()
            group = opt.param_groups[0]
            about["optimizers"][name + suffix] = {"dtype": str(dtype)[6:], **{
                k: group[k] for k in ("lr", "momentum", "betas", "alpha", "eps", "weight_decay") if k in group}, "losses": losses}
            runs.append(np.array(losses))
            if dtype == torch.float64 and min(margin, default=1) < torch.finfo(torch.float32).eps:
                sys.exit(f"{path}: {name} at {rates[name]}: two values of a pooling window are {min(margin):.1e} apart")
            if after and dtype == torch.float32:
                after(name, m)
        drift = np.max(np.abs(runs[0] - runs[1]) / np.abs(runs[1]))
        print(f"  {name}: {runs[0][0]:.4f} to {runs[0][-1]:.4f}, float32 drifts {drift:.1e}")
        if drift > 3e-5:
            sys.exit(f"{path}: {name} at {rates[name]} is too rough to be compared")
    write_json(path + "/curves.json", about)


def pool_margin(model):
    """Fills a list, as the model runs, with how near (relatively) the two greatest values of a pooling
    window come that are not equal. Where that is a rounding of float32, the gradient goes either way and
    no two implementations follow the same curve."""
    margin = []

    def watch(module, inputs, output):
        rows = inputs[0].detach().flatten(0, 1)[:, None]
        first, second = torch.nn.functional.unfold(rows, module.kernel_size, stride=module.stride).topk(2, 1).values.unbind(1)
        gap = ((first - second) / first)[(first > 0) & (first - second > 1e-12 * first)]
        margin.extend([gap.min().item()] if len(gap) else [])

    for module in model.modules():
        if isinstance(module, torch.nn.MaxPool2d):
            module.register_forward_hook(watch)
    return margin


def input_order(model, inputs):
    """The names of forward's arguments, which are those of the graph's inputs."""
    code = model.forward.__code__
    return [n for n in code.co_varnames[1:code.co_argcount] if n in inputs]
