"""Scans on disk to label maps on disk: grid, sidecars, statistics, what is skipped, what is refused."""

import gzip
import json
import re
import resource
from pathlib import Path

import cv2
import nibabel
import numpy as np
import psutil
import pytest
import SimpleITK as sitk
import torch

from makers import Nearest, hollow, nearest
from makers import nearest_model as model
from viscera.cli.command import main
from viscera.config import SpacedSlices
from viscera.errors import FileError, LabelError, SettingError
from viscera.inference.jobs import ScanJob, find_scan_jobs
from viscera.inference.memory import look_at, needed_mib
from viscera.inference.predict import PredictOptions, predict_all, predict_file
from viscera.io import nifti
from viscera.networks.device import use_cores
from viscera.quality.efficiency import sample_efficiency
from viscera.quality.measuring import measure_organs
from viscera.volume import Volume

MODEL = model((16, 16))
assert isinstance(MODEL.module, Nearest)


def write_scan(path, *, seed: int = 0, affine=None, text: str = "") -> np.ndarray:
    """Write an int16 scan (x, y, z); return its voxels."""
    hu = np.random.default_rng(seed).choice([-1000, -300, 0, 100, 300], (16, 16, 5)).astype(np.int16)
    image = nibabel.Nifti1Image(hu, np.diag([-0.7, -0.8, 2.5, 1]) if affine is None else affine)
    image.header["descrip"] = text
    nibabel.save(image, path)
    return hu


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_the_label_map_lies_on_the_scans_grid_in_every_reader(tmp_path, flip):
    angle = 0.1
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0, 7], [np.sin(angle), np.cos(angle), 0, -9], [0, 0, 1, 3], [0, 0, 0, 1]]
    )
    hu = write_scan(tmp_path / "scan.nii.gz", affine=turn @ np.diag([0.7 * flip[0], 0.8 * flip[1], 2.5 * flip[2], 1]))
    predict_file(ScanJob(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz"), MODEL)
    ours, scan = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(tmp_path / "scan.nii.gz")
    assert np.array_equal(np.asarray(ours.dataobj), nearest(hu))
    assert ours.get_data_dtype() == np.uint8
    geometry = "dim pixdim qform_code sform_code quatern_b qoffset_x srow_x srow_y srow_z xyzt_units"
    for field in geometry.split():
        assert np.array_equal(ours.header[field], scan.header[field]), field
    itk, itk_scan = sitk.ReadImage(str(tmp_path / "out.nii.gz")), sitk.ReadImage(str(tmp_path / "scan.nii.gz"))
    assert itk.GetDirection() == itk_scan.GetDirection()
    assert itk.GetOrigin() == itk_scan.GetOrigin()
    assert itk.GetSpacing() == itk_scan.GetSpacing()


def test_nothing_that_could_name_the_patient_gets_into_any_output(tmp_path):
    folder = tmp_path / "Doe_Jane"
    folder.mkdir()
    write_scan(folder / "scan.nii.gz", text="DOE^JANE 19500101")
    predict_all(
        [ScanJob(folder / "scan.nii.gz", tmp_path / "out" / "scan.nii.gz")],
        MODEL,
        options=PredictOptions(statistics=True),
    )
    for file in (tmp_path / "out").iterdir():
        content = gzip.decompress(file.read_bytes()) if file.name.endswith(".gz") else file.read_bytes()
        assert b"DOE" not in content.upper(), file.name


def test_statistics_are_numpys(tmp_path):
    hu = write_scan(tmp_path / "scan.nii.gz")
    facts = predict_file(
        ScanJob(tmp_path / "scan.nii.gz", tmp_path / "o.nii.gz"), MODEL, options=PredictOptions(statistics=True)
    )
    written = json.loads((tmp_path / "o.json").read_text())
    assert written == json.loads(json.dumps(facts))
    assert written["labels"] == {"1": "liver", "2": "kidney", "3": "spleen", "4": "pancreas"}
    labels = nearest(hu)
    for index, organ in ((2, "kidney"), (3, "spleen")):
        values = hu[labels == index].astype(float)
        found = written["statistics"][organ]
        assert found["volume_ml"] == pytest.approx(len(values) * 0.7 * 0.8 * 2.5 / 1000, abs=1e-3)
        assert found["mean_hu"] == pytest.approx(values.mean(), abs=0.01)
        assert found["sd_hu"] == pytest.approx(values.std(), abs=0.01)
        assert found["touches_border"] is True
    nothing = {"volume_ml": 0.0, "mean_hu": None, "sd_hu": None, "touches_border": False, "predicted_dice": None}
    assert written["statistics"]["liver"] == nothing
    assert set(written["run"]["seconds"]) == {"read", "prepare", "network", "postprocess", "statistics", "write"}


@pytest.mark.parametrize("place", [(0, 4, 4), (8, 4, 4), (4, 0, 4), (4, 8, 4), (4, 4, 0), (4, 4, 8)])
def test_an_organ_on_any_face_touches_the_border_and_one_inside_does_not(place):
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[4, 4, 4], labels[place] = 1, 2
    ct = Volume(np.zeros((9, 9, 9), np.int16), np.eye(4))
    found = measure_organs(ct, labels, {1: "liver", 2: "kidney"})
    assert (found["liver"].touches_border, found["kidney"].touches_border) == (False, True)


def test_organs_asked_for_alone_are_written_and_unknown_ones_refused(tmp_path):
    write_scan(tmp_path / "scan.nii.gz")
    facts = predict_file(
        ScanJob(tmp_path / "scan.nii.gz", tmp_path / "o.nii.gz"), MODEL, options=PredictOptions(organs=("spleen",))
    )
    assert facts["labels"] == {"3": "spleen"}
    assert set(np.unique(nifti.read(tmp_path / "o.nii.gz").voxels)) == {0, 3}
    with pytest.raises(LabelError, match="has no 'splen'. Did you mean 'spleen'"):
        predict_all([], MODEL, options=PredictOptions(organs=("splen",)))


def test_a_folder_goes_on_over_a_bad_scan_and_skips_what_is_done(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number, name in enumerate("ac"):
        write_scan(folder / f"{name}_0000.nii.gz", seed=number)
    (folder / "b_0000.nii.gz").write_bytes((folder / "a_0000.nii.gz").read_bytes()[:400])
    tasks = find_scan_jobs(folder, out)
    assert [task.output.name for task in tasks] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    told = []
    failed = predict_all(tasks, MODEL, done=lambda task, how: told.append(how))
    assert [task.scan.name for task, _ in failed] == ["b_0000.nii.gz"]
    assert told[0] == told[2] == "segmented"
    assert "truncated" in told[1]
    assert {file.name for file in out.iterdir()} == {
        "a.json", "a.nii.gz", "b.failed.json", "c.json", "c.nii.gz", "labels.ctbl", "labels.itksnap.txt",
    }  # fmt: skip
    before = (out / "a.nii.gz").stat().st_mtime_ns
    predict_all(tasks, MODEL, done=lambda task, how: told.append(how))
    assert told[3] == "was done"
    assert (out / "a.nii.gz").stat().st_mtime_ns == before


def test_a_label_map_without_its_sidecar_or_from_other_weights_is_not_overwritten_unless_wished(tmp_path):
    write_scan(tmp_path / "scan.nii.gz")
    task = ScanJob(tmp_path / "scan.nii.gz", tmp_path / "o.nii.gz")
    task.output.write_bytes(b"somebody's own")
    assert "exists already" in str(predict_all([task], MODEL)[0][1])
    assert task.output.read_bytes() == b"somebody's own"
    assert predict_all([task], MODEL, options=PredictOptions(overwrite=True)) == []
    assert nifti.read(task.output).shape == (5, 16, 16)
    other = model((16, 16))
    object.__setattr__(other, "weights_sha256", "other")
    assert "not from this command" in str(predict_all([task], other)[0][1])


def test_colour_files_name_every_organ(tmp_path):
    write_scan(tmp_path / "scan.nii.gz")
    predict_all(find_scan_jobs(tmp_path / "scan.nii.gz", tmp_path / "out"), MODEL)
    slicer = (tmp_path / "out" / "labels.ctbl").read_text().splitlines()
    assert slicer[1:3] == ["0 background 0 0 0 0", "1 liver 204 102 119 255"]
    snap = (tmp_path / "out" / "labels.itksnap.txt").read_text().splitlines()
    assert snap[2] == '1 204 102 119 1 1 1 "liver"'


@pytest.mark.parametrize(
    ("files", "output", "message"),
    [
        ([], "out", "there is no scan at"),
        (["in/"], "out", "holds no .nii or .nii.gz file"),
        (["in/a.nii.gz"], "out.nii.gz", "in is a folder, so the output must be one too"),
        (["in/a.nii", "in/a.nii.gz"], "out", "would both become a.nii.gz"),
    ],
)
def test_inputs_that_make_no_sense_are_explained(tmp_path, files, output, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if not name.endswith("/"):
            (tmp_path / name).touch()
    (tmp_path / "in").mkdir(exist_ok=True) if files else None
    with pytest.raises(FileError, match=message):
        find_scan_jobs(tmp_path / "in", tmp_path / output)


def write_folder(folder, count: int) -> None:
    """Write some scans, the second cut off in the middle of its voxels."""
    folder.mkdir()
    for number in range(count):
        write_scan(folder / f"{number}.nii.gz", seed=number)
    whole = (folder / "1.nii.gz").read_bytes()
    (folder / "1.nii.gz").write_bytes(whole[: len(whole) * 2 // 3])


@pytest.mark.parametrize("statistics", [False, True])
def test_scans_that_overlap_get_what_each_gets_alone_and_a_truncated_one_leaves_a_note(tmp_path, statistics):
    write_folder(tmp_path / "in", 5)
    tasks = find_scan_jobs(tmp_path / "in", tmp_path / "out")
    told = []
    options = PredictOptions(statistics=statistics)
    failed = predict_all(tasks, MODEL, options=options, done=lambda task, how: told.append((task, how)))
    assert [task for task, _ in told] == tasks
    assert [(task, type(error)) for task, error in failed] == [(tasks[1], FileError)]
    assert "truncated" in told[1][1]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "labels.ctbl", "labels.itksnap.txt", "1.failed.json",
        *(f"{number}.{end}" for number in (0, 2, 3, 4) for end in ("json", "nii.gz")),
    }  # fmt: skip
    for task in tasks[:1] + tasks[2:]:
        facts = predict_file(ScanJob(task.scan, tmp_path / "alone" / task.output.name), MODEL, options=options)
        overlapped = json.loads(task.sidecar.read_text())
        assert (tmp_path / "alone" / task.output.name).read_bytes() == task.output.read_bytes()
        assert overlapped.get("statistics") == facts.get("statistics")
        for found, plan in ((overlapped["run"], "overlapped"), (facts["run"], "alone")):
            assert found["plan"] == plan
            assert found["efficiency"]["overlapped"] is (plan == "overlapped")
            assert found["seconds"].keys() >= {"read", "prepare", "network", "postprocess", "write"}


def test_what_overlapping_scans_cost_adds_up_to_what_the_run_cost(tmp_path):
    write_folder(tmp_path / "in", 4)
    tasks = find_scan_jobs(tmp_path / "in", tmp_path / "out")
    with sample_efficiency() as meter:
        predict_all(tasks, MODEL)
    costs = [json.loads(task.sidecar.read_text())["run"]["efficiency"] for task in tasks if task.sidecar.exists()]
    assert len(costs) == 3
    assert all(cost["seconds"] > 0 for cost in costs)
    assert sum(cost["seconds"] for cost in costs) <= meter.result.seconds + 0.01
    assert sum(cost["cpu_area_percent_s"] for cost in costs) <= meter.result.cpu_area_percent_s + 1


def test_an_interrupted_folder_holds_only_finished_scans_and_goes_on_from_there(tmp_path):
    write_folder(tmp_path / "in", 6)
    tasks = find_scan_jobs(tmp_path / "in", tmp_path / "out")

    def interrupt(task, how):
        if task == tasks[2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_all(tasks, MODEL, done=interrupt)
    standing = {file.name for file in (tmp_path / "out").iterdir()}
    finished = {name for name in standing if name.endswith(".nii.gz")}
    assert {"0.nii.gz", "2.nii.gz"} <= finished
    assert standing == finished | {name.replace(".nii.gz", ".json") for name in finished} | {"1.failed.json"}
    for name in finished:
        assert nifti.read(tmp_path / "out" / name).shape == (5, 16, 16)
    told = []
    predict_all(tasks, MODEL, done=lambda task, how: told.append(how))
    assert [how == "was done" for how in told] == [task.output.name in finished for task in tasks]


def test_a_limit_too_small_for_one_scan_is_that_scans_failure_and_nothing_of_it_is_read(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ac":
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    hollow(tmp_path / "in" / "b.nii")  # 1 GiB of zeros would be refused as no HU
    tasks = find_scan_jobs(tmp_path / "in", tmp_path / "out")
    most_mib = psutil.Process().memory_info().rss / 2**20 + 500
    ((task, error),) = predict_all(tasks, MODEL, max_memory_mib=most_mib)
    assert task == tasks[1]
    assert re.fullmatch(
        r"b.nii: --max-memory \S+: this scan needs at least \d+ MiB, .*Pass --max-memory \d+ or more.", str(error)
    )
    assert [task.output.exists() for task in tasks] == [True, False, True]
    run = json.loads(tasks[0].sidecar.read_text())["run"]
    assert run["max_memory_mib"] == most_mib
    with pytest.raises(SettingError, match=r"a.nii.gz: --max-memory 10: this scan needs at least"):
        predict_file(tasks[0], MODEL, options=PredictOptions(overwrite=True), max_memory_mib=10)


@pytest.mark.parametrize("preparation", [None, SpacedSlices(spacing_mm=3.0)])
def test_a_scan_that_is_read_slab_by_slab_gets_the_same_labels(tmp_path, preparation):
    shape = (160, 160, 480)
    hu = np.random.default_rng(0).choice([-1000, -300, 0, 100, 300], shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-0.7, -0.8, 2.5, 1])), tmp_path / "scan.nii")
    one = model((16, 16), preparation)
    need = needed_mib(look_at(tmp_path / "scan.nii"), one, statistics=False)
    assert need.slabs is not None
    assert need.slabs < need.alone - 20
    whole, slabs = (
        ScanJob(tmp_path / "scan.nii", tmp_path / "a.nii"),
        ScanJob(tmp_path / "scan.nii", tmp_path / "b.nii"),
    )
    predict_file(whole, one)
    most_mib = psutil.Process().memory_info().rss / 2**20 + (need.slabs + need.alone) / 2
    facts = predict_file(slabs, one, max_memory_mib=most_mib)
    assert facts["run"]["plan"] == "slabs"
    assert whole.output.read_bytes() == slabs.output.read_bytes()


def no_folder(tmp_path):
    (tmp_path / "file").touch()
    return tmp_path / "file" / "out"


@pytest.mark.parametrize("place", [no_folder, lambda _: Path("/proc/viscera")], ids=["below a file", "in /proc"])
def test_where_nothing_can_be_written_every_scan_fails_and_says_so(tmp_path, place):
    write_folder(tmp_path / "in", 3)
    tasks = [
        ScanJob(task.scan, place(tmp_path) / task.output.name)
        for task in find_scan_jobs(tmp_path / "in", tmp_path / "out")
    ]
    failed = predict_all(tasks, MODEL)
    assert [task for task, _ in failed] == tasks
    assert all(str(error).startswith("cannot write") for task, error in failed if task != tasks[1])
    with pytest.raises(FileError, match="cannot write .*Ch(eck|oose)"):
        predict_file(tasks[0], MODEL)


def test_a_disk_that_is_full_is_that_scans_failure_and_leaves_no_part_of_it(tmp_path):
    write_scan(tmp_path / "scan.nii.gz")
    task = ScanJob(tmp_path / "scan.nii.gz", tmp_path / "out" / "o.nii.gz")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        ((_, error),) = predict_all([task], MODEL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large (" in str(error)
    assert list((tmp_path / "out").iterdir()) == []


def test_cores_and_memory_are_what_was_asked_for_or_refused(tmp_path, capsys):
    threads = torch.get_num_threads()
    try:
        assert use_cores(1) == torch.get_num_threads() == cv2.getNumThreads() == 1
        assert use_cores() == torch.get_num_threads() >= 1
    finally:
        use_cores(threads)
    write_scan(tmp_path / "scan.nii.gz")
    command = ["predict", str(tmp_path / "scan.nii.gz"), str(tmp_path / "o.nii.gz"), "--weights", "nowhere"]
    for option, message in ((["--jobs", "-1"], "--jobs must not be negative"), (["--max-memory", "0"], "above 0 MiB")):
        assert main([*command, *option]) == 2
        assert message in capsys.readouterr().err
