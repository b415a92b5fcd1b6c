"""Training slices read from the store as it is, and from shards: a tar, or zarr arrays, memory-mapped or streamed.

kernels.py runs it. The order is an epoch's (``epoch_order``) but for what is streamed, which goes through the shard once and
shuffles the slices of some cases at a time. Cold: the kernel is told to drop the files' pages, and what then comes from the
disk is counted; a disk of a virtual machine may still have them in its host's memory.
"""

import json
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.machine import facts
from viscera.learning.sampling.batch import Batch
from viscera.learning.sampling.index import Index, open_training, read_batch
from viscera.learning.sampling.order import epoch_order
from viscera.learning.sampling.reading import step_generator
from viscera.preparation.store import Case, Store, open_store
from viscera.recipes.catalogue import find_recipe

RECIPE = find_recipe("starter")
BUFFER = 16
"""Cases whose slices are shuffled together where a shard is streamed."""
MIB = 2**20
Batches = Callable[[Path], Iterator[Batch]]
"""Opens a copy of the store, and reads batches from it."""


def add_options(parser: ArgumentParser) -> None:
    """Add what ``shards`` is told."""
    parser.add_argument("store", type=Path)
    parser.add_argument("--slices", type=int, default=2048, help="of a round")
    parser.add_argument("--cases", type=int, help="the first so many of the training's; all without it")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="for the copies, on the disk that is to be measured")
    parser.add_argument("--note", default="", help="what else the machine did")


