import json
import re
from contextlib import nullcontext
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from viscera.datasets.layouts import LAYOUTS, AnnotationWarning, find_sources
from viscera.datasets.read_labels import OverlapWarning, RoundedWarning, read_labels
from viscera.datasets.sources import Problem
from viscera.datasets.writing import write_case
from viscera.errors import DataSetError, FileError, GeometryError, LabelError, SettingError
from viscera.io import nifti
from viscera.labels import ABDOMENCT1K, FLARE13, ZHANG12, fit
from viscera.volume import Volume

AFFINE = np.array([[0, 0, -1.5, 40], [0, -1.5, 0, 40], [5, 0, 0, -100], [0, 0, 0, 1]], float)
SHAPE = (4, 6, 8)
TRUTH = {
    1: "liver",
    2: "kidney_left",
    3: "kidney_right",
    4: "spleen",
    5: "pancreas",
    6: "urinary_bladder",
    7: "liver_tumour",
    8: "aorta",
}
"""What the labels of ``truth`` stand for; value v is at flat index v."""


def truth():
    voxels = np.zeros(SHAPE, np.uint8)
    voxels.flat[1:9] = range(1, 9)
    return Volume(voxels, AFFINE)


def ct():
    return Volume(np.full(SHAPE, -1000, np.int16), AFFINE)


def put(path, voxels=None, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, Volume(np.zeros(SHAPE, np.uint8) if voxels is None else voxels, affine))
    return path


def labelled(*values):
    voxels = np.zeros(SHAPE, np.uint8)
    voxels.flat[: len(values)] = values
    return voxels


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write(layout, folder, annotate, number=1, organs=TRUTH, labels=None):
    return write_case(
        layout, folder, number=number, ct=ct(), labels=labels or truth(), organs=organs, annotate=annotate
    )


def nnunet(folder, labels=None, **more):
    content = {"channel_names": {"0": "CT"}, "labels": labels or {"background": 0, "liver": 1, "spleen": 2}}
    write_json(folder / "dataset.json", content | {"file_ending": ".nii.gz", "numTraining": 1} | more)
    put(folder / "imagesTr" / "c1_0000.nii.gz")
    put(folder / "labelsTr" / "c1.nii.gz")


def msd(folder, labels, **more):
    entry = {"image": "./imagesTr/spleen_8.nii.gz", "label": "./labelsTr/spleen_8.nii.gz"}
    content = {"modality": {"0": "CT"}, "labels": labels, "training": [entry], "test": ["./imagesTs/x.nii.gz"]}
    write_json(folder / "dataset.json", content | more)
    put(folder / "imagesTr" / "spleen_8.nii.gz")
    put(folder / "labelsTr" / "spleen_8.nii.gz")


# --- finding ---


