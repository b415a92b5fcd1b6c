"""Padding is told apart before intensities are judged: what looks like HU, and what does not."""

import re

import numpy as np
import pytest

from viscera.errors import FileError
from viscera.io import nifti
from viscera.preparation.intensity import HounsfieldCheck
from viscera.synthesis.patient import synthesize
from viscera.volume import to_axial

PADDINGS = (-32768, -3024, -2000, -1024, -1000, -1, 0)
SIZE = 96
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
OUTSIDE = np.broadcast_to(np.hypot(ROWS, COLUMNS) > SIZE / 2, (8, SIZE, SIZE))
"""Of the round field of view: a fifth of the voxels."""


def patient(*, noise_hu: float = 12.0, lung: bool = False, body: float = 38.0, seed: int = 0) -> np.ndarray:
    """HU of a trunk: air about it, fat, muscle, contrast-filled organs, bone, gas in the bowel."""
    rng = np.random.default_rng(seed)
    hu = np.full((8, SIZE, SIZE), -1000.0)

    def paint(value: float, y: float, x: float, radius_y: float, radius_x: float) -> None:
        hu[:, ((ROWS - y) / radius_y) ** 2 + ((COLUMNS - x) / radius_x) ** 2 < 1] = value

    paint(-100, 0, 0, 0.8 * body, body)
    paint(55, 0, 0, 0.65 * body, 0.8 * body)
    paint(-820 if lung else 110, -4, -15, 14, 12)
    paint(-820 if lung else -95, -4, 15, 14, 12)
    paint(220, 6, 0, 3, 3)
    paint(700, 17, 0, 6, 6)
    paint(1100, 17, 0, 2, 2)
    paint(-950, -14, 0, 3, 5)
    return np.rint((hu + rng.normal(0, noise_hu, hu.shape)).clip(-1024, 3071)).astype(np.int32)


def padded(voxels: np.ndarray, value: float) -> np.ndarray:
    return np.where(OUTSIDE, value, voxels)


def judge(voxels: np.ndarray) -> str:
    """What is said against a scan; nothing if it may pass."""
    check = HounsfieldCheck(voxels.dtype, voxels.shape, where="p1")
    try:
        for part in np.array_split(voxels, min(3, len(voxels))):
            check.add(part)
        check.finish()
    except FileError as error:
        return str(error)
    return ""


GOOD = {
    "air about the body": patient(),
    "a chest": patient(lung=True),
    "noisy": patient(noise_hu=60),
    "smooth": patient(noise_hu=4),
    "a child in a large field of view": patient(body=12.0),
    "cropped to the body": patient()[:, 26:70, 24:72],
    "cropped to organs, no air": patient(noise_hu=25)[:, 38:58, 30:44],
    "body only, air set to -1024": np.where(patient() < -300, -1024, patient()),
    "body only, air set to -2000": np.where(patient() < -300, -2000, patient()),
    "body only, air set to 0": np.where(patient() < -300, 0, patient()),
    "clipped to -400..400": patient().clip(-400, 400),
    "clipped to -500..500": patient().clip(-500, 500),
    "clipped to -1000..1000": patient().clip(-1000, 1000),
    "much contrast": np.where(patient() > 80, 2 * patient(), patient()),
    "one slice": patient()[:1],
    "sagittal planes": patient().transpose(2, 1, 0),
    "floats": patient().astype(np.float32) + 0.25,
    "twice padded": np.where(np.roll(OUTSIDE, 9, axis=2), -2000, padded(patient(), -3024)),
    **{f"padded with {value}": padded(patient(), value) for value in PADDINGS if value < -1},
    **{f"a chest padded with {value}": padded(patient(lung=True), value) for value in PADDINGS if value < -1},
}


@pytest.mark.parametrize("name", GOOD)
def test_a_ct_is_never_refused_for_its_padding(name):
    assert judge(GOOD[name]) == ""


