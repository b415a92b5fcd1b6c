import pytest

from viscera.cli.command import main
from viscera.datasets.synthetic import Cohort, check_cohort, write_cohort
from viscera.errors import DataSetError, FileError, LabelError, SettingError


@pytest.mark.parametrize(
    ("cohort", "error", "message"),
    [
        (Cohort("nnunet", ("all",)), LabelError, r"no 'all' that could be annotated\. Leave it out: all organs are"),
        (Cohort("nnunet", ("livr",)), LabelError, r"no 'livr' that could be annotated\. Did you mean 'liver'"),
        (Cohort("totalsegmentator", ("../x",)), LabelError, r"no '\.\./x' that could be annotated"),
        (Cohort("flare", ("colon",)), LabelError, r"the layout has no label for 'colon'"),
        (Cohort("abdomenct1k", ("kidney_left",)), LabelError, r"one label for 'kidney'"),
        (Cohort("msd", ("kidney", "kidney_left")), SettingError, r"'kidney' or its sides"),
        (Cohort("images", ("liver",)), SettingError, r"layout 'images' has no labels"),
        (Cohort("nnunt", ("liver",)), SettingError, r"no layout 'nnunt'"),
        (Cohort("nnunet", ("tumour",)), SettingError, r"tumours are to be annotated, but the patients have none"),
        (Cohort("nnunet", cases=0), SettingError, r"at least 1 case"),
        (Cohort("nnunet", shape=(8, 64, 64)), SettingError, r"at least 16 voxels in each direction"),
        (Cohort("nnunet", shape=(9000, 9000, 9000)), SettingError, r"536870912 in all; got 10 and 9000x9000x9000"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_patient_is(tmp_path, cohort, error, message):
    with pytest.raises(error, match=message):
        write_cohort(tmp_path / "out", cohort, jobs=1, done=lambda: pytest.fail("a patient was made"))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_told_before_any_patient_is_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataSetError, match=r"file is a file\. Give a new folder"):
        check_cohort(tmp_path / "file", Cohort("nnunet"))
    with pytest.raises(FileError, match=r"cannot write .*out: Not a directory"):
        write_cohort(
            tmp_path / "file" / "out", Cohort("nnunet"), jobs=1, done=lambda: pytest.fail("a patient was made")
        )


@pytest.mark.parametrize("layout", ["nnunet", "msd", "totalsegmentator", "flare", "abdomenct1k", "radiotherapy"])
def test_what_a_layout_annotates_by_default_can_be_made(tmp_path, layout):
    check_cohort(tmp_path / "out", Cohort(layout))
    check_cohort(tmp_path / "out", Cohort(layout, tumours=True))


def test_all_organs_are_not_an_organ_on_the_command_line(tmp_path, capsys):
    assert main(["synth", str(tmp_path / "out"), "--annotate", "all"]) == 2
    assert "no 'all' that could be annotated. Leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
