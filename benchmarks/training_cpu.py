"""Training speed on the CPU: plain torch, mixed precision, and with freed memory kept; one process per measurement.

Usage: python benchmarks/training_cpu.py [--rounds 3]
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

from machine import facts, save
from viscera.config import AddedBoundaryLoss, UNetShape
from viscera.learning.losses import loss_for
from viscera.learning.sampling.batch import Batch
from viscera.networks.device import keep_freed_memory
from viscera.networks.unet import UNet

WAYS = ("torch as it comes", "bf16", "bf16, channels last", "bf16, channels last, pages kept")
CASES = ((16, 128, 8), (16, 256, 8))
STEPS = 12


def slices_per_s(way: int, base: int, size: int, *, batch: int) -> float:
    """Time training steps on random slices."""
    if way == 3:
        keep_freed_memory()
    layout = torch.channels_last if way >= 2 else torch.contiguous_format
    widths = tuple(base * 2**level for level in range(5))
    network = UNet(UNetShape(widths=widths), classes=12).to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image = torch.rand(batch, 1, size, size).contiguous(memory_format=layout)
    labels = torch.randint(0, 12, (batch, size, size), dtype=torch.uint8)
    distance, known = torch.rand(batch, size, size) * 50, torch.ones(batch, size, size, dtype=torch.bool)
    annotated = torch.ones(batch, 12, dtype=torch.bool)
    truth = Batch(image, labels, known, distance, annotated, torch.zeros_like(labels), ~annotated)
    loss = loss_for(AddedBoundaryLoss(), class_weights=torch.ones(12))
    for step in range(STEPS + 3):
        if step == 3:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=way >= 1):
            logits = network(image)
        loss(logits, truth).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return STEPS * batch / (time.perf_counter() - start)


def main() -> None:
    """Run each way in a process of its own, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=int, nargs=4, help="for the processes: way, base, size, batch")
    options = parser.parse_args()
    if options.one:
        way, base, size, batch = options.one
        print(slices_per_s(way, base, size, batch=batch))
        return
    found: dict[tuple, list[float]] = {}
    for _ in range(options.rounds):
        for case in CASES:
            for way in range(len(WAYS)):
                words = [sys.executable, __file__, "--one", *map(str, (way, *case))]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found.setdefault((case, way), []).append(round(float(done.stdout), 2))
    rows = [
        {
            "network": f"U-Net, base width {base}",
            "slice": f"{size}x{size}, batch {batch}",
            "how": WAYS[way],
            "slices_per_s": statistics.median(values),
            "rounds": values,
        }
        for ((base, size, batch), way), values in sorted(found.items())
    ]
    print(save("training_cpu", facts("torch") | {"rows": rows}))


if __name__ == "__main__":
    main()
