"""Writes optim.json beside it: what torch.optim and its schedulers compute. Recorded with PyTorch 1.13.

optimizers: options, and a parameter of four after each of six steps by the gradients w·(step+1)/3 - 1.
schedules: options, and the learning rate (of 0.1) at each step; plateau ones are told losses.
"""
import json
import os

import torch
from torch.optim import lr_scheduler as S

BEGIN = [0.5, -1.25, 0.0, 2.0]
OPTIMIZERS = [
    ("SGD", dict(lr=0.1)), ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.3)), ("SGD", dict(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05)),
    ("Adam", dict(lr=0.05)), ("Adam", dict(lr=0.05, betas=[0.8, 0.95], eps=1e-3, weight_decay=0.1)),
    ("AdamW", dict(lr=0.05)), ("AdamW", dict(lr=0.05, weight_decay=0.2, betas=[0.7, 0.9])), ("AdamW", dict(lr=0.05, weight_decay=0.0)),
    ("Adam", dict(lr=0.3, betas=[0.5, 0.3], amsgrad=True, weight_decay=0.1)), ("AdamW", dict(lr=0.3, betas=[0.5, 0.3], amsgrad=True)),
    ("RMSprop", dict(lr=0.02)), ("RMSprop", dict(lr=0.02, alpha=0.9, momentum=0.5, eps=1e-4)),
    ("RMSprop", dict(lr=0.02, centered=True)), ("RMSprop", dict(lr=0.02, centered=True, momentum=0.7, weight_decay=0.1)),
    ("Adagrad", dict(lr=0.1)), ("Adagrad", dict(lr=0.1, lr_decay=0.2, weight_decay=0.1, initial_accumulator_value=0.3, eps=1e-3)),
]
LOSSES = [1, 0.9, 0.95, 0.9, 0.91, 0.8999, 0.92, 0.85, 0.86, 0.9, 0.87, 0.84, 0.9, 0.9, 0.9, 0.9]
SCHEDULES = [
    ("StepLR", dict(step_size=3)), ("StepLR", dict(step_size=4, gamma=0.5)), ("MultiStepLR", dict(milestones=[2, 5, 6], gamma=0.3)),
    ("ExponentialLR", dict(gamma=0.8)), ("CosineAnnealingLR", dict(T_max=12)), ("CosineAnnealingLR", dict(T_max=8, eta_min=0.01)),
    ("LinearLR", dict()), ("LinearLR", dict(start_factor=0.2, end_factor=0.7, total_iters=7)),
    ("OneCycleLR", dict(max_lr=0.5, total_steps=16)), ("OneCycleLR", dict(max_lr=0.5, total_steps=16, pct_start=0.25, div_factor=10, final_div_factor=100)),
    ("ReduceLROnPlateau", dict(patience=1)), ("ReduceLROnPlateau", dict(patience=0, factor=0.5, threshold=0.03, cooldown=2, min_lr=0.02)),
]

out = {"begin": BEGIN, "losses": LOSSES, "optimizers": [], "schedules": []}
for name, options in OPTIMIZERS:
    w = torch.tensor(BEGIN, requires_grad=True)
    optimizer = getattr(torch.optim, name)([w], **options)
    steps = []
    for step in range(6):
        w.grad = w.detach() * ((step + 1) / 3) - 1
        optimizer.step()
        steps.append(w.tolist())
    out["optimizers"].append({"name": name, **options, "steps": steps})
for name, options in SCHEDULES:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = getattr(S, name)(optimizer, **({"cycle_momentum": False} if name == "OneCycleLR" else {}), **options)
    rates = []
    for loss in LOSSES:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if name == "ReduceLROnPlateau":
            schedule.step(loss)
        elif len(rates) < len(LOSSES):
            schedule.step()
    out["schedules"].append({"name": name, **options, "rates": rates})
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "optim.json"), "w") as f:
    json.dump(out, f)
    f.write("\n")