def test_abdomenct1k_is_found_as_it_is_distributed(tmp_path):
    folder = tmp_path / "AbdomenCT-1K"
    for case in ("Case_00002", "Case_00001"):
        put(folder / "Image" / f"{case}_0000.nii.gz")
        put(folder / "Mask" / f"{case}.nii.gz")
    (folder / "Mask" / "._Case_00001.nii.gz").write_bytes(b"macOS")
    (folder / "readme.txt").touch()
    sources, problems = find_sources("abdomenct1k", folder)
    assert problems == []
    assert [source.name for source in sources] == ["Case_00001", "Case_00002"]
    first = sources[0]
    assert (first.dataset, first.patient) == ("AbdomenCT-1K", "Case_00001")
    assert first.image == folder / "Image" / "Case_00001_0000.nii.gz"
    assert first.labels == folder / "Mask" / "Case_00001.nii.gz"
    assert dict(first.organs) == {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"}
    assert first.annotated == ("liver", "kidney", "spleen", "pancreas")
    mapped = fit(ZHANG12, dict(first.organs), first.annotated)
    assert mapped.values == {1: 5, 2: 4, 3: 10, 4: 11}


def test_the_radiotherapy_set_maps_to_the_papers_twelve_classes(tmp_path):
    put(tmp_path / "ct" / "59.nii.gz")
    put(tmp_path / "label" / "59.nii.gz")
    [source], problems = find_sources("radiotherapy", tmp_path)
    assert problems == []
    assert source.name == "59"
    mapped = fit(ZHANG12, dict(source.organs), source.annotated)
    # The paper's table of labels (Zhang 2025).
    assert mapped.values == {1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: 4, 7: 5, 8: 6, 9: 7, 10: 8, 11: 9}


def test_uncompressed_files_are_found_too(tmp_path):
    put(tmp_path / "ct" / "59.nii")
    put(tmp_path / "label" / "59.nii.gz")
    assert len(find_sources("radiotherapy", tmp_path)[0]) == 1


def test_nnunet_is_found_with_its_own_labels_and_ignore(tmp_path):
    nnunet(tmp_path, {"background": 0, "Liver": 1, "left kidney": 2, "ignore": 3})
    put(tmp_path / "imagesTs" / "t1_0000.nii.gz")
    [source], problems = find_sources("nnunet", tmp_path)
    assert problems == []
    assert source.name == "c1"
    assert source.organs == ((1, "liver"), (2, "kidney_left"))
    assert source.unknown == (3,)
    assert source.annotated == ("liver", "kidney_left")


def test_nnunet_takes_files_from_the_json_where_it_lists_them(tmp_path):
    nnunet(tmp_path, dataset={
        "a": {"images": ["elsewhere/x.nii.gz"], "label": "labelsTr/c1.nii.gz"},
        "b": {"images": ["elsewhere/y.nii.gz"], "label": "labelsTr/c1.nii.gz"},
    })  # fmt: skip
    put(tmp_path / "elsewhere" / "x.nii.gz")
    [source], problems = find_sources("nnunet", tmp_path)
    assert (source.name, source.image) == ("a", tmp_path / "elsewhere" / "x.nii.gz")
    assert problems[0].case == "b"
    assert problems[0].file == "elsewhere/y.nii.gz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": {"0": "CT", "1": "PET"}}, r"2 channels \(CT, PET\)"),
        ({"labels": {"background": 0, "kidney": [1, 2]}}, r"'kidney' is a region of the values \[1, 2\]"),
        ({"labels": {"background": 0, "liver": "1"}}, "'liver' must be a whole number"),
        ({"labels": {"background": 0, "liver": 1, "spleen": 1}}, "1 stands for two labels"),
        ({"labels": {"background": 0}}, "names no organ"),
        ({"labels": [1, 2]}, "'labels' must be an object"),
        ({"file_ending": ".nrrd"}, "'.nrrd' cannot be read"),
        ({"dataset": {"a": {"images": ["x", "y"], "label": "z"}}}, "'a' has 2 images"),
        ({"dataset": {"a": {"images": "x"}}}, "'a' needs"),
    ],
)
def test_nnunet_descriptions_that_viscera_cannot_follow_are_refused(tmp_path, change, message):
    nnunet(tmp_path, **change) if "labels" not in change else nnunet(tmp_path, change["labels"])
    with pytest.raises(DataSetError, match=f"dataset.json.*{message}"):
        find_sources("nnunet", tmp_path)


def test_nnunet_counts_its_cases(tmp_path):
    nnunet(tmp_path, numTraining=40)
    _, [problem] = find_sources("nnunet", tmp_path)
    assert problem.what == "numTraining is 40, but 1 cases are there"


def test_broken_json_is_named(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataSetError, match=r"dataset\.json cannot be read as JSON"):
        find_sources("nnunet", tmp_path)
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(DataSetError, match=r"must hold an object .* not a list"):
        find_sources("nnunet", tmp_path)


@pytest.mark.parametrize(
    ("labels", "organs"),
    [
        ({"0": "background", "1": "spleen"}, {1: "spleen"}),
        ({"0": "background", "1": "liver", "2": "cancer"}, {1: "liver", 2: "liver_tumour"}),
        ({"0": "background", "1": "pancreas", "2": "cancer"}, {1: "pancreas", 2: "pancreas_tumour"}),
        ({"0": "background", "1": "Vessel", "2": "Tumour"}, {1: "vessel", 2: "tumour"}),
        ({"0": "background", "1": "colon cancer primaries"}, {1: "colon_tumour"}),
    ],
)
def test_the_decathlons_labels_get_viscera_names(tmp_path, labels, organs):
    msd(tmp_path, labels)
    [source], problems = find_sources("msd", tmp_path)
    assert problems == []
    assert source.name == "spleen_8"
    assert dict(source.organs) == organs


def test_the_decathlon_without_a_list_is_found_by_its_folders(tmp_path):
    msd(tmp_path, {"0": "background", "1": "spleen"}, training=[])
    assert len(find_sources("msd", tmp_path)[0]) == 1


