"""The bundled weights: ways to train them, each measured on real scans that had no part in it.

    python -m benchmarks.studies.starter WORK [--arms ARM ...]     trains, two arms at a time; goes on where it was stopped
    python -m benchmarks.studies.starter WORK --score              measures only, the arms whose runs are there

Everything is made by viscera's own commands: synthetic data sets, stores, runs. Arms differ in what they learn from: procedural
patients (no patient at all); also patients made from the label map of one real patient, ts_example_ct_3mm (a network made those
labels); also that patient's image; also what two arms agree on in unlabelled scans. Those that begin with another arm's weights
draw equally many slices.

Real scans to measure on: 20 slices of another patient (labels by a network, looked at by nobody); ts_example_ct_3mm itself for the
arms that did not learn from it; the kidneys of two scans, found by their HU (``kidneys``), for the arms that did not see those
unlabelled; a spleen of the Decathlon, in a file that has left and right the wrong way round, so it is turned here; three slices of
a liver (DICOM SEG, semi-automatic).
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK
from scipy import ndimage

from benchmarks.machine import DATA, facts, save
from benchmarks.studies.arms import Arm, drawing, train_all, training_minutes, viscera
from viscera.config import Recipe
from viscera.evaluation.scores import evaluation_from_json
from viscera.recipes.starter import STARTER, STARTER_2D
from viscera.recipes.viscera2d import of_width

KIDNEYS = Path(__file__).with_name("kidney_boxes.json")
LEARNT = "totalsegmentator_example/ts_example_ct_3mm"
UNSEEN = "totalsegmentator_example/ts_example_dicom_20slices"
UNLABELLED = (
    "hcc_tace/HCC_048_portal_venous",
    "hcc_tace/HCC_006_LIVER_3PHASE",
    "lidc/LIDC-IDRI-0314_chest_upper_abdomen",
)
DONORS = tuple(DATA / "hra_organs" / f"visible_human_{sex}_label.nii.gz" for sex in ("female", "male"))
SYNTHETIC = {
    "procedural": ("--cases", 300, "--seed", 4001),
    "template": (
        *("--cases", 160, "--seed", 5001, "--template", DATA / f"{LEARNT}_label.nii.gz"),
        *("--template-image", DATA / f"{LEARNT}_ct.nii.gz"),
    ),
    "procedural_donors": ("--cases", 300, "--seed", 6301, "--donor", *DONORS),
    "template_donors": (
        *("--cases", 170, "--seed", 6201, "--template", DATA / f"{LEARNT}_label.nii.gz"),
        *("--template-image", DATA / f"{LEARNT}_ct.nii.gz", "--donor", *DONORS),
    ),
}
FURTHER, FEW = 9_600, 6_400
"""Slices that are drawn: by arms that go on from another one; by those that compare widths."""
ONCE = replace(STARTER_2D.training, epochs=1)
ON = replace(ONCE, learning_rate=1e-3)


@dataclass(frozen=True)
class Way:
    """What an arm learns from.

    Attributes:
        about: In a few words, for the table.
        recipe: And for how long.
        data: Data sets, folders of WORK/data.
        start: The arm whose weights it begins with.
        teachers: The arms that fill in what the data sets do not annotate.
        slices: Drawn in one epoch, whatever the data sets hold; 0: as many as the recipe says.
    """

    about: str
    recipe: Recipe
    data: tuple[str, ...]
    start: str = ""
    teachers: tuple[str, ...] = ()
    slices: int = 0


def of_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe for so many epochs."""
    return replace(recipe, training=replace(recipe.training, epochs=epochs))


BOTH = ("procedural", "template")
GOING_ON = replace(STARTER_2D, training=ON, sampling=replace(STARTER_2D.sampling, dataset_power=0.25))
"""Small data sets are drawn from more often than by size."""
WAYS = {
    "procedural": Way("procedural patients: no patient at all", of_epochs(STARTER_2D, 3), ("procedural",)),
    "template": Way("and patients made from one label map", of_epochs(STARTER_2D, 2), BOTH),
    "longer": Way("template, then more of the same patients", GOING_ON, BOTH, "template", slices=FURTHER),
    "image": Way("template, then the template's image too", GOING_ON, (*BOTH, "image"), "template", slices=FURTHER),
    "self_training": Way(
        "template, then three unlabelled scans too, filled in by procedural and template where they agree",
        GOING_ON,
        (*BOTH, "unlabelled"),
        "template",
        BOTH,
        FURTHER,
    ),
    "context": Way(
        "a 3D network sees the patient first; more ingredients; organs of two donors, too",
        of_epochs(STARTER, 4),
        ("procedural_donors", "template_donors"),
    ),
    "width_16": Way("as template, but few slices", replace(STARTER_2D, training=ONCE), BOTH, slices=FEW),
    "width_24": Way(
        "the same with width 24", replace(STARTER_2D, network=of_width(24), training=ONCE), BOTH, slices=FEW
    ),
}


