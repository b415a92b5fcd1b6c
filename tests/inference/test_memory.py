"""What scans take of memory, by their headers: bounds, plans in their order, and the least that works."""

import re
from dataclasses import replace
from math import prod

import numpy as np
import pytest

from makers import hollow
from makers import nearest_model as model
from viscera.config import Postprocessing, ResizedSlices, ScannerGrid, SpacedSlices, SpacedVolumes
from viscera.errors import FileError, SettingError
from viscera.inference.memory import Budget, Look, look_at, needed_mib, one_at_a_time, prepared_size, prepared_voxels
from viscera.preparation.image import prepare_image
from viscera.volume import Volume

SCAN = Look((275, 512, 512), (2.5, 0.7, 0.7), 2, True)


def test_a_look_at_the_header_gives_the_axial_slices_whatever_the_files_order(tmp_path):
    look = look_at(hollow(tmp_path / "a.nii", (512, 256, 100)))
    assert look.shape == (100, 256, 512)
    assert look.spacing_mm == pytest.approx((2.5, 0.7, 0.7))
    assert (look.itemsize, look.hounsfield, look.in_order) == (2, True, True)
    coronal = np.array([[-0.7, 0, 0, 0], [0, 0, 3.0, 0], [0, 0.8, 0, 0], [0, 0, 0, 1]])
    look = look_at(hollow(tmp_path / "b.nii", (512, 100, 60), np.float32, coronal))
    assert look.shape == (100, 60, 512)
    assert look.spacing_mm == pytest.approx((0.8, 3.0, 0.7))
    assert (look.itemsize, look.hounsfield, look.in_order) == (4, False, False)