def test_files_that_the_decathlon_lists_and_lacks_are_problems(tmp_path):
    missing = {"image": "./imagesTr/spleen_9.nii.gz", "label": "./labelsTr/spleen_9.nii.gz"}
    there = {"image": "./imagesTr/spleen_8.nii.gz", "label": "./labelsTr/spleen_8.nii.gz"}
    msd(tmp_path, {"0": "background", "1": "spleen"}, training=[missing, there])
    [source], [problem] = find_sources("msd", tmp_path)
    assert source.name == "spleen_8"
    assert problem.case == "spleen_9"
    assert problem.file == "imagesTr/spleen_9.nii.gz, labelsTr/spleen_9.nii.gz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": {"0": "MRI"}}, "modality is MRI"),
        ({"modality": {"0": "T1", "1": "T2"}}, "modality is T1, T2"),
        ({"training": {"a": 1}}, "'training' must be a list"),
        ({"training": ["x"]}, "each of 'training' needs"),
        ({"labels": {"spleen": 1}}, "If this is nnU-Net v2's form"),
        ({"labels": {"0": "background"}}, "names no organ"),
    ],
)
def test_decathlon_descriptions_that_viscera_cannot_follow_are_refused(tmp_path, change, message):
    msd(tmp_path, **({"labels": {"0": "background", "1": "spleen"}} | change))
    with pytest.raises(DataSetError, match=message):
        find_sources("msd", tmp_path)


@pytest.mark.parametrize("folders", [("imagesTr", "labelsTr"), ("images", "labels"), ("imagesTr2200", "labelsTr2200")])
def test_flare_takes_the_organs_in_each_label_file_for_annotated_and_says_so(tmp_path, folders):
    images, labels = folders
    for case, values in {"FLARE_1": range(14), "FLARE_2": (1, 14), "FLARE_3": ()}.items():
        put(tmp_path / images / f"{case}_0000.nii.gz")
        put(tmp_path / labels / f"{case}.nii.gz", labelled(*values))
    with pytest.warns(AnnotationWarning, match=r"which organs were annotated in 3 cases.*annotated\.json"):
        sources, problems = find_sources("flare", tmp_path)
    assert problems == []
    assert [source.annotated for source in sources] == [FLARE13.organs, ("liver", "tumour"), ()]
    assert dict(sources[0].organs)[13] == "kidney_left"


def test_flare_believes_annotated_json_without_opening_the_labels(tmp_path):
    put(tmp_path / "imagesTr" / "a_0000.nii.gz")
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "labelsTr" / "a.nii.gz").write_bytes(b"damaged")
    write_json(tmp_path / "annotated.json", {"*": ["spleen", "liver"]})
    [source], _ = find_sources("flare", tmp_path)
    assert source.annotated == ("liver", "spleen")


def test_a_damaged_flare_label_file_is_a_problem_and_the_rest_go_on(tmp_path):
    for case in "ab":
        put(tmp_path / "imagesTr" / f"{case}_0000.nii.gz")
    put(tmp_path / "labelsTr" / "a.nii.gz", labelled(*range(14)))
    (tmp_path / "labelsTr" / "b.nii.gz").write_bytes(b"damaged")
    [source], [problem] = find_sources("flare", tmp_path)
    assert source.name == "a"
    assert (problem.case, problem.file) == ("b", "labelsTr/b.nii.gz")
    assert "not gzip-compressed" in problem.what


def test_totalsegmentator_organs_are_the_masks_that_are_there(tmp_path):
    put(tmp_path / "s0001" / "ct.nii.gz")
    for organ in ("spleen", "kidney_left", "liver"):
        put(tmp_path / "s0001" / "segmentations" / f"{organ}.nii.gz")
    put(tmp_path / "s0002" / "ct.nii.gz")
    put(tmp_path / "s0003" / "segmentations" / "liver.nii.gz")
    (tmp_path / "s0004").mkdir()
    (tmp_path / "meta.csv").touch()
    [source], problems = find_sources("totalsegmentator", tmp_path)
    assert source.annotated == ("kidney_left", "liver", "spleen")
    assert source.organs == ((1, "kidney_left"), (2, "liver"), (3, "spleen"))
    assert [problem.case for problem in problems] == ["s0002", "s0003", "s0004"]
    assert [problem.what for problem in problems[:2]] == ["ct.nii.gz without masks", "masks without ct.nii.gz"]


