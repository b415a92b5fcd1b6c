"""What is done is told by contents; what viscera did not write is never replaced; one writer per label map."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from isal import igzip_threaded

from makers import nearest_model
from viscera.config import Postprocessing, WindowInference
from viscera.errors import FileError
from viscera.inference.colour_files import KeptWarning
from viscera.inference.identity import made_with
from viscera.inference.jobs import ScanJob, find_scan_jobs
from viscera.inference.model import with_region
from viscera.inference.predict import PredictOptions, predict_all, predict_file
from viscera.io.atomic import sha256
from viscera.io.dicom_files import is_dicom_place
from viscera.io.locks import only_writer
from viscera.io.scans import LeftOutWarning

MODEL = nearest_model()


def write_scan(path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hu = np.random.default_rng(seed).choice([-1000, -300, 0, 100, 300], (16, 16, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-0.7, -0.8, 2.5, 1])), path)


def outcome(scan, output, model=MODEL, **options) -> str:
    """Predict one scan; return how it was told of."""
    told = []
    predict_all(
        [ScanJob(scan, output)], model, options=PredictOptions(**options), done=lambda job, how: told.append(how)
    )
    return told[0]


def test_another_scan_of_the_same_name_is_not_taken_for_done(tmp_path):
    write_scan(tmp_path / "A" / "ct.nii.gz", 0)
    write_scan(tmp_path / "B" / "ct.nii.gz", 1)
    out = tmp_path / "o" / "ct.nii.gz"
    assert outcome(tmp_path / "A" / "ct.nii.gz", out, statistics=True) == "segmented"
    before = out.read_bytes(), out.with_name("ct.json").read_bytes()
    for options in ({}, {"statistics": True}):
        said = outcome(tmp_path / "B" / "ct.nii.gz", out, **options)
        assert "not from this command: it was made from another scan. Pass --overwrite" in said
    assert (out.read_bytes(), out.with_name("ct.json").read_bytes()) == before
    assert outcome(tmp_path / "A" / "ct.nii.gz", out) == "was done"
    assert outcome(tmp_path / "B" / "ct.nii.gz", out, overwrite=True) == "segmented"
    assert outcome(tmp_path / "B" / "ct.nii.gz", out) == "was done"


def test_the_same_contents_under_another_name_are_the_same_scan_and_a_touched_file_too(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    assert outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz") == "segmented"
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    os.utime(tmp_path / "b.nii.gz", (1, 1))
    assert outcome(tmp_path / "b.nii.gz", tmp_path / "o.nii.gz") == "was done"


def other_settings():
    return replace(MODEL, recipe=replace(MODEL.recipe, postprocessing=Postprocessing(smallest_ml={"liver": 1.0})))


@pytest.mark.parametrize(
    ("model", "options", "how"),
    [
        (MODEL, {"organs": ("liver",)}, "other --organs"),
        (replace(MODEL, weights_sha256="other"), {}, "other weights"),
        (replace(MODEL, finder=replace(MODEL, weights_sha256="other")), {}, "another --tumour or --finder"),
        (replace(MODEL, tumour=replace(MODEL, weights_sha256="other")), {}, "another --tumour or --finder"),
        (other_settings(), {}, "other settings of the recipe"),
    ],
    ids=["organs", "weights", "finder", "tumour", "recipe"],
)
def test_a_label_map_made_with_other_options_is_not_taken_for_done(tmp_path, model, options, how):
    write_scan(tmp_path / "a.nii.gz")
    assert outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz") == "segmented"
    assert f"not from this command: it was made with {how}" in outcome(
        tmp_path / "a.nii.gz", tmp_path / "o.nii.gz", model, **options
    )


@pytest.mark.parametrize("key", ["region", "runtime", "results"])
def test_whatever_changes_the_result_is_noted_and_compared(tmp_path, key):
    write_scan(tmp_path / "a.nii.gz")
    outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz")
    facts = json.loads((tmp_path / "o.json").read_text())
    facts["run"]["made_with"][key] = "something else"
    (tmp_path / "o.json").write_text(json.dumps(facts))
    assert "not from this command: it was made" in outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz")


def test_the_order_of_organs_changes_nothing(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    assert outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz", organs=("spleen", "liver")) == "segmented"
    assert outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz", organs=("liver", "spleen")) == "was done"


def test_statistics_asked_for_later_are_added_and_the_hashes_are_those_of_the_files(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    out = tmp_path / "o.nii.gz"
    outcome(tmp_path / "a.nii.gz", out)
    labels = out.read_bytes()
    assert outcome(tmp_path / "a.nii.gz", out, statistics=True) == "segmented"
    assert out.read_bytes() == labels
    facts = json.loads((tmp_path / "o.json").read_text())
    assert facts["statistics"].keys() == {"liver", "kidney", "spleen", "pancreas"}
    assert facts["run"]["scan_sha256"] == sha256(tmp_path / "a.nii.gz")
    assert facts["run"]["labels_sha256"] == sha256(out)
    assert outcome(tmp_path / "a.nii.gz", out) == "was done"


def cut(out):
    out.write_bytes(out.read_bytes()[:-20])


def correct(out):
    labels = nibabel.load(out)
    changed = np.asarray(labels.dataobj).copy()
    changed[0] = 0
    nibabel.save(nibabel.Nifti1Image(changed, labels.affine), out)


@pytest.mark.parametrize("change", [cut, correct])
def test_a_label_map_that_was_changed_is_neither_done_nor_replaced(tmp_path, change):
    write_scan(tmp_path / "a.nii.gz")
    out = tmp_path / "o.nii.gz"
    outcome(tmp_path / "a.nii.gz", out)
    change(out)
    theirs = out.read_bytes()
    assert "it was changed after viscera had written it" in outcome(tmp_path / "a.nii.gz", out)
    assert "it was changed after" in outcome(tmp_path / "a.nii.gz", out, statistics=True)
    assert out.read_bytes() == theirs


def test_a_label_map_of_an_earlier_viscera_is_not_called_done_in_silence(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz")
    facts = json.loads((tmp_path / "o.json").read_text())
    for key in ("scan_sha256", "labels_sha256", "label_map", "made_with"):
        del facts["run"][key]
    (tmp_path / "o.json").write_text(json.dumps(facts))
    said = outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz")
    assert "made by an earlier viscera, which did not note from which scan's contents. Pass --overwrite" in said


def test_a_new_sidecar_beside_an_old_label_map_as_a_kill_may_leave_them_is_not_done(tmp_path):
    for seed, name in enumerate("ab"):
        write_scan(tmp_path / f"{name}.nii.gz", seed)
        predict_file(ScanJob(tmp_path / f"{name}.nii.gz", tmp_path / name / "o.nii.gz"), MODEL)
    (tmp_path / "b" / "o.json").replace(tmp_path / "a" / "o.json")
    assert "changed after" in outcome(tmp_path / "b.nii.gz", tmp_path / "a" / "o.nii.gz")


@pytest.mark.parametrize("content", ['{"Modality": "CT"}', "no JSON", "[" * 100_000, '{"labels": {"1": "liver"}}'])
def test_a_json_of_the_users_is_never_replaced(tmp_path, content):
    write_scan(tmp_path / "p1_0000.nii.gz")
    (tmp_path / "p1.json").write_text(content)
    for overwrite in (False, True):
        said = outcome(tmp_path / "p1_0000.nii.gz", tmp_path / "p1.nii.gz", overwrite=overwrite)
        assert said.startswith("p1.json exists already, and viscera did not write it.")
    assert (tmp_path / "p1.json").read_text() == content
    assert not (tmp_path / "p1.nii.gz").exists()


def test_a_link_to_nothing_where_the_sidecar_would_be_is_somebodys_too(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    (tmp_path / "o.json").symlink_to("nowhere")
    assert "viscera did not write it" in outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz")
    assert (tmp_path / "o.json").is_symlink()


def test_the_json_of_a_label_map_is_not_given_to_one_that_differs_only_in_its_ending(tmp_path):
    for seed, name in enumerate("ab"):
        write_scan(tmp_path / f"{name}.nii.gz", seed)
    assert outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii") == "segmented"
    assert "o.json exists already, and belongs to o.nii." in outcome(tmp_path / "b.nii.gz", tmp_path / "o.nii.gz")
    assert outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii") == "was done"


def test_colours_of_the_users_stay_with_a_note_and_viscera_s_own_are_renewed(tmp_path):
    write_scan(tmp_path / "in" / "a.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    (out / "labels.ctbl").write_text("# somebody's own colours\n1 liver 1 2 3 255\n")
    jobs = find_scan_jobs(tmp_path / "in", out)
    for overwrite in (False, True):
        with pytest.warns(KeptWarning, match="labels.ctbl exists already, and viscera did not write it: it stays"):
            assert predict_all(jobs, MODEL, options=PredictOptions(overwrite=overwrite)) == []
    assert "somebody's own" in (out / "labels.ctbl").read_text()
    ours = (out / "labels.itksnap.txt").read_text()
    (out / "labels.itksnap.txt").write_text("\n".join(ours.splitlines()[:3]) + "\n")
    (out / "labels.ctbl").unlink()
    predict_all(jobs, MODEL)
    assert (out / "labels.itksnap.txt").read_text() == ours


def test_the_same_command_goes_on_where_the_label_maps_lie_among_the_scans(tmp_path):
    for seed in range(2):
        write_scan(tmp_path / f"p{seed}_0000.nii.gz", seed)
    told = []
    for _ in range(2):
        jobs = find_scan_jobs(tmp_path, tmp_path)
        assert [job.output.name for job in jobs] == ["p0.nii.gz", "p1.nii.gz"]
        assert predict_all(jobs, MODEL, done=lambda job, how: told.append(how)) == []
    assert told == ["segmented"] * 2 + ["was done"] * 2
    with pytest.warns(LeftOutWarning, match="2 label maps that viscera wrote"):
        assert len(find_scan_jobs(tmp_path, tmp_path / "elsewhere")) == 2


def test_a_scan_beside_a_label_map_of_another_ending_is_still_a_scan(tmp_path):
    write_scan(tmp_path / "in" / "p1.nii.gz")
    assert outcome(tmp_path / "in" / "p1.nii.gz", tmp_path / "in" / "p1.nii") == "segmented"
    with pytest.warns(LeftOutWarning, match="1 label map that viscera wrote .p1.nii. is no scan"):
        assert [job.scan.name for job in find_scan_jobs(tmp_path / "in", tmp_path / "out")] == ["p1.nii.gz"]


def test_a_folder_of_label_maps_alone_holds_no_scan(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    outcome(tmp_path / "a.nii.gz", tmp_path / "out" / "a.nii.gz")
    with pytest.raises(FileError, match="no scan, only label maps that viscera wrote"):
        find_scan_jobs(tmp_path / "out", tmp_path / "again")


def spellings(tmp_path):
    """Return what all mean the file folder/p1.nii.gz, as outputs."""
    scan = tmp_path / "folder" / "p1.nii.gz"
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "hard").mkdir()
    os.link(scan, tmp_path / "hard" / "p1.nii.gz")
    (tmp_path / "soft").mkdir()
    (tmp_path / "soft" / "p1.nii.gz").symlink_to(scan)
    return [scan.parent, tmp_path / "link", tmp_path / "hard", tmp_path / "soft", tmp_path / "folder" / ".." / "folder"]


def test_an_output_that_is_the_scan_is_refused_whatever_the_spelling(tmp_path, monkeypatch):
    scan = tmp_path / "folder" / "p1.nii.gz"
    write_scan(scan)
    content = scan.read_bytes()
    monkeypatch.chdir(tmp_path / "folder")
    for output in [*spellings(tmp_path), type(scan)()]:
        for given in (scan, scan.parent, tmp_path / "link", scan.relative_to(scan.parent)):
            with pytest.raises(FileError, match="is an input of this command, and would be replaced"):
                find_scan_jobs(given, output)
        job = ScanJob(scan, output / "p1.nii.gz")
        for run in (lambda job=job: predict_all([job], MODEL, options=PredictOptions(overwrite=True)),
                    lambda job=job: predict_file(job, MODEL)):  # fmt: skip
            with pytest.raises(FileError, match="would be replaced"):
                run()
    assert scan.read_bytes() == content


def test_the_output_of_one_scan_must_not_be_another_scan_of_the_command(tmp_path):
    for seed, name in enumerate(("a.nii.gz", "b.nii.gz")):
        write_scan(tmp_path / name, seed)
    jobs = [
        ScanJob(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz"),
        ScanJob(tmp_path / "b.nii.gz", tmp_path / "a.nii.gz"),
    ]
    with pytest.raises(FileError, match="a.nii.gz is an input of this command"):
        predict_all(jobs, MODEL)
    with pytest.raises(FileError, match="named twice as an output"):
        predict_all([ScanJob(job.scan, tmp_path / "o.nii.gz") for job in jobs], MODEL)


def test_everything_with_a_scans_name_is_counted_and_told_of(tmp_path):
    folder = tmp_path / "in"
    write_scan(folder / "a.nii.gz")
    (folder / "b.nii.gz").symlink_to("nowhere/gone.nii.gz")
    (folder / "c.nii.gz").mkdir()
    (folder / "d.nii.gz").symlink_to("d.nii.gz")
    write_scan(folder / "e.nii.gz")
    (folder / "e.nii.gz").rename(folder / "E.NII.GZ")
    (folder / "f.nii").write_bytes(b"")
    (folder / "._a.nii.gz").write_bytes(b"macOS")
    jobs = find_scan_jobs(folder, tmp_path / "out")
    assert sorted(job.scan.name for job in jobs) == [
        "E.NII.GZ",
        "a.nii.gz",
        "b.nii.gz",
        "c.nii.gz",
        "d.nii.gz",
        "f.nii",
    ]
    failed = {job.scan.name: str(error) for job, error in predict_all(jobs, MODEL)}
    assert "is a link to a file that is not there. Correct the link" in failed.pop("b.nii.gz")
    assert "is a folder, not a NIfTI file. Give the file itself" in failed.pop("c.nii.gz")
    assert "cannot be read: Too many levels of symbolic links" in failed.pop("d.nii.gz")
    assert "is empty" in failed.pop("f.nii")
    assert not failed
    assert {file.name for file in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "E.nii.gz"}


@pytest.mark.parametrize("name", ["out.nrrd", "OUT.MHA", "out.nii.bz2", ".x.nii.gz", "out.json", "out.nii.gz.tmp"])
def test_an_output_named_as_another_kind_of_file_is_refused_and_not_made_a_folder(tmp_path, name):
    write_scan(tmp_path / "in" / "a.nii.gz")
    for scan in (tmp_path / "in", tmp_path / "in" / "a.nii.gz"):
        with pytest.raises(FileError, match="neither a folder's name nor ends in .nii.gz or .nii"):
            find_scan_jobs(scan, tmp_path / name)
    (tmp_path / name).mkdir()
    assert find_scan_jobs(tmp_path / "in", tmp_path / name)[0].output.parent == tmp_path / name


def test_dicom_is_told_by_its_contents_and_nifti_files_beside_it_come_first(tmp_path):
    folder = tmp_path / "series"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "IM0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    assert is_dicom_place(folder)
    assert is_dicom_place(folder / "below" / "IM0001")
    write_scan(folder / "a.nii.gz")
    assert not is_dicom_place(folder)
    assert not is_dicom_place(folder / "a.nii.gz")
    assert [job.scan.name for job in find_scan_jobs(folder, tmp_path / "out")] == ["a.nii.gz"]


def test_a_scan_that_changes_while_it_is_read_is_not_segmented(tmp_path, monkeypatch):
    write_scan(tmp_path / "a.nii.gz")
    unpack = igzip_threaded.open

    def touch_and_unpack(file, *args, **more):
        os.utime(file.name, (1, 1))
        return unpack(file, *args, **more)

    monkeypatch.setattr(igzip_threaded, "open", touch_and_unpack)
    assert "changed while it was read" in outcome(tmp_path / "a.nii.gz", tmp_path / "o.nii.gz")
    assert not (tmp_path / "o.nii.gz").exists()


def test_a_second_process_does_not_write_what_another_one_is_writing(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    out = tmp_path / "o.nii.gz"
    hold = (
        "import sys, pathlib; from viscera.io.locks import only_writer\n"
        "with only_writer(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(out)], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert "o.nii.gz is being written by another process. Wait" in outcome(
            tmp_path / "a.nii.gz", out, overwrite=True
        )
        assert not out.exists()
        other.kill()
        other.wait()
    assert outcome(tmp_path / "a.nii.gz", out) == "segmented"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a.nii.gz", "labels.ctbl", "labels.itksnap.txt", "o.json", "o.nii.gz",
    ]  # fmt: skip


def test_what_another_process_finished_meanwhile_is_done_and_not_written_again(tmp_path):
    """The other one is predict_all as well: it writes the last scan's map while the first one is segmented."""
    for seed, name in enumerate("abc"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz", seed)
    jobs = find_scan_jobs(tmp_path / "in", tmp_path / "out")
    told, seen = [], []

    class Slow(type(MODEL.network)):
        def __call__(self, image):
            if not seen:
                seen.append(1)
                predict_all(jobs[2:], MODEL)
            return super().__call__(image)

    predict_all(jobs, replace(MODEL, network=Slow(MODEL.module)), done=lambda job, how: told.append(how))
    assert told == ["segmented", "segmented", "was done"]


def test_a_lock_may_be_ended_by_another_thread_and_leaves_nothing(tmp_path):
    lock = only_writer(tmp_path / "o.nii.gz")
    lock.__enter__()
    with pytest.raises(FileError, match="another process"), only_writer(tmp_path / "o.nii.gz"):
        pass
    thread = threading.Thread(target=lock.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert list(tmp_path.iterdir()) == []
    with only_writer(tmp_path / "o.nii.gz"):
        pass


def test_of_a_3d_network_the_region_is_told_by_name_and_other_settings_of_its_windows_by_their_hash():
    windows = replace(MODEL, recipe=replace(MODEL.recipe, inference=WindowInference()))
    first = made_with(windows, [])
    whole = made_with(with_region(windows, "whole"), [])
    assert (first["region"], whole["region"]) == ("find", "whole")
    assert {**first, "region": "whole"} == whole
    mirrored = replace(windows, recipe=replace(MODEL.recipe, inference=WindowInference(mirror=True)))
    assert made_with(mirrored, [])["settings_sha256"] != first["settings_sha256"]
    batches = replace(MODEL, recipe=replace(MODEL.recipe, inference=replace(MODEL.recipe.inference, batch_size=1)))
    assert made_with(batches, []) == made_with(MODEL, [])


@pytest.mark.parametrize("name", ["../x", "a/b", "", 3, None, "n" * 5000, "other.nii.gz"])
def test_a_sidecar_that_names_no_file_beside_it_does_no_harm(tmp_path, name):
    write_scan(tmp_path / "a.nii.gz")
    outcome(tmp_path / "a.nii.gz", tmp_path / "out" / "a.nii.gz")
    facts = json.loads((tmp_path / "out" / "a.json").read_text())
    facts["run"]["label_map"] = name
    (tmp_path / "out" / "a.json").write_text(json.dumps(facts))
    assert outcome(tmp_path / "a.nii.gz", tmp_path / "out" / "a.nii.gz") == "was done"
    with pytest.raises(FileError, match="only label maps"):
        find_scan_jobs(tmp_path / "out", tmp_path / "again")


def test_a_path_that_no_disk_takes_is_told_of(tmp_path):
    with pytest.raises(FileError, match="there is no scan at"):
        find_scan_jobs(tmp_path / ("n" * 20_000), tmp_path / "o.nii.gz")
