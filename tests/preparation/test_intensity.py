import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from viscera.config import Window
from viscera.errors import FileError
from viscera.preparation.intensity import HounsfieldCheck, apply_window, hounsfield, to_int16
from viscera.volume import Volume


def scan(dtype: type = np.int16) -> np.ndarray:
    """Half air with noise, half soft tissue with noise."""
    rng = np.random.default_rng(0)
    air, tissue = rng.normal(-1000, 10, (6, 8, 16)), rng.normal(50, 15, (6, 8, 16))
    return np.concatenate([air, tissue], axis=1).round().astype(dtype)


def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels, np.eye(4)[[2, 1, 0, 3]])


def hu(voxels: np.ndarray) -> np.ndarray:
    return hounsfield(volume(voxels), where="liver_003")


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_every_number_type_gives_the_same_hu(dtype):
    converted = hu(scan(dtype))
    assert converted.dtype == np.int16
    np.testing.assert_array_equal(converted, scan())


def test_fractions_are_rounded_ties_to_even():
    voxels = scan(np.float32)
    voxels[0, 0, :5] = [-0.5, 0.5, 1.5, -1000.4, 12.6]
    assert hu(voxels)[0, 0, :5].tolist() == [0, 0, 2, -1000, 13]


@pytest.mark.parametrize("padding", [-1024, -2000, -2048, -3024, -32768])
def test_padding_around_the_field_of_view_is_kept(padding):
    voxels = scan()
    voxels[:, :4] = padding
    assert (hu(voxels)[:, :4] == padding).all()


def test_a_crop_without_air_is_a_scan():
    voxels = np.random.default_rng(1).normal(60, 40, (5, 20, 20)).round().astype(np.int16)
    assert (hu(voxels) == voxels).all()


def test_a_scan_clipped_below_tissue_is_a_scan():
    assert hu(scan().clip(-400, 400)).min() == -400


def test_some_flecks_beyond_int16_are_clipped():
    voxels = scan(np.float32)
    voxels[0, 0, 0] = 1e6
    assert hu(voxels)[0, 0, 0] == 32767


def spoilt(kind: str) -> np.ndarray:
    voxels = scan(np.float64)
    match kind:
        case "nan":
            voxels[0, 0, :3] = np.nan
        case "infinite":
            voxels[2, 3, 4] = -np.inf
    return voxels


