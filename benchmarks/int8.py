"""One network in int8, bf16 and fp32: time per slice in turn, and what the organs' Dice loses.

Usage: python benchmarks/int8.py RUN STORE [--split test] [--rounds 9] [--threads 1]

RUN is a trained 2D network's, STORE its prepared store: scales are taken from slices of its training cases, Dice is measured on
the cases of a split. The rivals take turns on the same real slices, a chunk as viscera predict takes it, each on --threads.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import openvino
import torch

from machine import alternate, facts, rows, save
from viscera.config import SliceInference
from viscera.deployment.export import Yardstick, measure
from viscera.deployment.int8 import SLICES, drawn_inputs, quantised
from viscera.inference.model import Model, load_model
from viscera.inference.slices import slice_inputs
from viscera.networks.onnx import shape_of, to_onnx
from viscera.networks.runners import OpenVinoRunner, Runner, folded_runner, input_channels
from viscera.preparation.store import Store, open_store

OURS = "openvino int8"
CHUNKS = 16
"""Timed in each round, from as many cases as there are."""


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, store = load_model(options.run, accelerator="cpu"), open_store(options.store)
    rivals = runners(model, store)
    chunks = real_chunks(model, store, split=options.split)
    slices = sum(map(len, chunks))
    for name, runner in rivals.items():
        over(runner, chunks)()
        print(name, runner.precision)
    seconds = alternate({name: (over(runner, chunks), options.rounds) for name, runner in rivals.items()})
    agreements = {
        name: measure(model, runner, yardstick=Yardstick(store, options.split))
        for name, runner in rivals.items()
        if isinstance(runner, OpenVinoRunner)
    }
    timed = rows(seconds, ours=OURS)
    for row in timed:
        row["ms_per_slice"] = round(1000 * row["median_s"] / slices, 3)
        if row["name"] in agreements:
            row |= asdict(agreements[row["name"]])
            row["largest_dice_difference_points"] = max(map(abs, row["dice_difference_points"].values()), default=0)
        print(row["name"], row["ms_per_slice"], row["times_ours"], row.get("largest_dice_difference_points", ""))
    content = {
        "recipe": model.recipe.name,
        "weights_sha256": model.weights_sha256,
        "threads": options.threads,
        "chunk": "x".join(map(str, chunks[0].shape)),
        "slices": slices,
        "calibration_slices": SLICES,
        "rivals": timed,
    }
    print(save("int8", facts("torch", "numpy", "openvino") | content))


def runners(model: Model, store: Store) -> dict[str, Runner]:
    """Give the network in each way, int8 last."""
    shape = shape_of(model.module)
    graph = to_onnx(model.module, channels=input_channels(model.recipe.network), labels=True)
    drawn = drawn_inputs(model, store, generator=np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.xml"
        openvino.save_model(quantised(graph, drawn), file, compress_to_fp16=False)
        small = OpenVinoRunner(file, shape)
    return {
        "torch fp32": folded_runner(model.module, model.device, exact=True),
        "torch bf16": folded_runner(model.module, model.device),
        "openvino fp32": OpenVinoRunner(graph, shape, exact=True),
        "openvino bf16": OpenVinoRunner(graph, shape),
        OURS: small,
    }


def real_chunks(model: Model, store: Store, *, split: str) -> list[torch.Tensor]:
    """Give inputs of the network: chunks of neighbouring slices, from the middle of each case in turn, all of the first's size."""
    settings = model.recipe.inference
    if not isinstance(settings, SliceInference):
        raise SystemExit(f"{model.recipe.name} segments windows: this benchmark is for slices")
    chunks = []
    for name in store.names(split):
        image = store.case(name).image
        middle = len(image) // 2
        chunks.append(slice_inputs(image, model, range(middle, min(len(image), middle + settings.batch_size))))
    alike = [chunk for chunk in chunks if chunk.shape == chunks[0].shape]
    return [alike[number % len(alike)] for number in range(CHUNKS)]


def over(runner: Runner, chunks: list[torch.Tensor]) -> Callable[[], None]:
    """Give what runs a network on all chunks and forgets the logits."""

    @torch.inference_mode()
    def run() -> None:
        for chunk in chunks:
            runner(chunk)

    return run


if __name__ == "__main__":
    main()
