"""viscera synth --cluster: the same data set, whoever made its patients."""

from functools import partial

import pytest

from dask_threads import files, threads
from makers import call
from viscera.datasets.synthetic import Cohort, write_cohort
from viscera.datasets.synthetic_on_cluster import make_over, make_there
from viscera.errors import RunError
from viscera.io.cluster_pieces import DEATHS, noted
from viscera.io.cluster_sharing import share_out_over, shared_notes

COHORT = Cohort("nnunet", cases=5, shape=(16, 32, 32))


@pytest.fixture(scope="module")
def cluster():
    with threads() as found:
        yield found


def test_the_same_patients_come_of_a_cluster_and_an_interrupted_data_set_goes_on(cluster, tmp_path):
    left = 2

    def stop() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "there", COHORT, jobs=partial(make_over, cluster), done=stop)
    first = tmp_path / "there/imagesTr/case_0001_0000.nii.gz"
    before = first.stat().st_mtime_ns
    code, said = call(f"synth {tmp_path}/there --cases 5 --shape 16 32 32 --cluster {cluster.address.url}")
    assert (code, "2 workers at tcp://" in said) == (0, True), said
    assert first.stat().st_mtime_ns == before
    write_cohort(tmp_path / "here", COHORT, jobs=1)
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_a_patient_that_two_workers_died_of_ends_the_command_and_is_named(tmp_path):
    with shared_notes(tmp_path) as place:
        with noted(place, "case 3", name="it", doing="made"):
            [note] = (tmp_path / ".cluster").glob("*.begun")
        note.write_text(f"{place.token} {DEATHS}\n")  # as killed processes leave it
        with pytest.raises(RunError, match="case 3: 2 workers died while they made it"):
            make_there(place, COHORT, 3)
        assert make_there(place, COHORT, 3).organs
    assert not list(tmp_path.iterdir())


def _slowest_first(number: int) -> int:
    import time

    time.sleep(0.3 * (number == 0))
    return number


def test_results_come_in_the_order_of_their_items_where_that_is_asked_for(cluster):
    assert list(share_out_over(cluster, _slowest_first, range(20), ordered=True)) == [(n, n) for n in range(20)]
    found = list(share_out_over(cluster, _slowest_first, range(20)))
    assert sorted(found) == [(n, n) for n in range(20)]


def test_templates_are_of_one_machine(tmp_path, cluster):
    code, said = call(f"synth {tmp_path}/new --template a.nii.gz --cluster {cluster.address.url}")
    assert (code, "--template and --donor are read on this machine only" in said) == (2, True)
    assert not (tmp_path / "new").exists()
