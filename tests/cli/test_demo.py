"""The demo's data sets; the whole demo is `make demo`."""

from viscera.cli.demo import write_patients


def test_a_data_set_that_stands_there_is_kept_and_one_left_unfinished_is_made_anew(tmp_path):
    folder, marker = tmp_path / "abdomenct1k", tmp_path / "abdomenct1k.unfinished"
    folder.mkdir()
    (folder / "precious").touch()
    write_patients(tmp_path, "abdomenct1k", 1)
    assert [file.name for file in folder.iterdir()] == ["precious"]
    marker.touch()  # as an interruption leaves it
    write_patients(tmp_path, "abdomenct1k", 1)
    assert not marker.exists()
    assert not (folder / "precious").exists()
    assert len(list(folder.rglob("*.nii.gz"))) == 2  # a scan and its labels
