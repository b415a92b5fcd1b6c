"""viscera predict --cluster within this process: what a worker does with a scan, and what is refused before any work begins."""

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from dask_threads import threads
from dicom_series import write_series
from faults.verbs import steady
from makers import call
from viscera.errors import FileError, RunError, SettingError
from viscera.inference.cluster_worker import Order, _limit_mib, begun_scan, model_of
from viscera.inference.dicom_jobs import find_dicom_jobs
from viscera.inference.dicom_objects import DicomOptions
from viscera.inference.jobs import ScanJob, find_scan_jobs
from viscera.inference.loading import Networks, load_networks
from viscera.inference.manifest import find_manifest_jobs
from viscera.inference.on_cluster import _fit_for, _outcomes, predict_on_cluster
from viscera.inference.predict import predict_all
from viscera.inference.run import PredictOptions
from viscera.io import nifti
from viscera.io.cluster_pieces import DEATHS, why_unfit
from viscera.io.cluster_sharing import ask_each_worker, share_out_over
from viscera.io.clusters import Address, Cluster, parse_address
from viscera.volume import Volume

AFFINE = np.array([[0, 0, -4.0, 0], [0, -4.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1]])
NETWORKS = Networks(device="cpu", cores=1, precision="fp32")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two workers with a thread each, in this process."""
    with threads() as found:
        yield replace(found, address=Address(local=2))


@pytest.fixture(scope="module")
def model():
    return load_networks(NETWORKS)


@pytest.fixture
def scans(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    hu = np.full((6, 24, 24), -1000, np.int16)
    hu[:, 4:20, 4:20] = generator.integers(0, 150, (6, 16, 16))
    for name in "abc":
        nifti.write(tmp_path / f"scans/{name}.nii.gz", Volume(hu, AFFINE))
        hu = hu[:, ::-1]
    return tmp_path / "scans"


def files(folder: Path) -> dict[str, object]:
    """Return what stands in a folder, hidden files too; of JSON what is the same in every run."""
    return {
        file.name: steady(json.loads(file.read_text())) if file.suffix == ".json" else file.read_bytes()
        for file in folder.iterdir()
    }


def test_the_same_files_come_of_a_cluster_and_none_is_made_twice(cluster, model, scans, tmp_path):
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    options = PredictOptions(statistics=True)
    local = predict_all(find_scan_jobs(scans, tmp_path / "here"), model, options=options)
    jobs, told = find_scan_jobs(scans, tmp_path / "there"), []
    there = predict_on_cluster(
        jobs, model, cluster, NETWORKS, options=options, done=lambda job, how: told.append((job.scan.name, how))
    )
    assert [(job.scan, str(error)) for job, error in there] == [(job.scan, str(error)) for job, error in local]
    assert [job.scan.name for job, _ in there] == ["broken.nii.gz"]
    assert sorted(told)[0] == ("a.nii.gz", "segmented")
    assert files(tmp_path / "there") == files(tmp_path / "here")  # broken.failed.json, too, and nothing hidden
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "there").glob("*.nii.gz")}
    told.clear()
    predict_on_cluster(jobs, model, cluster, NETWORKS, options=options, done=lambda job, how: told.append(how))
    assert sorted(told)[1:] == ["was done"] * 3
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.filterwarnings("ignore::viscera.inference.dicom_objects.EmptyWarning")
def test_a_dicom_series_and_what_is_written_of_it(cluster, model, tmp_path, monkeypatch):
    write_series(tmp_path / "series", name="IMG{:03d}".format)
    monkeypatch.chdir(tmp_path)
    options = PredictOptions(dicom=DicomOptions(("seg",)))
    for out, way in (("here", predict_all), ("there", partial(predict_on_cluster, cluster=cluster, networks=NETWORKS))):
        jobs, _ = find_dicom_jobs(Path("series"), Path(out))
        assert way(jobs, model, options=options) == []
    names = sorted(file.name for file in Path("here").iterdir())
    assert sorted(file.name for file in Path("there").iterdir()) == names
    assert "viscera-results.jsonl" in names
    assert {"series.nii.gz", "series.json"} < {*names}
    assert Path("here/series.nii.gz").read_bytes() == Path("there/series.nii.gz").read_bytes()


def test_a_series_of_a_zip_stays_on_this_machine(cluster, model, tmp_path):
    write_series(tmp_path / "series", name="IMG{:03d}".format)
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as packed:
        for file in (tmp_path / "series").iterdir():
            packed.write(file, file.name)
    jobs, _ = find_dicom_jobs(tmp_path / "series.zip", tmp_path / "out")
    elsewhere = replace(cluster, address=Address(url="tcp://127.0.0.1:1"))
    with pytest.raises(
        SettingError, match="is in a ZIP, which only this machine has unpacked. Unpack it on the shared disk"
    ):
        predict_on_cluster(jobs, model, elsewhere, NETWORKS)
    assert predict_on_cluster(jobs, model, cluster, NETWORKS) == []


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(scans) -> Iterator[str]:
    """Serve the folder of scans to this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(scans)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_scans_at_urls_are_fetched_by_workers_and_no_key_of_a_url_is_told(
    cluster, model, scans, served, tmp_path, monkeypatch
):
    monkeypatch.setattr("viscera.io.fetching.PAUSE_S", 0.01)
    (scans / "cut.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:300])
    rows = [
        f"{served}/a.nii.gz?key=SECRET,",
        f"{served}/b.nii.gz,other",
        f"{served}/gone.nii.gz?key=SECRET,",
        "c.nii.gz,",
    ]
    (scans / "list.csv").write_text("\n".join(["input,name", *rows, f"{served}/cut.nii.gz,"]))
    jobs, problems = find_manifest_jobs(scans / "list.csv", tmp_path / "out", urls=True)
    assert problems == {}
    failed = predict_on_cluster(jobs, model, cluster, NETWORKS)
    assert [str(error).partition(".")[0] for _, error in failed] == ["gone", "cut"]
    assert "gone.nii.gz cannot be fetched: it is not there" in str(failed[0][1])
    predict_all(find_scan_jobs(scans, tmp_path / "here"), model)
    for ours, theirs in (("a", "a"), ("other", "b"), ("c", "c")):
        assert (tmp_path / f"out/{ours}.nii.gz").read_bytes() == (tmp_path / f"here/{theirs}.nii.gz").read_bytes()
        run, there = (
            json.loads(file.read_text())["run"]
            for file in (tmp_path / f"out/{ours}.json", tmp_path / f"here/{theirs}.json")
        )
        assert (run["scan"], run["scan_sha256"]) == (there["scan"], there["scan_sha256"])
    assert not any(b"SECRET" in file.read_bytes() for file in (tmp_path / "out").iterdir())
    told = []
    predict_on_cluster(jobs, model, cluster, NETWORKS, done=lambda job, how: told.append(how))
    assert told.count("was done") == 3
    code, said = call(f"predict {scans}/list.csv {tmp_path}/out")
    assert (code, "list.csv lists URLs, which viscera predict --cluster fetches. Add --cluster local:1" in said) == (
        2,
        True,
    )


def test_urls_of_other_files_and_what_cannot_read_them_are_told_first(scans, tmp_path):
    (scans / "list.csv").write_text("input\nhttps://host/series.zip\nhttps://host/a.nii.gz\nhttps://host/a.nii.gz\n")
    with pytest.raises(FileError, match="row 2: series.zip is not a .nii or .nii.gz.*row 4: the name of row 3 again"):
        find_manifest_jobs(scans / "list.csv", tmp_path / "out", urls=True)
    (scans / "list.csv").write_text("input\naz://container/a.nii.gz\n")
    with pytest.raises(
        SettingError, match="az:// need adlfs, which is not installed. Install it, here and where workers"
    ):
        find_manifest_jobs(scans / "list.csv", tmp_path / "out", urls=True)


def test_what_a_worker_warns_of_is_told_here(cluster, model, scans, tmp_path):
    with (scans / "a.nii.gz").open("ab") as file:
        file.write(b"behind")
    with pytest.warns(nifti.GridWarning, match="6 bytes behind") as here:
        predict_all([ScanJob(scans / "a.nii.gz", tmp_path / "here/a.nii.gz")], model)
    with pytest.warns(nifti.GridWarning, match="6 bytes behind") as there:
        predict_on_cluster([ScanJob(scans / "a.nii.gz", tmp_path / "there/a.nii.gz")], model, cluster, NETWORKS)
    assert {str(one.message) for one in here} == {str(one.message) for one in there}


def test_workers_that_see_other_files_are_told_before_any_work(cluster, model, scans, tmp_path):
    jobs = find_scan_jobs(scans, tmp_path / "out")
    with _fit_for(jobs, model, NETWORKS) as fit:
        place = fit.place
        assert answer_fit_there(cluster, fit) == {""}
        wrong = {
            "has viscera .*, not 0.0.0. Start workers in the same environment": replace(
                fit, place=replace(place, viscera="0.0.0")
            ),
            "another folder there. Choose an output on a disk that all": replace(
                fit, place=replace(place, token="another")
            ),
            "does not see gone.nii.gz. Put what is read on a disk": replace(
                fit, place=replace(place, inputs=(Path("/nowhere/gone.nii.gz"),))
            ),
            "has other weights there": replace(fit, sha256s=("another",)),
            "nowhere": replace(fit, networks=Networks(Path("/nowhere/run"), device="cpu")),
        }
        for message, one in wrong.items():
            (answer,) = answer_fit_there(cluster, one)
            assert re.search(message, answer)
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(SettingError, match="the worker tcp://127.0.0.1:.* cannot be used: it has other weights"):
        predict_on_cluster(jobs, replace(model, weights_sha256="another"), cluster, NETWORKS)


def answer_fit_there(cluster, fit) -> set[str]:
    return set(ask_each_worker(cluster, partial(why_unfit, partial(model_of, fit))).values())


def test_scans_of_workers_that_cannot_be_used_wait_for_others_and_where_there_is_none_the_command_ends(
    cluster, model, scans, tmp_path
):
    jobs = find_scan_jobs(scans, tmp_path / "out")
    with (
        _fit_for(jobs, model, NETWORKS) as fit,
        pytest.raises(SettingError, match="no worker can be used: it has other weights"),
    ):
        list(_outcomes(cluster, Order(replace(fit, sha256s=("another",)), PredictOptions()), jobs))
    assert not list((tmp_path / "out").iterdir())


def test_a_scan_that_does_not_fit_says_of_whom_the_memory_is(cluster, model, scans, tmp_path):
    jobs = find_scan_jobs(scans, tmp_path / "out")
    failed = predict_on_cluster(jobs, model, cluster, NETWORKS, max_memory_mib=1.0)
    assert len(failed) == 3
    assert "--max-memory 1: this scan needs at least" in str(failed[0][1])
    assert _limit_mib(None, None) is None
    assert _limit_mib(2**30, None) == 768
    assert _limit_mib(2**30, 100.0) == 100
    assert _limit_mib(2**30, 10_000.0) == 768


def test_a_scan_is_set_aside_when_two_workers_died_of_it_in_one_command(tmp_path):
    job = ScanJob(tmp_path / "a.nii.gz", tmp_path / "out/a.nii.gz")
    note = tmp_path / "out/.a.nii.gz.begun"
    for deaths in range(DEATHS):
        with begun_scan(job, "token"):
            left = note.read_text()
            assert left == f"token {deaths + 1}\n"
        assert not note.exists()
        note.write_text(left)  # as a killed process leaves it
    with pytest.raises(RunError, match="a.nii.gz: 2 workers died while they segmented it"), begun_scan(job, "token"):
        raise AssertionError
    assert not list((tmp_path / "out").iterdir())
    note.write_text("token 2\n")
    with begun_scan(job, "another"):  # the next command tries it again
        assert note.read_text() == "another 1\n"


def test_a_scan_that_another_worker_has_is_waited_for(tmp_path):
    job, order = ScanJob(tmp_path / "a.nii.gz", tmp_path / "a.out.nii.gz"), []

    def second() -> None:
        with begun_scan(job, "token"):
            order.append("second")

    with begun_scan(job, "token"):
        waiting = Thread(target=second)
        waiting.start()
        waiting.join(0.6)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def _square(number: int) -> int:
    return number**2


def _refuse(number: int) -> int:
    raise ValueError(number)


def test_work_is_shared_out_and_what_it_raises_is_raised(cluster):
    found = dict(share_out_over(cluster, _square, range(50)))
    assert found == {number: number**2 for number in range(50)}
    with pytest.raises(ValueError, match="0"):
        list(share_out_over(cluster, _refuse, [0]))
    assert list(share_out_over(cluster, _square, [])) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local", "neither local:N nor tcp://HOST:PORT"),
        ("local:0", "there must be 1 to 1024 workers"),
        ("slurm:site.yaml", "nor slurm:N.*slurm:20 for twenty jobs of SLURM .docs/cohorts.md"),
        ("slurm:0", "there must be 1 to 10000 jobs. Give slurm:20"),
        ("http://host:8786", "neither local:N"),
        ("tcp://host", "neither local:N"),
    ],
)
def test_a_cluster_is_local_or_a_schedulers_address(text, message):
    with pytest.raises(SettingError, match=message):
        parse_address(text)
    assert parse_address("tls://[::1]:8786") == Address(url="tls://[::1]:8786")


def test_a_scheduler_that_does_not_answer_is_told_before_anything_is_loaded(scans, tmp_path):
    from ports import free_port

    code, said = call(f"predict {scans} {tmp_path}/out --cluster tcp://127.0.0.1:{free_port()}")
    assert code == 2
    assert "no scheduler answers at tcp://127.0.0.1" in said
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_is_told_before_any_work(cluster, model, scans, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="is not a folder that you may write to"):
        predict_on_cluster([ScanJob(scans / "a.nii.gz", tmp_path / "file/a.nii.gz")], model, cluster, NETWORKS)