def test_unpaired_files_are_problems_and_the_rest_go_on(tmp_path):
    for name in ("1", "2"):
        put(tmp_path / "ct" / f"{name}.nii.gz")
    for name in ("2", "3"):
        put(tmp_path / "label" / f"{name}.nii.gz")
    put(tmp_path / "ct" / "2b.nii.gz")
    put(tmp_path / "label" / "2b.nii.gz")
    put(tmp_path / "ct" / "2b.nii")
    sources, problems = find_sources("radiotherapy", tmp_path)
    assert [source.name for source in sources] == ["2"]
    assert problems == [
        Problem("1", "ct/1.nii.gz", "image without labels", "add its label file, or move the image elsewhere"),
        Problem("2b", "ct/2b.nii, ct/2b.nii.gz, label/2b.nii.gz", "3 files for one case",
                "keep one image and one label file"),
        Problem("3", "label/3.nii.gz", "labels without an image", "add its image, or move the label file elsewhere"),
    ]  # fmt: skip


@pytest.mark.parametrize("made", sorted(set(LAYOUTS) - {"images", "dicom"}))
@pytest.mark.parametrize("asked", sorted(LAYOUTS))
def test_another_layout_is_refused_and_recognised(tmp_path, made, asked):
    organs = {1: "liver", 2: "spleen"} if made != "radiotherapy" else {1: "liver", 2: "colon"}
    write(made, tmp_path, tuple(organs.values()), organs=organs, labels=Volume(labelled(1, 2), AFFINE))
    if made == asked:
        assert len(find_sources(asked, tmp_path)[0]) == 1
        return
    with pytest.raises(
        DataSetError, match=f"is no '{asked}' data set: expected .* looks like '{made}': use that layout"
    ):
        find_sources(asked, tmp_path)


def test_the_folder_above_a_data_set_gets_a_hint(tmp_path):
    write("abdomenct1k", tmp_path / "inner", ABDOMENCT1K.organs)
    with pytest.raises(DataSetError, match=r"found inner/\. Its folder inner looks like 'abdomenct1k'"):
        find_sources("abdomenct1k", tmp_path)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_an_empty_folder_and_a_missing_one_are_named(tmp_path, layout):
    with pytest.raises(DataSetError, match=f"is no '{layout}' data set.*found nothing"):
        find_sources(layout, tmp_path)
    with pytest.raises(DataSetError, match="no such folder"):
        find_sources(layout, tmp_path / "missing")


def test_empty_image_and_label_folders_are_no_data_set(tmp_path):
    (tmp_path / "ct").mkdir()
    (tmp_path / "label").mkdir()
    with pytest.raises(DataSetError, match="no 'radiotherapy' data set"):
        find_sources("radiotherapy", tmp_path)


def test_a_misspelt_layout_gets_the_right_name(tmp_path):
    with pytest.raises(SettingError, match=r"no layout 'nnunett'\. Did you mean 'nnunet'"):
        find_sources("nnunett", tmp_path)
    with pytest.raises(SettingError, match="no layout 'mds'"):
        write("mds", tmp_path, ("liver",))


def test_scans_without_labels_are_found_by_their_names_alone(tmp_path):
    folder = tmp_path / "imagesTs"
    for name in ("b_0000.nii.gz", "a.nii", "c_0000.nii.gz", "c.nii.gz"):
        put(folder / name)
    (folder / "._b_0000.nii.gz").write_bytes(b"macOS")
    (folder / "readme.txt").touch()
    put(folder / "deeper" / "d.nii.gz")
    sources, problems = find_sources("images", folder)
    assert [(source.name, source.dataset, source.patient) for source in sources] == [
        ("a", "imagesTs", "a"),
        ("b", "imagesTs", "b"),
    ]
    assert sources[1].image == folder / "b_0000.nii.gz"
    assert {(source.labels, source.organs, source.annotated) for source in sources} == {(None, (), ())}
    assert problems == [Problem("c", "c.nii.gz, c_0000.nii.gz", "2 files for one case", "keep one of them")]


def test_a_folder_of_files_is_not_taken_for_scans_unless_that_is_asked_for(tmp_path):
    put(tmp_path / "inner" / "a.nii.gz")
    for folder in (tmp_path, tmp_path / "inner"):
        with pytest.raises(DataSetError, match=r"is no 'flare' data set.*Check the path and the names\.$"):
            find_sources("flare", folder)
    with pytest.raises(DataSetError, match=r"is no 'images' data set.*Its folder inner looks like 'images'"):
        find_sources("images", tmp_path)


