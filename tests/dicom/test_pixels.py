"""Stored values into HU: every transfer syntax, sign, number of bits, rescale and padding; and what is refused."""

import subprocess
import sys

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_series import ball, write_series
from viscera.dicom import decoding, inflating
from viscera.dicom.finding import find_series
from viscera.dicom.pixels import Pixels, to_hu
from viscera.errors import FileError, SettingError

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
LOSSLESS = (JPEG2000Lossless, JPEGLSLossless, RLELossless, JPEGLossless, JPEGLosslessSV1)
SMALL = ball((3, 40, 36))


def series_of(folder):
    found = find_series(folder)
    assert not found.problems
    return found.series[0]


def problem(folder, **arguments):
    write_series(folder, SMALL, **arguments)
    found = find_series(folder)
    assert not found.series
    [error] = found.problems.values()
    assert isinstance(error, FileError)
    return str(error)


def stored(bits, *, signed, allocated=16):
    """Return an edit that stores values in so many bits."""

    def edit(dataset, _):
        values = np.frombuffer(dataset.PixelData, "<i2").astype(int)
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
        dataset.PixelRepresentation = int(signed)
        dataset.PixelData = (values & ((1 << bits) - 1)).astype(f"<u{allocated // 8}").tobytes()

    return edit


def test_every_transfer_syntax_gives_the_same_hu_even_in_one_series(tmp_path):
    kinds = [
        (syntax, *how)
        for syntax in (*NATIVE, *LOSSLESS)
        for how in ((12, False, -1024), (16, False, -1024), (16, True, 0))
    ]
    hu = ball((len(kinds), 40, 36))
    for index, (syntax, bits, signed, intercept) in enumerate(kinds):
        write_series(
            tmp_path,
            hu[index : index + 1],
            origin=(0.0, 0.0, 2.5 * index),
            intercept=intercept,
            edit=stored(bits, signed=signed),
            syntax=syntax,
            name=lambda _, index=index: f"{index:02d}",
            uids=("1.2.3", "1.2.4", "1.2.5"),
        )
        assert pydicom.dcmread(tmp_path / f"{index:02d}").file_meta.TransferSyntaxUID == syntax
    voxels = series_of(tmp_path).read().voxels
    assert voxels.dtype == np.int16
    assert [kind for kind, ours, truth in zip(kinds, voxels, hu, strict=True) if (ours != truth).any()] == []


@pytest.mark.parametrize(
    ("bits", "intercept", "allocated"),
    [(8, -100, 8), (8, 0, 16), (12, 0, 16), (13, 0, 32), (16, 0, 16), (16, -7, 32)],
)
@pytest.mark.parametrize("signed", [False, True])
def test_every_number_of_bits_and_both_signs_are_read(tmp_path, bits, intercept, allocated, signed):
    lowest = -(1 << (bits - 1)) if signed else 0
    values = np.linspace(lowest, lowest + (1 << bits) - 1, SMALL.size).astype(int).reshape(SMALL.shape)

    def edit(dataset, index):
        stored(bits, signed=signed, allocated=allocated)(dataset, index)
        packed = values[index] & ((1 << bits) - 1)
        dataset.PixelData = packed.astype(f"<u{allocated // 8}").tobytes()

    write_series(tmp_path, SMALL, intercept=intercept, edit=edit)
    voxels = series_of(tmp_path).read().voxels
    assert (voxels == values + intercept).all()
    fits = (values + intercept).min() >= -(2**15) and (values + intercept).max() < 2**15
    assert voxels.dtype == (np.int16 if fits else np.float32)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_that_are_not_of_the_value_are_dropped_and_the_sign_is_extended(tmp_path, signed):
    intercept = 0 if signed else -1024

    def edit(dataset, _):
        values = np.frombuffer(dataset.PixelData, "<i2").astype(int) & 0xFFF
        noise = np.random.default_rng(3).integers(0, 16, values.shape)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, int(signed)
        dataset.PixelData = (values | noise << 12).astype("<u2").tobytes()

    write_series(tmp_path, SMALL, intercept=intercept, edit=edit)
    assert (series_of(tmp_path).read().voxels == SMALL).all()


