"""DICOM: CT series in; segmentations, structure sets and reports out.

    finding.py     which CT series a folder or a ZIP holds; packed.py unpacks the ZIP, headers.py reads what a file's header says
    assembling.py  images of one series -> a series, or why they are none; geometry.py has their place in the world
    series.py      a series: its slices in order, its place in the world, its voxels in HU
    pixels.py      stored values -> HU; decoding.py decodes compressed ones, inflating.py deflated files
    codes.py       what an organ is called in SNOMED CT, and its colour
    seg.py         label maps as DICOM SEG; seg_frames.py its frames as bytes, check_seg.py whether it reads back
    read_seg.py    SEGs of any program as label maps; read_frames.py their frames
    rtstruct.py    label maps as RTSTRUCT; contours.py draws the contours
    rtstruct_reading.py  RTSTRUCTs of any program as label maps; rtstruct_header.py what they say before their contours
    truth_header.py  which series an RTSTRUCT or SEG was drawn on, and which organs it holds, as the layout dicom asks
    opening.py     what a user names as one scan, or as its labels

All else in viscera knows volumes only. pydicom and what it needs is an extra (viscera[dicom]), imported where a series is read.
"""