def test_scans_without_labels_cannot_be_annotated_nor_written(tmp_path):
    with pytest.raises(SettingError, match="layout 'images' has no labels"):
        write("images", tmp_path / "new", ("liver",))
    put(tmp_path / "a.nii.gz")
    write_json(tmp_path / "annotated.json", {"*": ["liver"]})
    with pytest.raises(LabelError, match=r"annotated.json: no label of case 'a' holds 'liver'. Its labels are none"):
        find_sources("images", tmp_path)


# --- annotated.json ---


def two_cases(folder):
    for name in ("Case_00001", "Case_00002"):
        put(folder / "Image" / f"{name}_0000.nii.gz")
        put(folder / "Mask" / f"{name}.nii.gz")


def test_annotated_json_overrides_per_case_with_a_default(tmp_path):
    two_cases(tmp_path)
    write_json(tmp_path / "annotated.json", {"*": ["Liver"], "Case_00002": ["pancreas", "spleen"]})
    first, second = find_sources("abdomenct1k", tmp_path)[0]
    assert first.annotated == ("liver",)
    assert second.annotated == ("spleen", "pancreas")


def test_an_organ_listed_in_no_case_is_no_case_at_all(tmp_path):
    two_cases(tmp_path)
    write_json(tmp_path / "annotated.json", {"Case_00002": []})
    first, second = find_sources("abdomenct1k", tmp_path)[0]
    assert first.annotated == ABDOMENCT1K.organs
    assert second.annotated == ()


def test_a_whole_may_be_listed_where_its_sides_have_labels(tmp_path):
    put(tmp_path / "ct" / "1.nii.gz")
    put(tmp_path / "label" / "1.nii.gz")
    write_json(tmp_path / "annotated.json", {"1": ["kidneys", "bladder"]})
    [source], _ = find_sources("radiotherapy", tmp_path)
    assert source.annotated == ("urinary_bladder", "kidney")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"Case_0001": ["liver"]}, DataSetError, "lists case 'Case_0001'.* Did you mean 'Case_00001'"),
        ({"Case_00001": ["livr"]}, LabelError, "no label of case 'Case_00001' holds 'livr'. Did you mean 'liver'"),
        ({"*": ["colon"]}, LabelError, "holds 'colon'. Its labels are liver, kidney, spleen, pancreas"),
        ({"Case_00001": "liver"}, DataSetError, "'Case_00001' must have a list of organ names, got 'liver'"),
        ({"Case_00001": [1]}, DataSetError, "must have a list of organ names"),
        ([], DataSetError, "must hold an object"),
    ],
)
def test_mistakes_in_annotated_json_are_named(tmp_path, content, error, message):
    two_cases(tmp_path)
    write_json(tmp_path / "annotated.json", content)
    with pytest.raises(error, match=rf"annotated\.json.*{message}"):
        find_sources("abdomenct1k", tmp_path)


# --- reading labels ---


def source_of(layout, folder):
    return find_sources(layout, folder)[0][0]


def test_masks_are_merged_in_the_order_of_the_organs(tmp_path):
    folder = tmp_path / "s1" / "segmentations"
    put(tmp_path / "s1" / "ct.nii.gz")
    put(folder / "spleen.nii.gz", labelled(0, 1, 1))
    put(folder / "liver.nii.gz", labelled(1, 0, 0).astype(np.float64))
    put(folder / "colon.nii.gz")
    source = source_of("totalsegmentator", tmp_path)
    merged = read_labels(source)
    assert source.annotated == ("colon", "liver", "spleen")
    assert merged.voxels.dtype == np.uint8
    assert merged.voxels.flat[:4].tolist() == [2, 3, 3, 0]
    assert np.allclose(merged.affine, AFFINE)


def test_overlapping_masks_are_counted_and_the_later_wins(tmp_path):
    put(tmp_path / "s1" / "ct.nii.gz")
    put(tmp_path / "s1" / "segmentations" / "a.nii.gz", labelled(1, 1, 1, 0))
    put(tmp_path / "s1" / "segmentations" / "b.nii.gz", labelled(0, 1, 1, 1))
    with pytest.warns(OverlapWarning, match=r"s1: masks overlap.*\(b 2\)"):
        merged = read_labels(source_of("totalsegmentator", tmp_path))
    assert merged.voxels.flat[:4].tolist() == [1, 2, 2, 2]


