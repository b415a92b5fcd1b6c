"""Headers that say MARKER wherever DICOM lets them, to see how much of it comes out again."""

import re

import numpy as np
import pydicom
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

TEXT = "MARKER"
NUMBER = 47114711
"""Where numbers are expected; written out, or in two bytes."""
UID = "1.2.826.0.4711.4711"
OF_VR = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"), TEXT),
    **dict.fromkeys(("OB", "UN", "OW", "OV", "OD", "OF", "OL"), b"MARKERMARKERMARKERMARKER"),
    "AS": "471Y",
    "DA": "19471104",
    "TM": "044711.471147",
    "DT": "19471104044711",
    "UI": UID,
    "DS": "47114711",
    "IS": str(NUMBER),
    "FL": NUMBER,
    "FD": NUMBER,
    "SL": NUMBER,
    "UL": NUMBER,
    "SV": NUMBER,
    "UV": NUMBER,
    "SS": 4711,
    "US": 4711,
    "AT": 0x47114711,
}
IN_BYTES = [re.escape(np.array(NUMBER, kind).tobytes()) for kind in ("<f4", "<f8", "<i4", "<i8")]
MARKS = re.compile(b"|".join((rb"MARKER|4711[.]?4711|19471104|471Y", *IN_BYTES)))
"""What is looked for in bytes: long enough not to turn up in new UIDs and times by chance."""
GEOMETRY = {
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"),
    *("SliceThickness", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("FrameOfReferenceUID", "PhotometricInterpretation", "NumberOfFrames", "SpecificCharacterSet", "PixelData"),
    *("PlanarConfiguration", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "InstanceNumber", "PatientPosition"),
    *("SpacingBetweenSlices", "LossyImageCompressionRatio", "InStackPositionNumber", "DimensionIndexValues"),
    *("DimensionIndexPointer", "FunctionalGroupPointer", "ImageType", "RescaleType", "LossyImageCompression"),
    *("FloatPixelData", "DoubleFloatPixelData", "LossyImageCompressionMethod", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "GantryDetectorTilt"),
}
"""What stays as it is, so that the images can still be read."""


def mark(dataset: Dataset, *, nested: bool = True) -> None:
    """Put a mark in every attribute of DICOM's dictionary but those of the geometry, private ones and nested ones.

    Words of the geometry get a mark beside what they say; those that an image can do without hold nothing else.
    """
    for number, (vr, _, _, _, keyword) in DicomDictionary.items():
        tag = Tag(number)
        first = vr.split(" or ")[0]
        if tag.group < 0x0008 or tag.group in (0x7FE0, 0xFFFA, 0xFFFC, 0xFFFE) or keyword in GEOMETRY or not keyword:
            continue
        if first == "SQ" and nested:
            item = Dataset()
            for child in (
                "PatientName",
                "TextValue",
                "InstitutionName",
                "StudyDate",
                "ReferencedSOPInstanceUID",
                "LensMake",
            ):
                item.add(_marked(Tag(child)))
            item.private_block(0x0011, TEXT, create=True).add_new(1, "LO", TEXT)
            dataset.add(DataElement(tag, "SQ", [item]))
        elif first in OF_VR:
            dataset.add(_marked(tag))
    block = dataset.private_block(0x0011, TEXT, create=True)
    for place, (vr, value) in enumerate(OF_VR.items(), start=1):
        block.add_new(place, vr, value)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", TEXT]
    # as a file may hold it, though no writer would let it pass
    dataset[Tag("LossyImageCompressionRatio")] = RawDataElement(
        Tag("LossyImageCompressionRatio"), "DS", 6, TEXT.encode(), 0, False, True
    )


def _marked(tag: Tag) -> DataElement:
    vr = pydicom.datadict.dictionary_VR(tag).split(" or ")[0]
    value = UID + ".1" if keyword_for_tag(tag) == "ReferencedSOPInstanceUID" else OF_VR[vr]
    return DataElement(tag, vr, value, validation_mode=IGNORE)


def marks_in(content: bytes) -> list[bytes]:
    """Return the marks that bytes hold."""
    return MARKS.findall(content)