def make_data(work: Path, names: Iterable[str]) -> None:
    """Write the data sets that are not there yet."""
    for name in names:
        folder = work / "data" / name
        if folder.exists():
            continue
        making = folder.with_name(f"{name}.part")
        shutil.rmtree(making, ignore_errors=True)
        if name in SYNTHETIC:
            viscera("synth", making, "--variety", "rich", "--shape", 112, 192, 192, *SYNTHETIC[name])
        elif name == "image":
            data_set(making, "ts3mm", DATA / LEARNT)
        else:
            making.mkdir(parents=True)
            for scan in UNLABELLED:
                shutil.copyfile(DATA / f"{scan}_ct.nii.gz", making / f"{Path(scan).name}.nii.gz")
        making.rename(folder)


def make_tests(work: Path) -> None:
    """Lay out the real scans to measure on."""
    folder = work / "tests"
    if folder.exists():
        return
    making = work / "tests.part"
    shutil.rmtree(making, ignore_errors=True)
    for name, file in (("20 slices", UNSEEN), ("3 mm", LEARNT), ("spleen", "msd_spleen/spleen_8")):
        data_set(making / name, name, DATA / file)
    kidney_set(making / "kidneys")
    for file in (making / "spleen").glob("*/*.nii.gz"):
        image = SimpleITK.ReadImage(file)
        turned = SimpleITK.GetImageFromArray(np.ascontiguousarray(SimpleITK.GetArrayFromImage(image)[..., ::-1]))
        turned.CopyInformation(image)
        SimpleITK.WriteImage(turned, file)
    three_slices(making / "liver", "liver")
    making.rename(folder)


def kidney_set(folder: Path) -> None:
    """Lay out the two scans whose kidneys are found by their HU."""
    for scan, plan in json.loads(KIDNEYS.read_text()).items():
        file = DATA / "hcc_tace" / f"{scan}_ct.nii.gz"
        write_pair(folder, scan, SimpleITK.ReadImage(file), kidneys(file, plan))
        describe(folder, {organ: value for value, organ in enumerate(plan, start=1)})


def data_set(folder: Path, case: str, scan: Path) -> None:
    """Lay one labelled scan of the shared data, SCAN_ct.nii.gz and its labels, out as nnU-Net would."""
    for part, kind, suffix in (("imagesTr", "ct", "_0000"), ("labelsTr", "label", "")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(f"{scan}_{kind}.nii.gz", folder / part / f"{case}{suffix}.nii.gz")
    labels = json.loads(Path(f"{scan}_labels.json").read_text())
    describe(folder, {organ: int(value) for value, organ in labels.items()})


def describe(folder: Path, values: dict[str, int]) -> None:
    """Write dataset.json of a data set."""
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | values,
        "numTraining": len([*folder.glob("labelsTr/*")]),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def kidneys(scan: Path, plan: dict[str, dict]) -> SimpleITK.Image:
    """Return the kidneys of an unlabelled HCC-TACE scan by their HU alone: a truth that no network had a part in.

    The patients got contrast, so that their kidneys are brighter than the fat around them. In a box drawn by hand around each
    kidney (interpolated between its key slices; it cuts off what touches the kidney): a bright core, without what is thinner than
    4 mm; its neighbours up to halfway between kidney and fat; gaps of less than 9 mm, where they are not fat or urine; the largest
    piece, and of it in each slice what is not a crumb. Looked at slice by slice by an engineer, not by a radiologist: vessels at
    the hilum are cut off straight.

    Args:
        scan: File.
        plan: {organ: {"core_hu": above it is kidney, and nothing else in the box but vessels; "edge_hu": halfway between kidney and
            fat; "keys": {slice, from the feet: first and last row, first and last column}, from the patient's front and right}}.

    Returns:
        The label map on the scan's grid: 1, 2 ... in the order of the plan.
    """
    image = SimpleITK.ReadImage(scan)
    axial = SimpleITK.DICOMOrient(image, "LPS")
    hu = SimpleITK.GetArrayFromImage(axial)
    found = np.zeros(hu.shape, np.uint8)
    for value, kidney in enumerate(plan.values(), start=1):
        found[one_kidney(hu, kidney)] = value
    labels = SimpleITK.GetImageFromArray(found)
    labels.CopyInformation(axial)
    return SimpleITK.Resample(labels, image, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)


def one_kidney(hu: np.ndarray, kidney: dict) -> np.ndarray:
    """Find one kidney; arrays (z, y, x), axial order."""
    keys = {int(z): box for z, box in kidney["keys"].items()}
    slices = range(min(keys), max(keys) + 1)
    boxes = np.array([[np.interp(z, [*keys], side) for z in slices] for side in zip(*keys.values(), strict=True)])
    inside = np.zeros(hu.shape, bool)
    for z, (top, bottom, left, right) in zip(slices, boxes.round().astype(int).T, strict=True):
        inside[z, top:bottom, left:right] = True
    smooth = ndimage.median_filter(hu, (1, 3, 3))
    core = ndimage.binary_opening((smooth > kidney["core_hu"]) & inside, disk(3))
    core = np.stack([large(plane) for plane in large(core, share=1.0)])
    whole = core | (ndimage.binary_dilation(core, disk(2)) & (smooth > kidney["edge_hu"]) & inside)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(whole, disk(6)), structure=disk(1))
    return whole | (filled & (smooth > kidney["edge_hu"]) & inside)


