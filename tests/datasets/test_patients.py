import json
from pathlib import Path

import pytest

from makers import nnunet_set
from viscera.datasets.layouts import find_sources
from viscera.datasets.patients import note_of_stems
from viscera.datasets.sources import Source
from viscera.errors import DataSetError


def named(*names):
    return [Source(name, "d", name, Path(name), None, (), ()) for name in names]


def patients_of(folder):
    return {source.name: source.patient for source in find_sources("nnunet", folder)[0]}


def test_patients_json_says_which_cases_show_one_patient(tmp_path):
    folder = nnunet_set(tmp_path / "set", {"case_01_art": 1, "case_01_pv": 2, "other": 3})
    (folder / "patients.json").write_text(json.dumps({"case_01_art": "A", "case_01_pv": "A"}))
    assert patients_of(folder) == {"case_01_art": "A", "case_01_pv": "A", "other": "other"}
    (folder / "patients.json").write_text(json.dumps({"case_01_art": 7, "other": "case_01_art"}))
    assert patients_of(folder) == {"case_01_art": "7", "case_01_pv": "case_01_pv", "other": "case_01_art"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"case_1": "A"}, r"lists case 'case_1', which is not in the data set\. Did you mean 'case_01'\?"),
        ({"case_01": ""}, r"'case_01' must have the name or number of a patient, got ''"),
        ({"case_01": True}, r"'case_01' must have the name or number of a patient, got True"),
        ({"case_01": ["A"]}, r"'case_01' must have the name or number of a patient, got \['A'\]"),
        ({"case_01": None}, r"'case_01' must have the name or number of a patient, got None"),
        ([], r"must hold an object"),
    ],
)
def test_a_list_of_patients_that_is_not_understood_is_refused(tmp_path, content, message):
    folder = nnunet_set(tmp_path / "set", {"case_01": 1})
    (folder / "patients.json").write_text(json.dumps(content))
    with pytest.raises(DataSetError, match=rf"patients\.json.*{message}"):
        find_sources("nnunet", folder)


def test_names_as_bids_has_them_say_who_it_is(tmp_path):
    folder = nnunet_set(tmp_path / "set", {"sub-01_ses-1_ct": 1, "sub-01_ses-2_ct": 2, "sub-02_ct": 3, "sub-03": 4})
    found = patients_of(folder)
    assert list(found.values()) == ["sub-01", "sub-01", "sub-02", "sub-03"]
    assert note_of_stems("set", find_sources("nnunet", folder)[0]) == []


@pytest.mark.parametrize(
    "names",
    [
        ("pat00_art", "pat00_ven", "pat01_art", "pat01_ven"),
        ("case_01_art", "case_01_pv"),
        ("p01a", "p01b", "p02"),
        ("hosp1-17-t0", "hosp1-17-t1", "hosp1-18-t0"),
        ("Müller 3 pre", "Müller 3 post", "Müller 4 pre"),
        ("1.2.840.7.1", "1.2.840.7.2", "1.2.840.8.1"),
    ],
)
def test_names_with_the_same_stem_are_asked_about(names):
    [note] = note_of_stems("set", named(*names))
    assert "write patients.json" in note
    assert sorted(names)[0] in note


@pytest.mark.parametrize(
    "names",
    [
        ("case_01", "case_02"),
        ("FLARE22_Tr_0001", "FLARE22_Tr_0002"),
        ("AbdomenCT-1K_001", "AbdomenCT-1K_002"),
        ("s0001", "s0002"),
        ("59", "60"),
        ("pat00_ven", "pat01_ven"),
        ("liver_1",),
        (),
    ],
)
def test_names_that_differ_by_a_number_alone_are_not_asked_about(names):
    assert note_of_stems("set", named(*names)) == []