def test_values_may_lie_in_the_upper_bits(tmp_path):
    def edit(dataset, _):
        values = np.frombuffer(dataset.PixelData, "<i2").astype(int) & 0xFFF
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 15, 0
        dataset.PixelData = (values << 4 | 5).astype("<u2").tobytes()

    write_series(tmp_path, SMALL, edit=edit)
    assert (series_of(tmp_path).read().voxels == SMALL).all()


def test_each_slice_has_its_own_slope_and_intercept_and_fractions_become_float32(tmp_path):
    raw = np.arange(SMALL.size, dtype=np.int16).reshape(SMALL.shape)
    slopes, intercepts = (1.0, 0.5, 2.0), (-1024.0, 0.25, 3.0)

    def edit(dataset, index):
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slopes[index]}", f"{intercepts[index]}"
        dataset.PixelData = raw[index].tobytes()

    write_series(tmp_path, SMALL, edit=edit)
    voxels = series_of(tmp_path).read().voxels
    assert voxels.dtype == np.float32
    for plane, values, slope, intercept in zip(voxels, raw, slopes, intercepts, strict=True):
        assert (plane == (values * slope + intercept).astype(np.float32)).all()


def test_whole_hu_are_int16_even_if_the_slope_is_a_fraction(tmp_path):
    write_series(tmp_path, SMALL - SMALL % 2, slope=0.5, intercept=-1000.0)
    voxels = series_of(tmp_path).read().voxels
    assert voxels.dtype == np.int16
    assert (voxels == SMALL - SMALL % 2).all()


def test_monochrome1_is_for_showing_and_turns_no_hu_round(tmp_path):
    write_series(tmp_path, SMALL, edit=lambda d, i: setattr(d, "PhotometricInterpretation", "MONOCHROME1"))
    series = series_of(tmp_path)
    assert (series.read().voxels == SMALL).all()
    assert "MONOCHROME1" in series.notes[0]


def padded(value, *, limit=None, vr="SS", where=(0, slice(0, 4)), bits=16, signed=True, word=None):
    """Return an edit that pads a corner of every slice."""

    def edit(dataset, index):
        stored(bits, signed=signed)(dataset, index)
        plane = np.frombuffer(dataset.PixelData, "<u2").reshape(SMALL.shape[1:]).copy()
        plane[where] = (value if word is None else word) & 0xFFFF
        dataset.PixelData = plane.tobytes()
        dataset.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", vr, limit)

    return edit


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=["native", "compressed"])
@pytest.mark.parametrize(
    "edit",
    [
        padded(-2000),
        padded(32767),
        padded(-3000, limit=-2000, word=-2500),
        padded(-2000, limit=-3000, word=-2500),
        padded(63536, vr="US", bits=12, signed=False),  # as GE does: 16 bits of padding among values of 12
        padded(63536, vr="US"),  # unsigned by its VR, signed by the pixels: -2000
    ],
    ids=["low", "high", "range", "range backwards", "beyond the bits stored", "other sign"],
)
def test_padding_is_read_as_air(tmp_path, edit, syntax):
    write_series(tmp_path, SMALL, edit=edit, syntax=syntax)
    series = series_of(tmp_path)
    voxels = series.read().voxels
    assert (voxels[:, 0, :4] == -1024).all()
    expected = SMALL.copy()
    expected[:, 0, :4] = -1024
    assert (voxels == expected).all()
    assert voxels.dtype == np.int16
    assert "padding" in series.notes[0]


def test_padding_with_a_value_of_tissue_changes_no_voxel_and_is_noted(tmp_path):
    # Stored 1024 is water; a voxel of water in the body is not padding.
    write_series(tmp_path, SMALL, edit=padded(1024))
    series = series_of(tmp_path)
    assert (series.read().voxels[:, 5:] == SMALL[:, 5:]).all()
    assert (series.read().voxels[:, 0, :4] == 0).all()
    assert "one of tissue, too" in series.notes[0]


def test_padding_that_is_air_needs_no_note(tmp_path):
    write_series(tmp_path, SMALL, edit=padded(0, vr="US", bits=12, signed=False))
    series = series_of(tmp_path)
    assert (series.read().voxels[:, 0, :4] == -1024).all()
    assert series.notes == ()