def test_more_than_255_masks_need_and_get_two_bytes(tmp_path):
    put(tmp_path / "s1" / "ct.nii.gz")
    for number in range(256):
        put(
            tmp_path / "s1" / "segmentations" / f"organ_{number:03d}.nii",
            labelled(*np.eye(40, dtype=int)[number % 40]) * 0,
        )
    put(tmp_path / "s1" / "segmentations" / "z.nii", labelled(1))
    merged = read_labels(source_of("totalsegmentator", tmp_path))
    assert (merged.voxels.dtype, merged.voxels.max()) == (np.uint16, 257)


def test_masks_on_different_grids_are_refused(tmp_path):
    put(tmp_path / "s1" / "ct.nii.gz")
    put(tmp_path / "s1" / "segmentations" / "a.nii.gz")
    put(tmp_path / "s1" / "segmentations" / "b.nii.gz", affine=AFFINE + np.diag([0, 0, 1, 0]))
    with pytest.raises(GeometryError, match=r"s1: b\.nii\.gz against a\.nii\.gz"):
        read_labels(source_of("totalsegmentator", tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2), "is not a binary mask"),
        ((-1,), "holds values from -1 to 0, which are not"),
        ((0.5, 1), "holds 0.5, but labels"),
    ],
)
def test_masks_with_several_values_are_refused(tmp_path, values, message):
    put(tmp_path / "s1" / "ct.nii.gz")
    voxels = np.zeros(SHAPE, np.float32)
    voxels.flat[: len(values)] = values
    put(tmp_path / "s1" / "segmentations" / "a.nii.gz", voxels)
    with pytest.raises(LabelError, match=rf"a\.nii\.gz {message}"):
        read_labels(source_of("totalsegmentator", tmp_path))


def test_masks_of_255_count_as_masks(tmp_path):
    put(tmp_path / "s1" / "ct.nii.gz")
    put(tmp_path / "s1" / "segmentations" / "a.nii.gz", labelled(0, 255))
    assert read_labels(source_of("totalsegmentator", tmp_path)).voxels.flat[:3].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("dtype", "values", "kept"), [(np.float64, (0, 3, 255), np.uint8), (np.float32, (0, 7, 300), np.uint16)]
)
def test_whole_numbers_saved_as_floats_become_integers(tmp_path, dtype, values, kept):
    voxels = np.zeros(SHAPE, dtype)
    voxels.flat[: len(values)] = values
    put(tmp_path / "ct" / "1.nii.gz")
    put(tmp_path / "label" / "1.nii.gz", voxels)
    labels = read_labels(source_of("radiotherapy", tmp_path))
    assert labels.voxels.dtype == kept
    assert np.array_equal(labels.voxels, voxels)


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "holds 0.5"), (np.nan, "NaN"), (1e12, r"1e\+12"), (np.inf, "infinity"), (-1, "from -1 to 0")],
)
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path, value, message):
    voxels = np.zeros(SHAPE, np.float64)
    voxels[2, 2, 2] = value
    put(tmp_path / "ct" / "1.nii.gz")
    put(tmp_path / "label" / "1.nii.gz", voxels)
    with pytest.raises(LabelError, match=rf"1\.nii\.gz.*{message}"):
        read_labels(source_of("radiotherapy", tmp_path))


@pytest.mark.parametrize("factor", [1 - 1e-6, 1 + 1e-6, np.float32(0.1) * 10])
def test_labels_that_are_almost_whole_numbers_are_rounded(tmp_path, factor):
    voxels = np.zeros(SHAPE, np.float32)
    voxels.flat[:4] = 1, 2, 7, 104
    put(tmp_path / "ct" / "1.nii.gz")
    put(tmp_path / "label" / "1.nii.gz", (voxels * factor).astype(np.float32))
    with pytest.warns(RoundedWarning) if factor < 0.9999999 or factor > 1.0000001 else nullcontext():
        labels = read_labels(source_of("radiotherapy", tmp_path)).voxels
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, voxels)


def test_labels_that_are_not_almost_whole_numbers_are_refused(tmp_path):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[2, 2, 2] = 2.99
    put(tmp_path / "ct" / "1.nii.gz")
    put(tmp_path / "label" / "1.nii.gz", voxels)
    with pytest.raises(LabelError, match=r"holds 2\.99, but labels are whole numbers"):
        read_labels(source_of("radiotherapy", tmp_path))


