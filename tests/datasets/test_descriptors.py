import json
import os

import pytest

from makers import nnunet_set
from viscera.datasets.layouts import find_sources
from viscera.datasets.sources import named_organs
from viscera.errors import DataSetError, SettingError

OUTSIDE = [
    "../x.nii.gz",
    "/etc/x.nii.gz",
    "imagesTr/../../x.nii.gz",
    "imagesTr\\x.nii.gz",
    "a\0b.nii.gz",
    "",
    "C:/x.nii.gz",
]
CLIMBING = ["../x", "/x", "a/b", "a\\b", "a\0b", "..", "", "x\ud800", "line\nfeed", "n" * 300]


def listing(folder, *, case="c1", image="imagesTr/c1_0000.nii.gz", label="labelsTr/c1.nii.gz"):
    return nnunet_set(folder, {"c1": 1}, dataset={case: {"images": [image], "label": label}})


def decathlon(folder, *, image="./imagesTr/c1_0000.nii.gz", label="./labelsTr/c1.nii.gz"):
    nnunet_set(folder, {"c1": 1})
    labels, entry = {"0": "background", "1": "liver", "2": "spleen"}, {"image": image, "label": label}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": [entry]}))
    return folder


@pytest.mark.parametrize("what", ["image", "label"])
@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize(("layout", "make"), [("nnunet", listing), ("msd", decathlon)])
def test_paths_of_a_descriptor_stay_inside_its_folder(tmp_path, layout, make, name, what):
    folder = make(tmp_path / "set", **{what: name})
    for place in (tmp_path, tmp_path / "set"):
        (place / "x.nii.gz").write_bytes((folder / "imagesTr/c1_0000.nii.gz").read_bytes())
    with pytest.raises(
        DataSetError,
        match=r"names the file .* which is not a path within its folder\. Write paths relative|holds a zero character",
    ):
        find_sources(layout, folder)


@pytest.mark.parametrize("name", CLIMBING)
def test_a_case_that_no_file_can_be_named_after_is_refused_when_the_data_set_is_read(tmp_path, name):
    unnamed = r"dataset.json lists case .*: a name .*\. Rename the case"
    with pytest.raises(DataSetError, match=f"{unnamed}|cannot be read as JSON: a string holds"):
        find_sources("nnunet", listing(tmp_path / "set", case=name))


def test_files_that_the_user_linked_from_elsewhere_are_read(tmp_path):
    folder = listing(tmp_path / "set")
    scan = folder / "imagesTr/c1_0000.nii.gz"
    scan.rename(tmp_path / "elsewhere.nii.gz")
    scan.symlink_to(tmp_path / "elsewhere.nii.gz")
    assert [source.image for source in find_sources("nnunet", folder)[0]] == [scan]


@pytest.mark.parametrize(
    ("name", "shown"), [(b"back\\slash", r"'\\'"), (b"line\nfeed", r"'\n'"), (b"latin\xe9", r"'\udce9'")]
)
def test_a_file_with_a_name_that_cannot_be_used_is_a_problem_of_its_own(tmp_path, name, shown):
    folder = nnunet_set(tmp_path / "set", {"good": 1, "odd": 2})
    for place, ending in (("imagesTr", b"_0000.nii.gz"), ("labelsTr", b".nii.gz")):
        file = folder / place / f"odd{ending.decode()}"
        try:
            file.rename(folder / place / os.fsdecode(name + ending))
        except OSError:
            pytest.skip("this file system refuses the name itself")
    sources, problems = find_sources("nnunet", folder)
    assert [source.name for source in sources] == ["good"]
    assert [problem.what for problem in problems] == [f"a name may not hold {shown}"]
    assert problems[0].case.isascii()


def test_a_data_set_may_have_another_name_than_its_folder(tmp_path):
    folder = nnunet_set(tmp_path / "data", {"c1": 1})
    [plain], [named] = find_sources("nnunet", folder)[0], find_sources("nnunet:hospital_b", folder)[0]
    assert (plain.dataset, named.dataset) == ("data", "hospital_b")
    assert named.origin.layout == "nnunet"
    for wrong in ("nnunet:", "nnunet:a/b", "nnunet:a__b", "nnunet:..", f"nnunet:{'n' * 81}"):
        with pytest.raises(SettingError, match=r"a data set cannot be named .*\. Name it as in nnunet:hospital_a=DIR"):
            find_sources(wrong, folder)
    with pytest.raises(SettingError, match="there is no layout 'nnunt'. Did you mean 'nnunet'"):
        find_sources("nnunt:a", folder)


def test_a_folder_named_by_dots_gets_its_own_name(tmp_path):
    folder = nnunet_set(tmp_path / "data", {"c1": 1})
    assert find_sources("nnunet", folder / "imagesTr" / "..")[0][0].dataset == "data"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({1: "kidney", 2: "tumor", 3: "cyst"}, ["kidney", "kidney_tumour", "kidney_cyst"]),
        ({1: "left kidney", 2: "right kidney", 3: "cyst"}, ["kidney_left", "kidney_right", "kidney_cyst"]),
        ({1: "spleen", 2: "metastases"}, ["spleen", "spleen_metastases"]),
        ({1: "liver", 2: "kidney", 3: "cyst"}, ["liver", "kidney", "cyst"]),
        ({1: "liver", 2: "liver_tumor", 3: "cyst"}, ["liver", "liver_tumour", "liver_cyst"]),
        ({1: "vessel", 2: "tumour"}, ["vessel", "tumour"]),
        ({1: "tumour", 2: "cyst"}, ["tumour", "cyst"]),
    ],
)
def test_lesions_beside_one_organ_are_that_organs(labels, names):
    assert list(named_organs(labels).values()) == names