def test_lossy_jpeg_of_8_and_12_bits_is_read(tmp_path):
    import imagecodecs
    from pydicom.encaps import encapsulate

    y, x = np.indices((24, 32))
    for syntax, bits in ((JPEGBaseline8Bit, 8), (JPEGExtended12Bit, 12)):
        smooth = ((y + x) * (2**bits - 1) / 54).astype(np.uint8 if bits == 8 else np.uint16)

        def edit(dataset, _, syntax=syntax, bits=bits, smooth=smooth):
            dataset.BitsAllocated = 8 if bits == 8 else 16
            dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
            packed = imagecodecs.jpeg8_encode(smooth, level=98, bitspersample=bits)
            dataset.PixelData = encapsulate([packed])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
            dataset.file_meta.TransferSyntaxUID = syntax

        folder = tmp_path / syntax.keyword
        write_series(folder, np.zeros((2, 24, 32), np.int16), edit=edit)
        for file in folder.iterdir():
            dataset = pydicom.dcmread(file)
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.save_as(file)
        voxels = series_of(folder).read().voxels
        assert np.abs(voxels + 1024 - smooth.astype(int)).max() <= 2 ** (bits - 7)


def test_no_other_decoder_is_asked_even_if_it_is_installed(tmp_path, monkeypatch):
    """GDCM and pylibjpeg-libjpeg would be first and second of pydicom's choice."""
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder
    from pydicom.pixels.decoders.base import get_decoder

    assert set(decoding.PLUGIN_OF.values()) == {"pylibjpeg", "pyjpegls"}
    for syntax in decoding.JPEG:  # which pylibjpeg would decode by libjpeg
        assert syntax not in decoding.PLUGIN_OF
    write_series(tmp_path, SMALL[:1], syntax=JPEG2000Lossless)
    dataset = pydicom.dcmread(tmp_path / "IM0000")

    def trap(source, runner):
        raise KeyboardInterrupt

    available = {"gdcm": trap, **JPEG2000LosslessDecoder._available}
    monkeypatch.setattr(get_decoder(JPEG2000Lossless), "_available", available)
    with pytest.raises(KeyboardInterrupt):
        dataset.pixel_array  # noqa: B018
    assert (decoding._decode(dataset, 0) - 1024 == SMALL[0]).all()


def test_a_missing_decoder_says_what_to_install(tmp_path, monkeypatch):
    write_series(tmp_path, SMALL, syntax=JPEG2000Lossless)
    series = series_of(tmp_path)
    monkeypatch.setattr(decoding, "START", "import sys; sys.modules['pydicom'] = None; " + decoding.START)
    with pytest.raises(SettingError, match=r"pip install 'viscera\[dicom\]'"):
        series.read()