def test_a_mask_of_almost_zeros_and_ones_is_a_mask(tmp_path):
    mask = np.zeros(SHAPE, np.float32)
    mask.flat[:6] = 1, 0.9999998, 1.0000002, 1e-7, -1e-7, 0
    put(tmp_path / "s1" / "ct.nii.gz")
    put(tmp_path / "s1" / "segmentations" / "a.nii.gz", mask)
    with pytest.warns(RoundedWarning):
        found = read_labels(source_of("totalsegmentator", tmp_path)).voxels
    assert found.flat[:6].tolist() == [1, 1, 1, 0, 0, 0]


def test_integer_labels_are_read_as_they_are(tmp_path):
    voxels = np.zeros(SHAPE, np.int16)
    voxels.flat[:3] = 1, 7, 300
    put(tmp_path / "ct" / "1.nii.gz")
    put(tmp_path / "label" / "1.nii.gz", voxels)
    assert np.array_equal(read_labels(source_of("radiotherapy", tmp_path)).voxels, voxels)


def test_a_case_without_labels_has_none_to_read(tmp_path):
    two_cases(tmp_path)
    with pytest.raises(LabelError, match="Case_00001 has no labels"):
        read_labels(replace(source_of("abdomenct1k", tmp_path), labels=None))


# --- writing ---

WRITTEN = {
    # layout: (annotate, label value of each of TRUTH's values 1..8 in order; masks: alphabetical)
    "abdomenct1k": (("liver", "kidney", "spleen", "pancreas"), [1, 2, 2, 3, 4, 0, 1, 0]),
    "radiotherapy": (("liver", "kidney_left", "kidney_right", "bladder"), [7, 5, 6, 0, 0, 1, 7, 0]),
    "nnunet": (("liver", "kidney", "aorta"), [1, 2, 2, 0, 0, 0, 1, 3]),
    "msd": (("liver", "liver_tumour"), [1, 0, 0, 0, 0, 0, 2, 0]),
    "flare": (("liver", "kidney_left", "spleen", "aorta"), [1, 13, 0, 3, 0, 0, 1, 5]),
    "totalsegmentator": (("liver", "kidney_left", "kidney_right"), [3, 1, 2, 0, 0, 0, 3, 0]),
}


@pytest.mark.parametrize("layout", sorted(WRITTEN))
def test_what_is_written_is_found_and_read(tmp_path, layout):
    annotate, values = WRITTEN[layout]
    first = write(layout, tmp_path, annotate, number=7)
    second = write(layout, tmp_path, annotate, number=12)
    sources, problems = find_sources(layout, tmp_path)
    assert problems == []
    assert sorted([first, second], key=lambda source: source.name) == sources
    labels = read_labels(first)
    assert labels.voxels.flat[1:9].tolist() == values
    assert not labels.voxels.flat[9:].any()
    assert np.allclose(labels.affine, AFFINE)
    assert np.array_equal(nifti.read(first.image).voxels, ct().voxels)
    assert fit(FLARE13, dict(first.organs), first.annotated)


@pytest.mark.parametrize(
    ("layout", "image", "labels"),
    [
        ("abdomenct1k", "Image/Case_00007_0000.nii.gz", "Mask/Case_00007.nii.gz"),
        ("radiotherapy", "ct/7.nii.gz", "label/7.nii.gz"),
        ("nnunet", "imagesTr/case_0007_0000.nii.gz", "labelsTr/case_0007.nii.gz"),
        ("msd", "imagesTr/case_007.nii.gz", "labelsTr/case_007.nii.gz"),
        ("flare", "imagesTr/FLARE_0007_0000.nii.gz", "labelsTr/FLARE_0007.nii.gz"),
        ("totalsegmentator", "s0007/ct.nii.gz", "s0007/segmentations/liver.nii.gz"),
    ],
)
def test_files_are_named_as_in_the_real_data_set(tmp_path, layout, image, labels):
    write(layout, tmp_path, ("liver",), number=7)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.nii.gz")}
    assert files == {image, labels}


def test_a_fully_annotated_fixed_layout_needs_no_annotated_json(tmp_path):
    write("abdomenct1k", tmp_path, ("kidney_left", "kidney_right", "liver", "spleen", "pancreas"))
    assert not (tmp_path / "annotated.json").exists()
    write("abdomenct1k", tmp_path, ("liver",), number=2)
    assert json.loads((tmp_path / "annotated.json").read_text()) == {"Case_00002": ["liver"]}
    annotated = [source.annotated for source in find_sources("abdomenct1k", tmp_path)[0]]
    assert annotated == [ABDOMENCT1K.organs, ("liver",)]


