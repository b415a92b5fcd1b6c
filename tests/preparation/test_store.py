import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from viscera.config import ResizedSlices, SpacedSlices
from viscera.errors import StoreError
from viscera.labels import LabelSpace
from viscera.preparation.geometry import Geometry, geometry_from_json, geometry_to_json
from viscera.preparation.store import (
    Case,
    Facts,
    SourceFacts,
    Store,
    create_store,
    facts_from_json,
    facts_to_json,
    open_store,
    remove_case,
    remove_leftovers,
    write_case,
)
from viscera.volume import Turn, Volume, axial_turn, to_axial

SPACE = LabelSpace("two", ("liver", "spleen"))
SMALL = ResizedSlices(size=(16, 16))
OBLIQUE = np.array([[0.1, 0.6, 0.1, 7], [0.2, 0.1, -0.7, 8], [-2.5, 0.05, 0.1, 9], [0, 0, 0, 1]])


def case_of(name: str = "amos__001", *, shape: tuple = (3, 20, 24), known: bool = False) -> tuple[Case, Facts]:
    rng = np.random.default_rng(len(name))
    geometry = Geometry(shape, OBLIQUE, axial_turn(OBLIQUE), SMALL.size)
    image = rng.integers(-1024, 1000, geometry.prepared_shape).astype(np.int16)
    labels = rng.integers(0, 3, image.shape).astype(np.uint8)
    dataset, _, number = name.partition("__")
    case = Case(name, dataset, number, image, labels, labels != 1 if known else None, ("liver",), geometry)
    source = SourceFacts(
        "images/001.nii.gz",
        ("labels/001.nii.gz",),
        "ab",
        ("cd",),
        ((5, 7), (8, 9)),
        ((1, "liver"),),
        ("liver",),
        (255,),
    )
    voxels = {"background": 5, "liver": 6, "spleen": 7}
    return case, Facts(
        name, dataset, number, ("liver",), ("a note",), source, geometry, "ef", {"minimum": -1.5}, voxels
    )


def store_with(folder: Path, *names: str, splits: dict[str, str] | None = None) -> Store:
    create_store(folder, space=SPACE, preparation=SMALL)
    for name in names:
        write_case(folder, *case_of(name))
    if splits is not None:
        (folder / "splits.json").write_text(json.dumps({"seed": 0, "fractions": {}, "cases": splits}))
    return open_store(folder)


@pytest.mark.parametrize("known", [False, True])
def test_a_case_comes_back_as_it_was_written(tmp_path, known):
    store = create_store(tmp_path / "store", space=SPACE, preparation=SMALL)
    case, facts = case_of(known=known)
    write_case(store.path, case, facts)
    found = store.case(case.name)
    np.testing.assert_array_equal(found.image, case.image)
    np.testing.assert_array_equal(found.labels, case.labels)
    assert (found.known is None) == (not known)
    if known:
        np.testing.assert_array_equal(found.known, case.known)
    assert (found.name, found.dataset, found.patient, found.annotated) == (case.name, "amos", "001", ("liver",))
    assert isinstance(found.image, np.memmap)
    assert not found.image.flags.writeable


def test_facts_come_back_from_json():
    _, facts = case_of()
    text = json.dumps(facts_to_json(facts))
    found = facts_from_json(json.loads(text), what="case.json is damaged")
    assert json.dumps(facts_to_json(found)) == text
    assert found.source == facts.source
    assert (found.geometry.shape, found.geometry.turn, found.geometry.size) == (
        facts.geometry.shape,
        facts.geometry.turn,
        facts.geometry.size,
    )
    np.testing.assert_array_equal(found.geometry.affine, OBLIQUE)


def test_a_cut_grid_comes_back_from_json():
    step = (Fraction(3413, 4096), Fraction(7, 2))
    geometry = Geometry((3, 20, 24), OBLIQUE, axial_turn(OBLIQUE), (32, 16), (-3, 5), step)
    found = geometry_from_json(json.loads(json.dumps(geometry_to_json(geometry))))
    assert (found.size, found.start, found.step) == (geometry.size, geometry.start, geometry.step)
    assert (found.shape, found.turn, found.pixel_grid) == (geometry.shape, geometry.turn, geometry.pixel_grid)
    np.testing.assert_array_equal(found.prepared_affine, geometry.prepared_affine)


def test_a_case_without_labels_has_none(tmp_path):
    store = create_store(tmp_path / "store", space=SPACE, preparation=SMALL)
    case, facts = case_of()
    bare = Case(case.name, case.dataset, case.patient, case.image, None, None, (), case.geometry)
    write_case(store.path, bare, Facts(**vars(facts) | {"annotated": (), "voxels": {}}))
    assert store.case(case.name).labels is None