def test_without_pydicom_it_says_what_to_install():
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from pathlib import Path\nfrom viscera.dicom.finding import find_series\n"
        "try: find_series(Path('.'))\nexcept Exception as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'viscera[dicom]'" in said


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_compressed_pixels_that_end_early_are_not_filled_up(tmp_path, syntax):
    files = write_series(tmp_path, SMALL, syntax=syntax)
    content, dataset = files[0].read_bytes(), pydicom.dcmread(files[0])
    files[0].write_bytes(content[:-40])
    files[1].write_bytes(content[: len(content) - len(dataset.PixelData) // 2])
    packed = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([packed[: len(packed) // 2]])
    dataset.save_as(files[2])
    for (
        file
    ) in files:  # in this process: warnings are errors here, and pydicom's of an early end is one in the other, too
        with pytest.raises((*decoding.PARSING, UserWarning)):
            decoding._decode(pydicom.dcmread(file), 0)


def test_a_compressed_image_that_is_damaged_is_named(tmp_path):
    files = write_series(tmp_path, SMALL, syntax=JPEG2000Lossless)
    dataset = pydicom.dcmread(files[1])
    packed = bytearray(pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1))
    packed[20:-2] = np.random.default_rng(1).bytes(len(packed) - 22)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(packed)])
    dataset.save_as(files[1])
    series = series_of(tmp_path)
    with pytest.raises(FileError, match=r"IM0001: its pixel data cannot be decoded"):
        series.read()


def test_a_compressed_image_of_another_size_than_its_header_says_is_refused(tmp_path):
    files = write_series(tmp_path, SMALL, syntax=JPEGLossless)
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows
        dataset.save_as(file)
    with pytest.raises(FileError, match=r"IM0000: its pixel data cannot be decoded"):
        series_of(tmp_path).read()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"RescaleSlope": None}, "no rescale slope"),
        ({"RescaleIntercept": None}, "no rescale slope"),
        ({"RescaleSlope": "0"}, "slope that is not positive"),
        ({"RescaleSlope": "-1"}, "slope that is not positive"),
        ({"RescaleType": "Z_EFF"}, "another unit"),
        ({"RescaleType": "HU_MOD"}, "another unit"),
        ({"SamplesPerPixel": 3}, "not an image in grey levels"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not an image in grey levels"),
        ({"BitsAllocated": 12}, "not integers of 8, 16 or 32 bits"),
        ({"BitsAllocated": 64}, "not integers of 8, 16 or 32 bits"),
        ({"BitsStored": 17}, "not integers of 8, 16 or 32 bits"),
        ({"BitsStored": 0}, "not integers of 8, 16 or 32 bits"),
        ({"HighBit": 16}, "not integers of 8, 16 or 32 bits"),
        ({"PixelRepresentation": 2}, "not integers of 8, 16 or 32 bits"),
        ({"PixelRepresentation": None}, "not integers of 8, 16 or 32 bits"),
        ({"Rows": 41}, "size that its header says|end early"),
        ({"Rows": 39}, "size that its header says"),
        ({"Rows": 0}, "rows and columns are not between"),
        ({"Columns": 65535}, "rows and columns are not between"),
        ({"NumberOfFrames": "2"}, "several frames"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_pixels_that_cannot_be_trusted_are_a_problem_of_the_series(tmp_path, values, said):
    import re

    def edit(dataset, index):
        for keyword, value in values.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)

    text = problem(tmp_path, edit=edit)
    assert re.search(said, text)
    assert "and 2 more of the 3 images" in text


def test_unspecified_units_are_taken_for_hu(tmp_path):
    for value in (None, "", "US", "HU", "hu"):

        def edit(dataset, index, value=value):
            del dataset.RescaleType
            if value is not None:
                dataset.add_new("RescaleType", "LO", value)

        write_series(tmp_path / f"{value}", SMALL, edit=edit)
        assert (series_of(tmp_path / f"{value}").read().voxels == SMALL).all()


def test_float_pixels_and_unknown_transfer_syntaxes_are_a_problem(tmp_path):
    def floats(dataset, _):
        dataset.FloatPixelData = np.zeros(SMALL.shape[1:], "<f4").tobytes()
        del dataset.PixelData

    assert "floating-point" in problem(tmp_path / "float", edit=floats)
    files = write_series(tmp_path / "video", SMALL)
    for file in files:  # MPEG2: a UID of the same length
        text = file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0", 1)
        file.write_bytes(text)
    assert "transfer syntax is not supported" in str(find_series(tmp_path / "video").problems["video"])


@pytest.mark.parametrize("count", [1, 2, 400, 960])
def test_truncated_pixels_are_a_problem(tmp_path, count):
    files = write_series(tmp_path / "x", SMALL)
    files[2].write_bytes(files[2].read_bytes()[:-count])
    assert "IM0002: its pixel data end early" in str(find_series(tmp_path / "x").problems["x"])


def test_deflated_bombs_and_damage_are_left_out(tmp_path, monkeypatch):
    files = write_series(tmp_path, SMALL, syntax=DeflatedExplicitVRLittleEndian)
    files[0].write_bytes(files[0].read_bytes()[:-30])
    files[1].write_bytes(files[1].read_bytes()[:500] + b"x" * 500)
    monkeypatch.setattr(inflating, "MOST_BYTES", 1000)
    with pytest.raises(FileError) as error:
        find_series(tmp_path)
    assert "damaged 3" in str(error.value)


def test_hu_beyond_int16_become_float32_and_none_wraps_round():
    for dtype, values in (("<u2", [0, 65535]), ("<i2", [-32768, 32767]), ("<u4", [0, 2**32 - 1])):
        bits = 8 * np.dtype(dtype).itemsize
        raw = np.array([values], dtype)
        for slope, intercept in ((1.0, -1024.0), (3.0, 40000.0), (1.0, -1024.5), (40000.0, 0.0)):
            hu = to_hu(raw, Pixels(0, False, dtype, (0, bits), slope, intercept))
            assert hu == pytest.approx(raw.astype(float) * slope + intercept, rel=1e-6)
            assert hu.dtype == np.float32