@pytest.mark.parametrize(
    "preparation",
    [
        ResizedSlices(size=(64, 48)),
        ScannerGrid(),
        SpacedSlices(spacing_mm=2.5),
        SpacedSlices(spacing_mm=0.45, margin_mm=0),
        SpacedVolumes(spacing_mm=(1.0, 2.0, 3.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("spacing_mm", [(2.5, 0.7, 0.8), (0.6, 1.5, 1.4)])
def test_no_prepared_scan_is_larger_than_was_reckoned(preparation, spacing_mm):
    hu = np.random.default_rng(0).integers(-50, 50, (9, 70, 90)).astype(np.int16)  # a body up to every border
    affine = np.array([[0, 0, -spacing_mm[2], 0], [0, -spacing_mm[1], 0, 0], [spacing_mm[0], 0, 0, 0], [0, 0, 0, 1]])
    image, geometry = prepare_image(Volume(hu, affine), preparation)
    look = Look(hu.shape, spacing_mm, 2, True)
    assert all(found <= most for found, most in zip(geometry.size, prepared_size(look, preparation), strict=True))
    assert image.size <= prepared_voxels(look, preparation)


def test_the_scan_its_labels_and_what_is_kept_are_counted():
    one = model((64, 64))
    mib = 2 * prod(SCAN.shape) / 2**20  # of int16
    need = needed_mib(SCAN, one, statistics=False)
    assert mib < need.reading < mib + 64
    assert mib < need.working < mib + 128  # two label maps are a scan
    kept = needed_mib(SCAN, one, statistics=True)
    assert kept.working - need.working == pytest.approx(mib)
    assert kept.writing - need.writing == pytest.approx(3.5 * mib)  # and 5 bytes per voxel to measure the organs
    assert kept.slabs is None
    floats = needed_mib(replace(SCAN, itemsize=4, hounsfield=False), one, statistics=False)
    assert floats.reading > 3 * mib  # as floats and, converted, as int16
    assert floats.slabs == need.slabs
    assert needed_mib(replace(SCAN, in_order=False), one, statistics=False).slabs is None


def test_post_processing_other_networks_and_more_slices_at_once_take_more():
    one = model((64, 64))
    plain = needed_mib(SCAN, one, statistics=False)
    tidied = replace(one, recipe=replace(one.recipe, postprocessing=Postprocessing(fill_holes=("liver",))))
    assert needed_mib(SCAN, tidied, statistics=False).working > plain.working
    assert needed_mib(SCAN, replace(one, tumour=one), statistics=False).working > plain.working
    large = replace(one, recipe=replace(one.recipe, preparation=ScannerGrid()))
    assert (
        needed_mib(SCAN, one_at_a_time(large), statistics=False).working
        < needed_mib(SCAN, large, statistics=False).working
    )
    gpu = replace(large, device="cuda")
    assert needed_mib(SCAN, gpu, statistics=False).working < needed_mib(SCAN, large, statistics=False).working


def test_opening_and_closing_take_whole_masks_and_filling_takes_slabs():
    one = model((64, 64))
    plain = needed_mib(SCAN, one, statistics=False).working
    taken = {}
    for name, organ in (
        ("opening_mm", "liver"),
        ("closing_mm", "liver"),
        ("smallest_ml", "liver"),
        ("smallest_ml", "tumor"),
    ):
        settings = Postprocessing(**{name: {organ: 1.0}})
        tidied = replace(one, recipe=replace(one.recipe, postprocessing=settings))
        taken[name, organ] = (needed_mib(SCAN, tidied, statistics=False).working - plain) * 2**20 / prod(SCAN.shape)
    assert taken["opening_mm", "liver"] == taken["closing_mm", "liver"] == pytest.approx(8)  # bytes per voxel
    assert 2 < taken["smallest_ml", "liver"] < 4.1  # and 8 of at most four slabs, of 275 planes
    assert taken["smallest_ml", "tumor"] == pytest.approx(5)


def test_the_first_plan_that_fits_is_taken(tmp_path):
    scans = [hollow(tmp_path / f"{number}.nii", dtype=np.float32) for number in range(3)]
    one = model((64, 64))
    need = needed_mib(look_at(scans[0]), one, statistics=False)
    assert need.slabs is not None
    assert need.slabs + 500 < need.alone < need.reading + need.working - 500
    for room, plans in [
        (need.reading + need.working + need.writing + 300, ["overlapped"] * 3),
        (need.reading + need.working + 300, ["overlapped", "overlapped", "alone"]),
        (need.alone + 300, ["alone"] * 3),
        (need.slabs + 300, ["slabs"] * 3),
    ]:
        budget = Budget(one, most_mib=None, statistics=False)
        budget.most_mib = budget.held_mib + room
        assert [budget.admit(scan) for scan in scans] == [
            plan == "overlapped" and n > 0 for n, plan in enumerate(plans)
        ]
        assert [budget.plan(scan) for scan in scans] == plans


def test_the_least_that_works_is_said_and_works(tmp_path):
    scan = hollow(tmp_path / "scan.nii")
    for statistics in (False, True):
        budget = Budget(model((64, 64)), most_mib=300, statistics=statistics)
        with pytest.raises(
            SettingError, match=r"scan.nii: --max-memory 300: this scan needs at least \d+ MiB"
        ) as error:
            budget.plan(scan)
        least = int(re.findall(r"at least (\d+) MiB", str(error.value))[0])
        for most, fits in ((least, True), (least - 1, False)):
            other = Budget(model((64, 64)), most_mib=most, statistics=statistics)
            other.held_mib = budget.held_mib
            if fits:
                assert other.plan(scan) in ("alone", "slabs")
            else:
                with pytest.raises(SettingError, match="at least"):
                    other.plan(scan)


def test_a_scan_that_does_not_fit_or_is_bad_takes_no_room_from_the_others(tmp_path):
    small = [hollow(tmp_path / f"{number}.nii", (64, 64, 10)) for number in range(2)]
    large, bad = hollow(tmp_path / "large.nii"), tmp_path / "bad.nii"
    bad.write_bytes(b"no header")
    budget = Budget(model((64, 64)), most_mib=None, statistics=False)
    budget.most_mib = budget.held_mib + 400
    assert [budget.admit(scan) for scan in (small[0], large, bad, small[1])] == [False, True, True, True]
    with pytest.raises(SettingError, match=r"large.nii: --max-memory"):
        budget.plan(large)
    with pytest.raises(FileError, match="is not NIfTI"):
        budget.plan(bad)
    assert budget.plan(small[0]) == budget.plan(small[1]) == "overlapped"


def test_without_a_limit_no_header_is_read_and_only_a_single_scan_is_alone(tmp_path):
    budget = Budget(model(), most_mib=None, statistics=False)
    assert budget.admit(tmp_path / "a.nii") is False
    assert budget.plan(tmp_path / "a.nii") == "alone"
    assert budget.admit(tmp_path / "b.nii") is True
    assert budget.plan(tmp_path / "a.nii") == budget.plan(tmp_path / "b.nii") == "overlapped"