def shards(options: Namespace) -> dict[str, object]:
    """Time reading a store's training slices from each kind of copy, in turn."""
    store = open_store(options.store)
    cases = [store.case(name) for name in store.names("training")[: options.cases]]
    index = indexed(cases)
    numbers = epoch_order(index, RECIPE.sampling, visits=options.slices, generator=step_generator(0))
    parts = np.array_split(numbers, max(1, len(numbers) // options.batch))

    def by(open_cases: Callable[[Path], list[Case]]) -> Batches:
        def batches(place: Path) -> Iterator[Batch]:
            opened = indexed(open_cases(place))
            yield from (read(opened, part) for part in parts)

        return batches

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        kinds: dict[str, tuple[Path, Batches]] = {
            "store": (copied(store, cases, Path(folder, "store")), by(lambda place: of_store(place, cases))),
            "tar, mapped": (tarred(cases, Path(folder, "tar")), by(lambda place: of_tar(place, cases))),
            "tar, streamed": (Path(folder, "tar"), lambda place: streamed(place, cases, options)),
        }
        if find_spec("zarr"):
            kinds["zarr"] = zarred(cases, Path(folder, "zarr")), by(lambda place: of_zarr(place, cases))
        same_as_store(kinds)
        rows = timed(kinds, rounds=options.rounds, slices=len(numbers))
    shape = "x".join(map(str, np.median([case.image.shape for case in cases], axis=0).astype(int)))
    about = {"cases": len(cases), "median_shape": shape, "slices_of_a_round": len(numbers), "batch": options.batch}
    return facts("numpy", *(["zarr"] if find_spec("zarr") else [])) | about | {"note": options.note, "rows": rows}


def indexed(cases: Sequence[Case]) -> Index:
    """Number slices as a training does."""
    return open_training(cases, RECIPE.sampling, reach=RECIPE.reach, contrast=RECIPE.contrast)


def read(index: Index, numbers: np.ndarray) -> Batch:
    """Read slices without what is computed from them."""
    return read_batch(index, numbers, space=RECIPE.space, distance=None)


def copied(store: Store, cases: Sequence[Case], place: Path) -> Path:
    """Copy the arrays of cases: of those that another process has open, the kernel would keep the pages."""
    for case in cases:
        shutil.copytree(store.path / "cases" / case.name, place / case.name)
    return place


def of_store(place: Path, cases: Sequence[Case]) -> list[Case]:
    """Open the copy as the store does."""
    found = []
    for case in cases:
        image, labels = (np.load(place / case.name / f"{kind}.npy", mmap_mode="r") for kind in ("image", "labels"))
        found.append(replace(case, image=image, labels=labels, known=None))
    return found


def tarred(cases: Sequence[Case], place: Path) -> Path:
    """Write all cases into one tar, with a list of where each array begins."""
    place.mkdir()
    with tarfile.open(place / "shard.tar", "w") as tar:
        for case in cases:
            for kind, array in (("image", case.image), ("labels", case.truth)):
                packed = BytesIO()
                np.save(packed, array)
                member = tarfile.TarInfo(f"{case.name}/{kind}.npy")
                member.size = packed.tell()
                packed.seek(0)
                tar.addfile(member, packed)
    with tarfile.open(place / "shard.tar") as tar:
        ends = {member.name: member.offset_data + member.size for member in tar}
    begins = {f"{case.name}/image.npy": ends[f"{case.name}/image.npy"] - case.image.nbytes for case in cases}
    begins |= {f"{case.name}/labels.npy": ends[f"{case.name}/labels.npy"] - case.truth.nbytes for case in cases}
    (place / "shard.json").write_text(json.dumps(begins))
    return place


def of_tar(place: Path, cases: Sequence[Case]) -> list[Case]:
    """Map the tar once, and show each case's part."""
    begins, whole = json.loads((place / "shard.json").read_text()), np.memmap(place / "shard.tar", np.uint8, "r")

    def part(name: str, like: np.ndarray) -> np.ndarray:
        return whole[begins[name] : begins[name] + like.nbytes].view(like.dtype).reshape(like.shape)

    return [
        replace(
            case,
            image=part(f"{case.name}/image.npy", case.image),
            labels=part(f"{case.name}/labels.npy", case.truth),
            known=None,
        )
        for case in cases
    ]


def streamed(place: Path, cases: Sequence[Case], options: Namespace) -> Iterator[Batch]:
    """Go through the tar from its beginning, as if it came from elsewhere."""
    left, number = options.slices, 0
    with tarfile.open(place / "shard.tar", "r|") as tar:
        arrays = (np.load(BytesIO(tar.extractfile(member).read())) for member in tar)  # pyright: ignore[reportOptionalMemberAccess]
        while left > 0 and (group := list(islice(zip(cases[number:], arrays, arrays, strict=False), BUFFER))):
            number += len(group)
            index = indexed([replace(case, image=image, labels=labels, known=None) for case, image, labels in group])
            order = np.random.default_rng(number).permutation(len(index))[:left]
            left -= len(order)
            yield from (read(index, part) for part in np.array_split(order, max(1, len(order) // options.batch)))


def zarred(cases: Sequence[Case], place: Path) -> Path:
    """Write each array as one zarr shard, of compressed slices."""
    import zarr  # pyright: ignore[reportMissingImports]

    group = zarr.create_group(place)
    for case in cases:
        for kind, array in (("image", case.image), ("labels", case.truth)):
            shape = array.shape
            made = group.create_array(
                f"{case.name}/{kind}", shape=shape, dtype=array.dtype, chunks=(1, *shape[1:]), shards=shape
            )
            made[:] = np.ascontiguousarray(array)
    return place


def of_zarr(place: Path, cases: Sequence[Case]) -> list[Case]:
    """Open the zarr arrays, which read and unpack a slice when it is asked for."""
    import zarr  # pyright: ignore[reportMissingImports]

    group = zarr.open_group(place, mode="r")
    image, labels = ([Slices(group[f"{case.name}/{kind}"]) for case in cases] for kind in ("image", "labels"))
    return [replace(case, image=image[number], labels=labels[number], known=None) for number, case in enumerate(cases)]


class Slices:
    """Of a zarr array what reading slices needs; it has no length of its own."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape = array, array.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, z: int) -> np.ndarray:
        return self._array[z]


def same_as_store(kinds: dict[str, tuple[Path, Batches]]) -> None:
    """Raise where a copy gives other slices than the store."""
    first = {name: next(batches(place)) for name, (place, batches) in kinds.items() if name != "tar, streamed"}
    for name, batch in first.items():
        for field in ("image", "labels"):
            if not np.array_equal(getattr(batch, field), getattr(first["store"], field)):
                raise RuntimeError(f"{name}: other {field} than the store's")


def timed(kinds: dict[str, tuple[Path, Batches]], *, rounds: int, slices: int) -> list[dict[str, object]]:
    """Return a row for each kind, cold and warm."""
    found = []
    for state in ("cold", "warm"):
        seconds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
        for number in range(rounds + (state == "warm")):
            for name, (place, batches) in kinds.items():
                if state == "cold":
                    forget(place)
                before, wall, cpu = from_disk(), time.perf_counter(), time.process_time()
                for _ in batches(place):
                    pass
                took = time.perf_counter() - wall, time.process_time() - cpu, from_disk() - before
                if state == "cold" or number:
                    seconds[name].append(took)
        for name, (place, _) in kinds.items():
            wall, cpu, disk = (statistics.median(one) for one in zip(*seconds[name], strict=True))
            sizes = [file.stat().st_size for file in files_of(place)]
            row: dict[str, object] = {"kind": name, "pages": state, "slices_per_s": round(slices / wall, 1)}
            row |= {"cpu_us_per_slice": round(1e6 * cpu / slices), "mib_from_disk": round(disk / MIB, 1)}
            row |= {"mib": round(sum(sizes) / MIB, 1), "files": len(sizes)}
            found.append(row | {"seconds": [round(one[0], 3) for one in seconds[name]]})
    return found


def files_of(place: Path) -> list[Path]:
    """List the files of a copy."""
    return [file for file in place.rglob("*") if file.is_file()]


def forget(place: Path) -> None:
    """Let the kernel drop what it has of files."""
    for file in files_of(place):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def from_disk() -> int:
    """Return the bytes that this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])
