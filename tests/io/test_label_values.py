"""Whether voxels are labels: whole numbers, almost whole ones, and what is refused."""

import nibabel
import numpy as np
import pytest

from viscera.errors import LabelError
from viscera.io import nifti
from viscera.io.label_values import LARGEST_LABEL, ROUNDED_WITHIN, whole_labels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint16])
def test_whole_types_are_returned_as_they_are(dtype):
    voxels = np.array([[[0, 1], [7, 100]]], dtype)
    whole, rounded = whole_labels(voxels, where="x")
    assert whole is voxels
    assert not rounded


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1.0000001, 2.9999998], [0, 1, 3]),
        ([-1e-7, 255 * (1 - 1e-6)], [0, 255]),
        ([0, 65535.0005], [0, LARGEST_LABEL]),
        ([1 - ROUNDED_WITHIN / 2, 300], [1, 300]),
        ([-ROUNDED_WITHIN, 1], [0, 1]),
    ],
)
def test_almost_whole_numbers_are_rounded_and_said_to_be(values, expected):
    whole, rounded = whole_labels(np.array([[values]]), where="x")
    assert whole.dtype.kind == "u"
    assert whole[0, 0].tolist() == expected
    assert rounded


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255.0, np.uint8), (255.0005, np.uint8), (255.9995, np.uint16), (256.0, np.uint16)]
)
def test_as_few_bytes_are_taken_as_hold_the_largest_label(largest, dtype):
    whole, _ = whole_labels(np.array([[[0, largest]]]), where="x")
    assert whole.dtype == dtype
    assert whole.max() == round(largest)


@pytest.mark.parametrize("values", [[0, 1.5], [0, np.nan], [-1, 3]])
def test_a_refusal_names_the_file_and_says_what_to_do(tmp_path, values):
    remedies = r"(Resample labels with nearest neighbour|Write the file anew|Is it a scan\?)"
    with pytest.raises(LabelError, match=rf"^x holds .*\. {remedies}") as caught:
        whole_labels(np.array([[values]]), where="x", file=tmp_path / "a.nii")
    assert caught.value.file == tmp_path / "a.nii"


@pytest.mark.parametrize("dtype", [bool, np.float16, np.float32, np.float64])
def test_whole_numbers_of_other_types_are_not_said_to_be_rounded(dtype):
    whole, rounded = whole_labels(np.array([[[0, 1]]], dtype), where="x")
    assert (whole.dtype, whole.tolist(), rounded) == (np.uint8, [[[0, 1]]], False)
    assert whole_labels(np.zeros((0, 2, 2), dtype), where="x")[0].size == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1.5], "x holds 1.5, but labels are whole numbers"),
        ([0, 2.998], "x holds 2.998, but labels are whole numbers"),
        ([0.0011, 1.0000001], "x holds 0.0011"),
        ([0, np.nan], "x holds NaN or infinity"),
        ([0, np.inf], "x holds NaN or infinity"),
        ([-1, 3], r"x holds values from -1 to 3, which are not labels \(0 to 65535\)\. Is it a scan"),
        ([0, 65536], "values from 0 to 65536"),
    ],
)
def test_what_is_not_a_label_is_refused_whatever_its_type(values, message):
    with pytest.raises(LabelError, match=message):
        whole_labels(np.array([[values]], np.float64), where="x")
    if np.array_equal(values, np.rint(values)) and np.isfinite(values).all():
        with pytest.raises(LabelError, match=message):
            whole_labels(np.array([[values]], np.int32), where="x")


@pytest.mark.parametrize("slope", [1 / 255, 0.1, 1 / 3])
def test_labels_that_a_header_scales_come_back_whole(tmp_path, slope):
    labels = np.arange(18).reshape(3, 3, 2)
    nibabel.Nifti1Image(np.rint(labels / slope).astype(np.int16), np.eye(4)).to_filename(tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:116] = np.array(slope, "<f4").tobytes()  # scl_slope
    (tmp_path / "a.nii").write_bytes(raw)
    scaled = nifti.read(tmp_path / "a.nii").voxels
    assert scaled.dtype == np.float32
    assert np.array_equal(whole_labels(scaled, where="x")[0], labels.T)