@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_an_organ_that_comes_later_was_not_annotated_before(tmp_path, layout):
    write(layout, tmp_path, ("liver",), number=1)
    write(layout, tmp_path, ("spleen", "liver"), number=2)
    write(layout, tmp_path, ("spleen",), number=3)
    sources, problems = find_sources(layout, tmp_path)
    assert problems == []
    assert [source.annotated for source in sources] == [("liver",), ("liver", "spleen"), ("spleen",)]
    assert [read_labels(source).voxels.flat[1:5].tolist() for source in sources] == [
        [1, 0, 0, 0],
        [1, 0, 0, 2],
        [0, 0, 0, 2],
    ]


def test_sides_and_wholes_meet_in_whatever_the_layout_has(tmp_path):
    write("flare", tmp_path, ("kidney",))
    assert source_of("flare", tmp_path).annotated == ("kidney_right", "kidney_left")
    write("nnunet", tmp_path / "n", ("kidney",), number=1)
    write("nnunet", tmp_path / "n", ("kidney_left", "kidney_right"), number=2)
    assert [source.annotated for source in find_sources("nnunet", tmp_path / "n")[0]] == [("kidney",), ("kidney",)]


@pytest.mark.parametrize(
    ("layout", "annotate", "error", "message"),
    [
        ("abdomenct1k", ("kidney_left",), LabelError, "one label for 'kidney'. Annotate 'kidney_right' too"),
        ("abdomenct1k", ("aorta",), LabelError, "no label for 'aorta'. It holds liver, kidney"),
        ("abdomenct1k", ("livr",), LabelError, "no label for 'livr'. Did you mean 'liver'"),
        ("flare", ("stomach",), LabelError, "'stomach' cannot be annotated: the labels given do not hold it"),
        ("nnunet", ("livr",), LabelError, "'livr' cannot be annotated.* Did you mean 'liver'"),
        ("totalsegmentator", ("colon",), LabelError, "'colon' cannot be annotated"),
        ("nnunet", ("kidney", "kidney_left"), SettingError, "'kidney' or its sides"),
        ("msd", (), SettingError, "no organ to annotate"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_before_anything_is_written(tmp_path, layout, annotate, error, message):
    with pytest.raises(error, match=message):
        write(layout, tmp_path, annotate)
    assert list(tmp_path.iterdir()) == []


def test_labels_without_a_name_and_other_grids_are_refused(tmp_path):
    with pytest.raises(LabelError, match="the labels hold 8, which stands for no organ"):
        write("nnunet", tmp_path, ("liver",), organs={value: TRUTH[value] for value in range(1, 8)})
    with pytest.raises(GeometryError, match="case 1: labels lie on another grid"):
        write("nnunet", tmp_path, ("liver",), labels=Volume(truth().voxels, AFFINE * 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", sorted(WRITTEN))
def test_a_case_is_not_written_over_another(tmp_path, layout):
    annotate, _ = WRITTEN[layout]
    write(layout, tmp_path, annotate)
    with pytest.raises(FileError, match="exists already"):
        write(layout, tmp_path, annotate)


def test_written_json_is_what_the_formats_ask_for(tmp_path):
    write("nnunet", tmp_path / "Dataset001_x", ("liver", "spleen"))
    assert json.loads((tmp_path / "Dataset001_x" / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "file_ending": ".nii.gz",
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 1,
    }
    write("msd", tmp_path / "Task01_x", ("liver",), number=4)
    content = json.loads((tmp_path / "Task01_x" / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "liver"}
    assert content["training"] == [{"image": "./imagesTr/case_004.nii.gz", "label": "./labelsTr/case_004.nii.gz"}]
    assert (content["modality"], content["numTraining"], content["numTest"]) == ({"0": "CT"}, 1, 0)


def test_the_real_decathlon_case_is_read_in_its_layout(shared_data, tmp_path):
    msd(tmp_path, {"0": "background", "1": "spleen"})
    for kind, folder in (("ct", "imagesTr"), ("label", "labelsTr")):
        target = tmp_path / folder / "spleen_8.nii.gz"
        target.unlink()
        target.symlink_to(shared_data / "msd_spleen" / f"spleen_8_{kind}.nii.gz")
    labels = read_labels(source_of("msd", tmp_path))
    expected = np.asarray(nibabel.load(shared_data / "msd_spleen" / "spleen_8_label.nii.gz").dataobj).T
    assert np.array_equal(labels.voxels, expected)


def test_layouts_are_described_on_one_line_each():
    assert all(re.fullmatch(r".{20,110}", text) for text in LAYOUTS.values())