def disk(radius: int) -> np.ndarray:
    """Return a disk in the slice's plane."""
    squares = np.arange(-radius, radius + 1) ** 2
    return (np.add.outer(squares, squares) <= radius**2)[None]


def large(mask: np.ndarray, share: float = 0.2) -> np.ndarray:
    """Return the pieces of at least a share of the largest one's size."""
    pieces = np.asarray(ndimage.label(mask)[0])  # type: ignore[index]
    sizes = np.bincount(pieces.ravel())[1:]
    return np.isin(pieces, 1 + np.flatnonzero(sizes >= share * sizes.max())) if sizes.size else mask


def three_slices(folder: Path, case: str) -> None:
    """Lay out dcmqi's three slices, and the liver from their DICOM SEG."""
    import pydicom  # pip install pydicom: nothing else here needs it

    source = DATA / "dcmqi_liver"
    files = sorted((source / "ct-3slice").glob("*.dcm"), key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    image = SimpleITK.ReadImage([str(file) for file in files])
    seg = pydicom.dcmread(source / "liver_seg.dcm")
    found = np.zeros(image.GetSize()[::-1], np.uint8)
    heights = [round(float(pydicom.dcmread(file).ImagePositionPatient[2]), 2) for file in files]
    for mask, frame in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        found[heights.index(round(float(frame.PlanePositionSequence[0].ImagePositionPatient[2]), 2))] = mask
    labels = SimpleITK.GetImageFromArray(found)
    labels.CopyInformation(image)
    write_pair(folder, case, image, labels)
    describe(folder, {"liver": 1})


def write_pair(folder: Path, case: str, image: SimpleITK.Image, labels: SimpleITK.Image) -> None:
    """Write a scan and its labels as nnU-Net would."""
    for part, voxels, suffix in (("imagesTr", image, "_0000"), ("labelsTr", labels, "")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(voxels, folder / part / f"{case}{suffix}.nii.gz")


def store_of(work: Path, way: Way) -> Path:
    """Name the store of an arm."""
    return work / "stores" / "-".join((*way.data, *(["filled_in"] if way.teachers else [])))


def make_store(work: Path, way: Way) -> None:
    """Prepare what an arm learns from; the only patient of a data set is for training."""
    store = store_of(work, way)
    if (store / "done").exists():
        return
    make_data(work, way.data)
    data = [f"{'images' if name == 'unlabelled' else 'nnunet'}={work / 'data' / name}" for name in way.data]
    viscera("prepare", store, "--data", *data, "--recipe", way.recipe.name)
    if way.teachers:
        viscera("pseudolabel", *(work / "runs" / teacher for teacher in way.teachers), store)
    (store / "done").touch()


def arm_of(work: Path, name: str) -> Arm:
    """Return an arm's run; its store must stand."""
    way, recipe = WAYS[name], WAYS[name].recipe
    if way.slices:
        recipe = drawing(recipe, store_of(work, way), way.slices)
    start = work / "runs" / way.start if way.start else None
    return Arm(recipe, store_of(work, way), work / "runs" / name, start)


def scores_of(work: Path, name: str) -> dict[str, dict]:
    """Segment the real scans by an arm and score them, once: {scan: {organ: {dice, nsd}}}."""
    way, run = WAYS[name], work / "runs" / name
    found: dict[str, dict] = {}
    for test in sorted((work / "tests").iterdir()):
        if test.name == "3 mm" and way.data != ("procedural",):
            continue
        if test.name == "kidneys" and "unlabelled" in way.data:
            continue
        out, file = run / "real" / test.name, run / "real" / f"{test.name}.json"
        if not file.exists():
            viscera("predict", f"nnunet={test}", out, "--weights", run, "--organs", "all", "--overwrite")
            viscera("evaluate", f"nnunet={test}", out, "--json", file, "--overwrite")
        for score in evaluation_from_json(file.read_text(), where=str(file)).scores:
            name = test.name if score.case == test.name else score.case
            values = {key: round(score.values[key], 4) for key in ("dice", "nsd")}
            found.setdefault(name, {})[score.organ] = values
    return found


def main() -> None:
    """Train, measure, write benchmarks/results/starter.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--arms", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--score", action="store_true", help="train nothing")
    options = parser.parse_args()
    for later in () if options.score else (False, True):
        names = [name for name in options.arms if bool(WAYS[name].start) == later]
        for name in names:
            make_store(options.work, WAYS[name])
        train_all([arm_of(options.work, name) for name in names])
    make_tests(options.work)
    trained = [name for name in WAYS if (options.work / "runs" / name / "trained").exists()]
    rows = []
    for name in trained:
        run = options.work / "runs" / name
        logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        slices = logged[-1]["step"] * WAYS[name].recipe.training.batch_size
        row = {"arm": name, "about": WAYS[name].about, "start": WAYS[name].start, "slices": slices}
        rows.append(row | {"core_minutes": training_minutes([run]), "scans": scores_of(options.work, name)})
    print(save("starter", facts("torch") | {"arms": rows}))


if __name__ == "__main__":
    main()