RAW = patient() + 1024
BAD = {
    **{f"offset, padded with {value}": (padded(RAW, value), "offset of 1024") for value in PADDINGS},
    **{
        f"offset, air clipped, padded with {value}": (padded(RAW.clip(100), value), "offset of 1024")
        for value in PADDINGS
        if value < 0
    },
    "offset, a chest": (padded(patient(lung=True) + 1024, -2000), "offset of 1024"),
    "offset, a crop": (np.pad(RAW[:, 26:70, 24:72], ((0, 0), (9, 9), (9, 9)), constant_values=-2000), "offset of 1024"),
    "offset, noise below 0": (patient(noise_hu=30) + 1024 - 40, "offset of 1024"),
    "offset, unsigned padding": (padded(RAW, 63536), "stored as unsigned"),
    "unsigned": (np.where(patient() < 0, patient() + 65536, patient()), "stored as unsigned"),
    "intercept twice": (patient() - 1024, "1024 too low.*intercept was applied twice"),
    "intercept twice, padded": (padded(patient() - 1024, -3024), "apart from voxels at exactly -3024.*applied twice"),
    "intercept twice, a crop": (patient()[:, 26:70, 24:72] - 1024, "applied twice"),
    "doubled": (2 * patient(), "multiplied by 2"),
    "doubled, padded": (padded(2 * patient(), -2000), "multiplied by 2"),
    "tenfold": (10 * patient(), "multiplied by 10"),
    "halved": (np.rint(patient() / 2), "divided by 2"),
    "halved, padded": (padded(np.rint(patient() / 2), -1024), "apart from voxels at exactly -1024.*divided by 2"),
    "a tenth": (np.rint(patient() / 10), "divided by 10"),
    "inverted": (-patient(), "inverted"),
    "inverted, padded": (padded(-patient(), -2000), "inverted"),
    "0 to 1, padded": (padded((patient() + 1024) / 4095, -1024), "scaled or standardised"),
    "standardised, padded": (padded(patient() / 500, -1024), "scaled or standardised"),
    "8 bits, padded": (padded((patient().clip(-160, 240) + 160) * 255 // 400, -1024), "8-bit picture"),
    "clipped at 0": (patient().clip(0), "no intensity is below 0"),
    "MR, padded": (
        padded(np.where(patient() < -300, abs(patient()) % 15, 3 * (patient() + 200)).clip(0), -1024),
        "neither fat nor air.*perhaps MR",
    ),
    "padding brighter than bone": (padded(patient(), 32767), "padding that is brighter than bone.*-1024"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_hu_is_found_behind_padding_and_named(name):
    voxels, message = BAD[name]
    assert re.search(message, judge(voxels))


def test_every_refusal_says_what_to_do():
    for voxels, _ in BAD.values():
        assert any(verb in judge(voxels) for verb in ("Export", "export", "Replace", "give the CT"))


def test_what_is_said_does_not_depend_on_the_parts():
    voxels, _ = BAD["offset, padded with -2000"]
    check = HounsfieldCheck(voxels.dtype, voxels.shape, where="p1")
    check.add(voxels)
    with pytest.raises(FileError) as whole:
        check.finish()
    assert str(whole.value) == judge(voxels)


@pytest.mark.parametrize("seed", range(3))
def test_synthetic_patients_pass_and_fail_with_an_offset_behind_padding(seed):
    hu = synthesize(np.random.default_rng(seed), shape=(12, 96, 96)).ct.voxels.astype(np.int32)
    assert judge(hu) == ""
    assert judge(padded(np.resize(hu, OUTSIDE.shape), -3024)) == ""
    assert "offset of 1024" in judge(padded(np.resize(hu + 1024, OUTSIDE.shape), -2000))


def test_real_scans_pass_as_they_are_cropped_and_padded_and_fail_with_an_offset(shared_data):
    for file in sorted(shared_data.glob("*/*_ct.nii.gz")):
        hu = to_axial(nifti.read(file))[0].voxels[::3].astype(np.int32)
        rows, columns = hu.shape[1] // 4, hu.shape[2] // 4
        edge = np.ones(hu.shape, bool)
        edge[:, rows // 2 : -rows // 2, columns // 2 : -columns // 2] = False
        crop = hu[:, rows:-rows, columns:-columns]
        for good in (hu, crop, hu[:3], np.where(edge, -3024, hu), np.where(edge, -1000, hu)):
            assert judge(good) == "", file.name
        for value in (-3024, -2000, -1000):
            assert "offset of 1024" in judge(np.where(edge, value, (hu + 1024).clip(0))), file.name
