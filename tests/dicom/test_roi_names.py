import pytest

from viscera.colours import COLOURS
from viscera.dicom.roi_names import TG263, load_roi_names, load_roi_organs, near_organ, organ_of, roi_names_of
from viscera.errors import FileError, LabelError
from viscera.labels import SPACES


def test_every_organ_of_the_label_spaces_has_a_name_that_leads_back_to_it():
    organs = {organ for space in SPACES.values() for organ in space.organs} | set(COLOURS)
    called = roi_names_of(organs, {})
    assert set(called) == organs
    assert {organ: organ_of(name) for organ, name in called.items()} == {organ: organ for organ in organs}


def test_names_of_tg263_obey_its_rules():
    # At most 16 characters, no spaces, a side last; section 7.2 of the report
    for organ, name in TG263.items():
        assert len(name) <= 16
        assert name.replace("_", "").isalnum()
        for side in ("left", "right"):
            assert organ.endswith(f"_{side}") == name.endswith(f"_{side[0].upper()}")
    assert len({name.casefold() for name in TG263.values()}) == len(TG263)


def test_what_tg263_does_not_name_keeps_the_organs_own_name():
    names = roi_names_of(["liver_tumour", "femoral_head", "portal_vein_and_splenic_vein", "vertebrae"], {})
    assert all(organ == name for organ, name in names.items())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.json", '{"Liver": "Leber", "left kidney": "Niere L"}'),
        ("table.csv", "organ,roi\nliver,Leber\nkidney_left, Niere L\n\n"),
        ("table.csv", "liver;Leber\nkidney_left;Niere L\n"),
    ],
)
def test_a_users_table_is_json_or_csv(tmp_path, name, content):
    file = tmp_path / name
    file.write_text(content)
    table = load_roi_names(file)
    assert table == {"liver": "Leber", "kidney_left": "Niere L"}
    assert roi_names_of(["liver", "kidney_left", "spleen"], table) == {**table, "spleen": "Spleen"}


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ('{"lvier": "Leber"}', LabelError, "'lvier' is not an organ. Did you mean 'liver'?"),
        ('{"liver": "A", "spleen": "a"}', LabelError, "liver and spleen are both called 'a'"),
        ('{"liver": "A", "Liver ": "B"}', LabelError, "names 'liver' twice"),
        ('{"liver": "' + 65 * "x" + '"}', LabelError, "for liver cannot be the name of an ROI"),
        ('{"liver": " "}', LabelError, "cannot be the name"),
        ('{"liver": "a\\\\b"}', LabelError, "cannot be the name"),
        ('{"liver": 3}', FileError, "'liver' has no text beside it"),
        ("{}", FileError, "names no ROI"),
        ("[1]", FileError, "must hold an object"),
        ("Leber", FileError, "cannot be read as JSON"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(tmp_path, content, error, words):
    file = tmp_path / "table.json"
    file.write_text(content)
    with pytest.raises(error) as caught:
        load_roi_names(file)
    assert words in str(caught.value)


def test_a_csv_of_other_than_two_columns_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "table.csv").write_text("liver,Leber,4\n")
    with pytest.raises(FileError, match="3 columns, not 2"):
        load_roi_names(tmp_path / "table.csv")
    for name in ("none.csv", "none.json"):
        with pytest.raises(FileError, match="none"):
            load_roi_names(tmp_path / name)


def test_organs_of_the_weights_own_may_stand_in_a_table(tmp_path):
    (tmp_path / "table.json").write_text('{"my_organ": "Mine"}')
    with pytest.raises(LabelError, match="'my_organ' is not an organ"):
        load_roi_names(tmp_path / "table.json")
    assert load_roi_names(tmp_path / "table.json", organs=["my_organ"]) == {"my_organ": "Mine"}


def test_a_table_of_organs_changes_two_names_into_one_only_where_that_is_refused():
    with pytest.raises(LabelError, match="both called 'Bladder'"):
        roi_names_of(["urinary_bladder", "gallbladder"], {"gallbladder": "Bladder"})


def test_several_names_may_mean_one_organ_when_reading_but_no_name_two(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("roi,organ\nLeber,liver\nLEBER neu,liver\nMilz,spleen\n")
    table = load_roi_organs(file)
    assert table == {"Leber": "liver", "LEBER neu": "liver", "Milz": "spleen"}
    assert organ_of(" leber NEU", table) == "liver"
    file.write_text("Leber,liver\nLeber,spleen\n")
    with pytest.raises(LabelError, match="'Leber' is both liver and spleen"):
        load_roi_organs(file)


def test_the_table_goes_before_tg263_and_that_before_other_names():
    assert organ_of("Bladder") == "urinary_bladder"
    assert organ_of("Bladder", {"bladder": "gallbladder"}) == "gallbladder"
    assert [organ_of(name) for name in ("spinalcord", "LAG", "Tumor", "vertebrae_L1")] == [
        *("spinal_cord", "adrenal_gland_left", "tumour", "vertebrae_l1"),
    ]
    assert organ_of("PTV1") is None


def test_a_name_that_is_nearly_an_organs_says_which():
    assert near_organ("Livr") == " Did you mean 'liver'?"
    assert near_organ("Kidny_L") == " Did you mean 'kidney_left'?"
    assert near_organ("PTV_6000") == ""
