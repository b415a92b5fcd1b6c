"""What several test files make: networks whose answer is known, scans, files; and how they read runs, pages and output."""

import contextlib
import io
import json
import re
import shlex
import warnings
from html.parser import HTMLParser
from math import prod
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import nn

from viscera.cli.command import main
from viscera.config import (
    PartialLoss,
    Postprocessing,
    Preparation,
    Recipe,
    ResizedSlices,
    SliceInference,
    Training,
    UNetShape,
    Window,
)
from viscera.inference.model import Model
from viscera.io import nifti
from viscera.labels import ABDOMENCT1K
from viscera.networks.torch_runner import TorchRunner
from viscera.networks.weights import load_weights
from viscera.synthesis.patient import Patient
from viscera.volume import Volume

LIVER, KIDNEY = 1, 2
HU_OF = {0: -1000, LIVER: 0, KIDNEY: 200}


PARTIAL_RECIPE = Recipe(
    name="tiny",
    label_space="abdomenct1k",
    preparation=ResizedSlices(size=(16, 16)),
    intensity=Window(-400, 400),
    network=UNetShape(widths=(4, 8)),
    loss=PartialLoss(),
    training=Training(epochs=2, visits_per_slice=16, batch_size=4, learning_rate=2e-2, precision="32-true"),
    inference=SliceInference(batch_size=3),
)
"""Of a network that learns conftest's small store from partial labels within seconds."""


class Painted(nn.Module):
    """The class whose HU the pixel has; it notes the brightest pixel of each slice, by which the test numbers them."""

    stride, dimensions = 1, 2

    def __init__(self, streams: int = 1) -> None:
        super().__init__()
        self.streams, self.seen, self.sizes = streams, [], []

    def forward(self, image):
        self.seen.extend((800 * image[:, 0, 0, 0] - 400).round().int().tolist())
        self.sizes.append(len(image))
        centres = (torch.tensor([HU_OF.get(index, 9000) for index in range(5)]).clip(-400, 400) + 400) / 800
        return -((image - centres[None, :, None, None]) ** 2)


def painted_model(network: nn.Module, *, look_mm: float = 10.0, step_mm: float = 0.0) -> Model:
    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=ResizedSlices(size=(16, 16)),
        intensity=Window(-400, 400),
        inference=SliceInference(batch_size=3, look_mm=look_mm, step_mm=step_mm),
    )
    return Model(TorchRunner(network, streams=getattr(network, "streams", 1)), recipe, ABDOMENCT1K, "cpu", "hash")


def painted_scan(organs: dict[int, range], depth: int = 40, slice_mm: float = 3.0) -> Volume:
    """Return slices of 16x16, each with its number as HU (from -399) in its first pixel, and square organs."""
    hu = np.full((depth, 16, 16), -1000, np.int16)
    for index, slices in organs.items():
        hu[slices.start : slices.stop, 4:9, 3 * index : 3 * index + 3] = HU_OF[index]
    hu[:, 0, 0] = np.arange(depth) - 399
    return Volume(hu, np.array([[0, 0, -1, 0], [0, -1, 0, 0], [slice_mm, 0, 0, 0], [0, 0, 0, 1.0]]))


CENTRES_HU = (-300.0, -100.0, 0.0, 100.0, 300.0)


class Nearest(nn.Module):
    """The class whose centre is nearest to the pixel's HU."""

    stride, dimensions = 1, 2

    def forward(self, image):
        centres = (torch.tensor(CENTRES_HU) + 400) / 800
        return -((image - centres[None, :, None, None]) ** 2)


def nearest_model(size: tuple[int, int] = (16, 16), preparation: Preparation | None = None, **postprocessing) -> Model:
    recipe = Recipe(
        label_space="abdomenct1k",
        preparation=preparation or ResizedSlices(size=size),
        intensity=Window(-400, 400),
        inference=SliceInference(batch_size=3),
        postprocessing=Postprocessing(**postprocessing),
    )
    return Model(TorchRunner(Nearest()), recipe, ABDOMENCT1K, "cpu", "hash")


def nearest(hu: np.ndarray) -> np.ndarray:
    return np.abs(hu[..., None] - np.array(CENTRES_HU)).argmin(-1).astype(np.uint8)


def hollow(path, shape=(512, 512, 2000), dtype=np.int16, affine=None):
    """Write a header and as many bytes as it promises, none of them on the disk: (x, y, z)."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_sform(np.diag([-0.7, -0.7, min(2.5, 3000 / shape[2]), 1]) if affine is None else affine, code=1)
    header.set_qform(header.get_sform(), code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with path.open("wb") as file:
        file.write(header.binaryblock)
        file.truncate(352 + prod(shape) * np.dtype(dtype).itemsize)
    return path


def tensors(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return dict(load_weights(run / f"{name}.safetensors").tensors)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def rows(run: Path) -> list[dict]:
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in (run / "log.jsonl").read_text().splitlines()
    ]


class Reader(HTMLParser):
    """Collects the texts of table rows, every address, and the tags in use."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.addresses, self.tags, self.cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None


def load_page(path):
    text = path.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    reader = Reader(text)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in reader.addresses)
    assert not {"link", "iframe", "object", "embed"} & set(reader.tags)
    return text, reader


def call(command: str) -> tuple[int, str]:
    """Return exit code and output of a command, without frames, bars, headings and the present folder's path."""
    output = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        warnings.resetwarnings()
        try:
            code = main(shlex.split(command))
        except SystemExit as end:
            code = end.code
    said = output.getvalue().replace(f"{Path.cwd()}/", "").replace(str(Path.cwd()), ".")
    lines = [
        line
        for line in said.splitlines()
        if "\u2501" not in line and "what is wrong" not in line and not re.search(r"\d+/(\d+|\?) ", line)
    ]
    cells = [re.sub(r"[\u2500-\u257f]+", " ", line.strip(" \u2502").replace("\u2502", ";")).split() for line in lines]
    text = "\n".join(" ".join(words) for words in cells if words and not re.fullmatch("-+", "".join(words)))
    return code if isinstance(code, int) else 1, text


def organ_volumes_ml(patient: Patient) -> dict[str, float]:
    """Return the volume of each organ within the scan; organs outside it have 0."""
    counts = np.bincount(patient.labels.voxels.ravel(), minlength=256)
    return {name: float(counts[value]) * patient.labels.voxel_ml for value, name in patient.organs.items()}


SMALL_AFFINE = np.array([[0, 0, -1.0, 0], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])


def nnunet_set(folder: Path, cases: dict[str, int], *, organs: tuple[str, ...] = ("liver", "spleen"), **more) -> Path:
    """Write an nnU-Net data set: of each {case: seed} half air, half tissue, the organs as stripes within the tissue."""
    for case, seed in cases.items():
        voxels = np.random.default_rng(seed).normal(-1000, 15, (4, 32, 32))
        voxels[:, 16:] += 1050
        labels = np.zeros(voxels.shape, np.uint8)
        for value, columns in enumerate(np.array_split(np.arange(32), len(organs)), start=1):
            labels[:, -8:, columns] = value
        scan = Volume(voxels.round().astype(np.int16), SMALL_AFFINE)
        nifti.write(folder / f"imagesTr/{case}_0000.nii.gz", scan, overwrite=True)
        nifti.write(folder / f"labelsTr/{case}.nii.gz", Volume(labels, SMALL_AFFINE), overwrite=True)
    named = {"background": 0} | {organ: value for value, organ in enumerate(organs, start=1)}
    content = {"channel_names": {"0": "CT"}, "labels": named, "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