WRONG = [
    (np.zeros((0, 8, 8), np.int16), r"liver_003: the scan is empty \(0x8x8 voxels along z, y, x\)"),
    (np.full((4, 8, 8), -1024, np.int16), r"every voxel is -1024, the scan is empty"),
    (spoilt("nan"), r"3 of 1536 voxels are NaN or infinite. Replace them by -1024"),
    (spoilt("infinite"), r"1 of 1536 voxels are NaN or infinite"),
    ((scan(np.float64) + 1024) / 2000, r"not HU, but a scaled or standardised image. Export the CT in HU"),
    ((scan(np.float64) + 500) / 500, r"scaled or standardised"),
    ((scan(np.int32).clip(-160, 240) + 160) * 255 // 400, r"look like an 8-bit picture, not HU"),
    (scan() + 1100, r"offset of 1024 \(48% of the voxels are within 150 of 1024.*Set scl_inter to -1024"),
    (np.abs(scan()) // 2 + 5, r"no intensity is below 0 .*neither fat nor air"),
    (scan().clip(-160, 240), r"of the voxels are exactly -160, the lowest value: the scan was clipped"),
    (scan().view(np.uint16).astype(np.int32), r"50.0% of the voxels lie outside .*stored as unsigned numbers"),
    (scan()[:, :8], r"hold nothing above -200 HU, so no patient"),
    (scan().astype(np.complex64), r"voxels of type complex64 are not HU"),
]


def other_modality(kind: str) -> np.ndarray:
    """An image that is not CT: dark air about a body (a third of the voxels) of random tissues."""
    rng = np.random.default_rng(2)
    body = np.zeros((6, 16, 16), bool)
    body[:, 3:13, 3:13] = True
    air, tissue = rng.uniform(0, 1, body.shape), rng.uniform(0.15, 1, body.shape)
    share = np.where(body, tissue, 0.01 * air)  # of the brightest voxel
    match kind:
        case "8-bit":
            return (255 * share).round().astype(np.uint8)
        case "MR":
            return (2000 * share).round().astype(np.int16)
        case "MR, resampled":
            return (2000 * share - 40 * air).round().astype(np.int16)
        case "PET, SUV":
            return (30 * share**3).astype(np.float32)
        case "PET, low SUV":
            return (9 * share**3).astype(np.float32)
        case "PET, SUV, resampled":
            return (30 * share**3 - 0.2 * air).astype(np.float32)
        case "PET, Bq/ml":
            return (30000 * share).astype(np.float32)
        case "PET, hot Bq/ml":
            return (90000 * share).astype(np.float32)
        case _:  # PET, hot Bq/ml, resampled
            return (90000 * share - 90 * air).astype(np.float32)


WRONG += [
    (other_modality("8-bit"), r"look like an 8-bit picture, not HU. Export the CT in HU"),
    (
        other_modality("MR"),
        r"no intensity is below 0 .*neither fat nor air: not HU, perhaps MR, PET, or a CT that was masked",
    ),
    (
        other_modality("MR, resampled"),
        r"neither fat nor air, and 3\d% above 300, where only bone is, beside .*perhaps MR, PET",
    ),
    (
        other_modality("PET, SUV"),
        r"with fractions, are not HU: PET in SUV, or a scaled image. viscera segments CT only",
    ),
    (other_modality("PET, low SUV"), r"are not HU, but a scaled or standardised image, or PET in SUV. Export the CT"),
    (other_modality("PET, SUV, resampled"), r"and \d\d% within 1 of 0, .*perhaps MR, PET, or a CT that was masked"),
    (other_modality("PET, Bq/ml"), r"no intensity is below 0 .*perhaps PET in Bq/ml, or MR. viscera segments CT only"),
    (
        other_modality("PET, hot Bq/ml"),
        r"of the voxels lie outside .*Perhaps PET in Bq/ml, or MR. viscera segments CT only",
    ),
    (other_modality("hot and resampled"), r"of the voxels lie outside .*Perhaps PET in Bq/ml, or MR"),
    (
        np.arange(5, dtype=np.uint8).repeat(64).reshape(5, 8, 8),
        r"0 to 4 are not HU, but a label map, or a scaled image",
    ),
]


def crop_without_air(kind: str) -> np.ndarray:
    """HU of a crop in which there is no air."""
    rng = np.random.default_rng(3)
    tissue = rng.normal(60, 25, (6, 16, 16))
    match kind:
        case "inside of the liver":
            tissue = rng.normal(45, 18, tissue.shape)
        case "bone and fat":
            tissue[:, 4:12] = rng.normal(600, 200, (6, 8, 16)).clip(200)
            tissue[:, :2] = rng.normal(-100, 15, (6, 2, 16))
        case "bone without fat":
            tissue[:, 4:10] = rng.normal(600, 200, (6, 6, 16)).clip(200)
        case "water":
            tissue = rng.normal(0, 10, tissue.shape)
        case "masked with 0, fat inside":
            tissue[:, :9] = 0
            tissue[:, 9:11] = rng.normal(-100, 15, (6, 2, 16))
    return tissue.round().astype(np.int16)


@pytest.mark.parametrize(
    "kind", ["inside of the liver", "bone and fat", "bone without fat", "water", "masked with 0, fat inside"]
)
def test_a_ct_without_air_is_not_taken_for_another_modality(kind):
    voxels = crop_without_air(kind)
    assert (hu(voxels) == voxels).all()


@pytest.mark.parametrize(("voxels", "message"), WRONG)
def test_what_is_no_hu_is_refused_and_says_why(voxels, message):
    with pytest.raises(FileError, match=message):
        hu(voxels)


def judge(parts: list[np.ndarray], shape: tuple[int, ...]) -> str:
    """What is said of a scan that is seen in parts; nothing if it may pass."""
    try:
        check = HounsfieldCheck(parts[0].dtype, shape, where="liver_003")
        for part in parts:
            check.add(part)
        check.finish()
    except FileError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("voxels", [scan(), *(voxels for voxels, _ in WRONG if voxels.size)])
def test_a_scan_seen_in_parts_is_judged_as_a_whole(voxels):
    whole = judge([voxels], voxels.shape)
    slices = [voxels[place : place + 1] for place in range(len(voxels))]
    by_value = np.sort(voxels.reshape(-1, 1, 1), axis=0)  # each part then has other extremes
    for parts in (slices, slices[::-1], np.array_split(by_value, 7), np.array_split(by_value, 7)[::-1]):
        assert judge(parts, voxels.shape) == whole


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_number_type_is_clipped_to_int16(dtype):
    wide = [-(2.0**40), -40000, -32768, -129, -1, 0, 200, 32767, 40000, 2.0**40]
    limits = np.iinfo(dtype) if dtype[0] in "ui" else np.finfo(dtype)
    held = np.array([value for value in wide if limits.min <= value <= limits.max]).astype(dtype)
    expected = [min(max(int(value), -32768), 32767) for value in held]
    converted = to_int16(held.reshape(1, 1, -1))
    assert converted.dtype == np.int16
    assert converted.ravel().tolist() == expected


def test_real_scans_are_hu(shared_data):
    from viscera.io import nifti

    for file in sorted(shared_data.glob("*/*_ct.nii.gz")):
        ct = nifti.read(file)
        assert hounsfield(ct, where=file.name).dtype == np.int16


def test_the_window_maps_its_ends_to_0_and_1():
    image = np.array([-3000, -160, 40, 240, 3000], np.int16)
    assert apply_window(image, Window(-160, 240)).tolist() == [0, 0, 0.5, 1, 1]


def test_numpy_and_torch_give_the_same():
    image = np.arange(-2000, 2000, 7, dtype=np.int16).reshape(4, 1, 11, 13)
    tensor = apply_window(torch.from_numpy(image), Window(-400, 400))
    assert tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (0, 1)
    np.testing.assert_allclose(tensor.numpy(), apply_window(image, Window(-400, 400)), atol=1e-7)


def test_the_image_itself_is_not_changed():
    image = torch.arange(-500, 500, 100, dtype=torch.int16)
    apply_window(image, Window())
    assert image.tolist() == list(range(-500, 500, 100))


def test_preparing_needs_no_torch():
    command = "import sys, viscera.preparation.prepare; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], check=False, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0
