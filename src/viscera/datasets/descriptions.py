"""The layouts of data sets, a line each: apart from what reads them, so that `viscera info` need not load that."""

LAYOUTS: dict[str, str] = {
    "abdomenct1k": "Image/Case_00001_0000.nii.gz, Mask/Case_00001.nii.gz: liver, kidney, spleen, pancreas",
    "radiotherapy": "ct/59.nii.gz, label/59.nii.gz: 11 organs of abdomen and pelvis",
    "nnunet": "dataset.json with channel_names, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz (nnU-Net v2)",
    "msd": "dataset.json with labels and training, imagesTr/CASE.nii.gz, labelsTr/CASE.nii.gz (Decathlon, nnU-Net v1)",
    "flare": "imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, no dataset.json: 13 organs and tumour",
    "totalsegmentator": "CASE/ct.nii.gz, CASE/segmentations/ORGAN.nii.gz: one binary mask per organ",
    "dicom": "CT series in any nesting; as truth, RTSTRUCT or SEG that refer to them; roi_names.json: {ROI: organ}",
    "images": "CASE.nii.gz or CASE_0000.nii.gz: scans without labels, to segment or for pseudo-labels",
}
"""{layout: what its folder looks like and which organs it holds}."""
