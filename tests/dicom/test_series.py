import numpy as np
import pytest

from dicom_series import affine_of, ball, write_series
from viscera.dicom.finding import find_series


def test_a_series_is_the_volume_that_was_written(tmp_path):
    write_series(tmp_path / "series")
    [series] = find_series(tmp_path / "series").series
    volume = series.read()
    assert volume.voxels.dtype == np.int16
    assert (volume.voxels == ball()).all()
    assert volume.affine == pytest.approx(affine_of())
    assert (series.name, series.shape) == ("series", ball().shape)
