"""Coarse voxels lie where the prepared ones lay: the same places in the world, the same patient."""

from fractions import Fraction

import numpy as np
import pytest

from viscera.config import ResizedSlices, SpacedSlices
from viscera.errors import SettingError
from viscera.preparation.coarse import coarse_case, coarse_geometry, coarse_image
from viscera.preparation.image import prepare_image
from viscera.preparation.store import Case
from viscera.volume import Volume

SPACED = SpacedSlices(spacing_mm=2.5, margin_mm=0)


def block(slice_mm=2.0, depth=50):
    """Return a body of 20 HU, in it a box of 500 HU somewhere to the left, back and top."""
    hu = np.full((depth, 64, 80), -1000, np.int16)
    hu[:, 8:56, 8:72] = 20
    hu[depth * 3 // 5 : depth * 4 // 5, 34:46, 44:60] = 500
    return Volume(hu, np.array([[0, 0, -1.3, 40], [0, -1.4, 0, 60], [slice_mm, 0, 0, -70], [0, 0, 0, 1.0]]))


def middle(hu, affine):
    """Return the middle of the box in the world, each voxel counting by its share of the box."""
    share = np.clip((hu.astype(float) - 20) / 480, 0, 1)
    return (
        affine
        @ np.append(
            [
                (np.moveaxis(share, axis, 0).sum((1, 2)) * np.arange(hu.shape[axis])).sum() / share.sum()
                for axis in range(3)
            ],
            1,
        )
    )[:3]


@pytest.mark.parametrize("slice_mm", [1.0, 2.0, 5.0, 7.5])
def test_a_block_stays_where_it_was(slice_mm):
    prepared, geometry = prepare_image(block(slice_mm, depth=round(100 / slice_mm)), SPACED)
    coarse, where = coarse_image(prepared, geometry, 2)
    assert coarse.shape == where.prepared_shape
    assert np.allclose(where.spacing_mm, 5, rtol=2e-3)
    distance = np.abs(middle(coarse, where.prepared_affine) - middle(prepared, geometry.prepared_affine))
    assert (distance < 0.2).all(), distance


def test_a_voxel_is_the_mean_of_its_pixels_and_the_same_scan_however_it_was_turned():
    volume = block(2.5)
    prepared, geometry = prepare_image(volume, SPACED)
    coarse, _ = coarse_image(prepared, geometry, 2)
    means = prepared.reshape(len(prepared), coarse.shape[1], 2, coarse.shape[2], 2).mean((2, 4))
    assert np.abs(coarse - (means[0::2] + means[1::2]) / 2).max() <= 1
    turned = Volume(np.ascontiguousarray(volume.voxels[::-1, :, ::-1]), volume.affine @ flips(volume.shape))
    again, _ = coarse_image(*prepare_image(turned, SPACED), 2)
    assert np.array_equal(again, coarse)


def flips(shape):
    change = np.diag([-1.0, 1, -1, 1])
    change[0, 3], change[2, 3] = shape[0] - 1, shape[2] - 1
    return change


def test_labels_lie_on_their_image():
    prepared, geometry = prepare_image(block(), SPACED)
    labels = (prepared > 260).astype(np.uint8)
    case = Case("a__1", "a", "1", prepared, labels, labels == 0, ("liver",), geometry)
    small = coarse_case(case, 2)
    assert small.labels is not None
    assert small.known is not None
    assert small.labels.shape == small.known.shape == small.image.shape == small.geometry.prepared_shape
    places = [
        middle(500 * one.astype(int), where.prepared_affine)
        for one, where in ((small.labels, small.geometry), (labels, geometry))
    ]
    distance = np.abs(places[0] - places[1])
    assert (distance < 2.6).all()
    assert np.array_equal(small.known, small.labels == 0)
    assert small.annotated == ("liver",)


def test_scans_prepared_otherwise_have_no_coarse_voxels():
    _, geometry = prepare_image(block(), ResizedSlices(size=(32, 32)))
    with pytest.raises(SettingError, match="context needs slices of one pixel spacing"):
        coarse_geometry(geometry, 2)


def test_steps_are_exact():
    _, geometry = prepare_image(block(), SPACED)
    coarse = coarse_geometry(geometry, 2)
    assert geometry.step is not None
    assert coarse.step == tuple(Fraction(2) * step for step in geometry.step)
    assert coarse.start == geometry.start