def test_geometry_describes_the_prepared_grid():
    shape = (20, 24, 3)
    affine = np.array([[0, 0, -5, 1], [0, -2, 0, 2], [3, 0, 0, 3], [0, 0, 0, 1.0]])
    geometry = Geometry(shape, affine, axial_turn(affine), (12, 6))
    assert geometry.turn == Turn((0, 1, 2), (False, False, False))
    assert (geometry.axial_shape, geometry.prepared_shape) == ((20, 24, 3), (20, 12, 6))
    assert geometry.spacing_mm == pytest.approx((3, 4, 2.5))
    # y: 2 - 2 * 0.5 (the centre of two pixels); x: 1 - 5 * -0.25 (half a pixel of half the size)
    np.testing.assert_allclose(geometry.prepared_affine[:3, 3], [2.25, 1, 3])


def test_geometry_describes_a_grid_that_was_cut():
    affine = np.array([[0, 0, -5, 1], [0, -2, 0, 2], [3, 0, 0, 3], [0, 0, 0, 1.0]])
    geometry = Geometry((20, 24, 30), affine, axial_turn(affine), (16, 32), (4, -2), (Fraction(2), Fraction(1, 2)))
    assert geometry.prepared_shape == (20, 16, 32)
    assert geometry.spacing_mm == pytest.approx((3, 4, 2.5))
    # The first pixel is the rows 4 and 5, so centred at 4.5; along columns it is half a pixel from -2.5 on: -2.25.
    np.testing.assert_allclose(geometry.prepared_affine[:3, 3], [1 + 5 * 2.25, 2 - 2 * 4.5, 3])


def test_a_grid_of_the_same_size_is_the_axial_one():
    volume = Volume(np.zeros((5, 16, 32), np.uint8), OBLIQUE)
    axial, turn = to_axial(volume)
    geometry = Geometry(volume.shape, OBLIQUE, turn, axial.shape[1:])
    np.testing.assert_allclose(geometry.prepared_affine, axial.affine)


def test_names_are_those_of_a_split(tmp_path):
    splits = {"amos__001": "training", "amos__002": "test"}
    store = store_with(tmp_path / "store", "amos__002", "amos__001", "word__001", splits=splits)
    assert store.names() == ["amos__001", "amos__002", "word__001"]
    assert (store.names("training"), store.names("validation"), store.names("test")) == (
        ["amos__001"],
        [],
        ["amos__002"],
    )


def test_voxels_are_summed_over_the_cases_that_annotate_the_class(tmp_path):
    splits = dict.fromkeys(["amos__001", "amos__002"], "training")
    store = store_with(tmp_path / "store", *splits, splits=splits)
    assert store.voxels("training") == [10, 12, 0]  # spleen is not annotated, whatever stands there
    assert store.voxels("test") == [0, 0, 0]


def test_a_case_is_replaced_as_a_whole(tmp_path):
    store = store_with(tmp_path / "store", "amos__001")
    case, facts = case_of(known=True)
    write_case(store.path, case, facts)
    write_case(store.path, *case_of())
    assert store.case("amos__001").known is None
    assert [child.name for child in (store.path / "cases").iterdir()] == ["amos__001"]


def test_removing_a_case_leaves_nothing_and_may_be_said_twice(tmp_path):
    store = store_with(tmp_path / "store", "amos__001")
    remove_case(store.path, "amos__001")
    remove_case(store.path, "amos__001")
    assert list((store.path / "cases").iterdir()) == []


def test_leftovers_are_not_seen_and_removed(tmp_path):
    store = store_with(tmp_path / "store", "amos__001")
    (store.path / "cases" / ".77.amos__002").mkdir()
    (store.path / "cases" / ".77.amos__002" / "image.npy").touch()
    (store.path / ".77.problems.json").touch()
    assert store.names() == ["amos__001"]
    remove_leftovers(store.path)
    assert sorted(path.name for path in store.path.rglob("*")) == [
        *["amos__001", "case.json", "cases", "image.npy", "labels.npy", "store.json"]
    ]


def test_creating_a_store_twice_opens_it(tmp_path):
    store_with(tmp_path / "store", "amos__001")
    store = create_store(tmp_path / "store", space=SPACE, preparation=SMALL)
    assert (store.names(), store.space, store.preparation) == (["amos__001"], SPACE, SMALL)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(
        StoreError, match=r"is not a prepared store \(it has no store.json\). Make one: viscera prepare"
    ):
        open_store(tmp_path)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(StoreError, match=r"holds files but is not a prepared store. Give a new or an empty folder"):
        create_store(tmp_path, space=SPACE, preparation=SMALL)
    with pytest.raises(StoreError, match=r"letter.txt is a file. Give a folder"):
        create_store(tmp_path / "letter.txt", space=SPACE, preparation=SMALL)


def test_another_format_or_a_damaged_store_is_refused(tmp_path):
    store_with(tmp_path)
    file = tmp_path / "store.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(StoreError, match=r"has store format 99 \(viscera .*\); this viscera reads 1"):
        open_store(tmp_path)
    file.write_text(file.read_text()[:50])
    with pytest.raises(StoreError, match=r"store.json or splits.json is damaged. Prepare the store anew"):
        open_store(tmp_path)


def test_a_store_for_something_else_is_refused(tmp_path):
    store = store_with(tmp_path)
    store.require(space=LabelSpace("other name", SPACE.organs), preparation=SMALL)
    with pytest.raises(StoreError, match=r"was prepared for label space 'two' \(liver, spleen\), not 'one' \(liver\)"):
        store.require(space=LabelSpace("one", ("liver",)), preparation=SMALL)
    with pytest.raises(StoreError, match=r"was prepared with size 16x16, not size 256x256. Prepare another store"):
        store.require(space=SPACE, preparation=ResizedSlices())
    with pytest.raises(StoreError, match=r"was prepared with size 16x16, not spacing_mm 2.5, margin_mm 10. Prepare an"):
        store.require(space=SPACE, preparation=SpacedSlices())


@pytest.mark.parametrize("preparation", [SpacedSlices(spacing_mm=3, margin_mm=7.5), ResizedSlices(size=(32, 48))])
def test_a_store_remembers_how_it_was_prepared(tmp_path, preparation):
    create_store(tmp_path, space=SPACE, preparation=preparation)
    store = open_store(tmp_path)
    assert store.preparation == preparation
    create_store(tmp_path, space=SPACE, preparation=preparation)
    other = SpacedSlices(spacing_mm=3.0, margin_mm=10)
    with pytest.raises(StoreError, match=r"was prepared with .*, not spacing_mm 3, margin_mm 10"):
        create_store(tmp_path, space=SPACE, preparation=other)


def test_a_store_from_before_there_were_kinds_was_resized(tmp_path):
    store_with(tmp_path, "amos__001")
    file = tmp_path / "store.json"
    written = json.loads(file.read_text())
    del written["preparation"]["kind"]
    file.write_text(json.dumps(written))
    assert open_store(tmp_path).preparation == SMALL
    written["preparation"]["kind"] = "cubed"
    file.write_text(json.dumps(written))
    with pytest.raises(StoreError, match=r"store.json or splits.json is damaged"):
        open_store(tmp_path)


def test_missing_splits_and_gone_cases_are_named(tmp_path):
    store = store_with(tmp_path, "amos__001")
    with pytest.raises(
        StoreError, match=r"is not divided into splits: preparing was interrupted. Run viscera prepare again"
    ):
        store.names("training")
    store = store_with(tmp_path, splits={"amos__001": "training", "amos__007": "test"})
    with pytest.raises(StoreError, match=r"case amos__007 is gone. Run viscera prepare again"):
        store.names("training")


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def reshape(file: Path) -> None:
    np.save(file, np.zeros((2, 16, 16), np.uint8))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("image.npy", Path.unlink, r"image.npy is missing"),
        ("image.npy", shorten, r"image.npy is damaged or cut off"),
        ("image.npy", reshape, r"image.npy holds uint8 \(2, 16, 16\), expected int16 \(\d+, 16, 16\)"),
        ("labels.npy", Path.unlink, r"labels.npy is missing"),
        ("labels.npy", reshape, r"labels.npy holds uint8 \(2, 16, 16\), expected uint8"),
        ("case.json", Path.unlink, r"no case 'amos__001' with a case.json"),
        ("case.json", shorten, r"case.json is damaged"),
        ("case.json", lambda file: file.write_text("[]"), r"case.json is damaged"),
        ("case.json", lambda file: rewrite(file, patient=3), r"case.json is damaged \(patient: should be .*, got 3\)"),
        ("case.json", lambda file: rewrite(file, geometry={}), r"case.json is damaged \(geometry: .*'axes'"),
    ],
)
def test_a_damaged_case_is_named_with_what_to_do(tmp_path, file, damage, message):
    store = store_with(tmp_path, "amos__001")
    damage(tmp_path / "cases" / "amos__001" / file)
    with pytest.raises(StoreError, match=message + r".* Delete the case's folder and run viscera prepare again"):
        store.case("amos__001")


def test_a_case_that_was_never_there_is_named(tmp_path):
    store = store_with(tmp_path)
    shutil.rmtree(tmp_path / "cases")
    assert store.names() == []
    with pytest.raises(StoreError, match=r"no case 'amos__001'"):
        store.case("amos__001")
