"""Bad inputs of studies, contrast and the viewer."""

import numpy as np

from bad_inputs.files import BadInput, copies, hu, nifti, organs

STUDY = "study recipe.json store new"


def four_dimensional() -> None:
    """Write a scan with two points in time."""
    nifti("moving.nii.gz", np.stack([hu(), hu(1)], axis=-1))


def labelled(name: str, voxels: np.ndarray) -> None:
    """Write a label map with its names."""
    nifti(f"{name}.nii.gz", voxels)
    copies("names.json", f"{name}.json")


STUDIES = [
    BadInput("study without a grid", STUDY, r"has no grid of its own. Say what to vary, .*upv, upv-full"),
    BadInput(
        "grid without values", f"{STUDY} --grid loss.alpha=", r"a value is missing. For example: --grid loss.alpha"
    ),
    BadInput("grid of a misspelt setting", f"{STUDY} --grid training.sed=0,1", r"no setting 'training.sed'"),
    BadInput(
        "grid with a value out of range", f"{STUDY} --grid training.batch_size=0,8", r"training.batch_size.*got 0"
    ),
    BadInput("grid with a value twice", f"{STUDY} --grid training.seed=1,1", r"1 is said twice. Leave one out"),
    BadInput("misspelt contrast", "train recipe.json store new --contrast.method klahe", r"'klahe'.*clahe"),
    BadInput(
        "empty window of contrast",
        "train recipe.json store new --contrast.low-hu 300",
        r"contrast: low_hu 300 must be below high_hu 240",
    ),
    BadInput(
        "study of networks that cannot halve the slices",
        f"{STUDY} --grid network.kind=upv --jobs 1",
        r"failed: SettingError: .*multiples of 32, got 16x16",
        survives="new/study.json",
    ),
]

LOOKS = [
    BadInput(
        "page of a scan with four dimensions", "view moving.nii.gz truth.nii.gz", r"moving.nii.gz", four_dimensional
    ),
    BadInput(
        "page of labels on another grid",
        "view scan.nii.gz cropped.nii.gz --html page.html",
        r"cropped.nii.gz.*another grid",
        lambda: labelled("cropped", organs()[:, :, :7]),
    ),
    BadInput(
        "page of an empty prediction",
        "view scan.nii.gz empty.nii.gz --html page.html",
        r"No organ found",
        lambda: labelled("empty", np.zeros_like(organs())),
        exit_code=0,
        survives="page.html",
    ),
    BadInput(
        "page of labels without names",
        "view scan.nii.gz nameless.nii.gz --html page.html",
        r"4 labels without a name",
        lambda: nifti("nameless.nii.gz", organs()),
        exit_code=0,
        survives="page.html",
    ),
    BadInput(
        "a page and a picture at once", "view scan.nii.gz truth.nii.gz --html a.html --png a.png", r"exclude each other"
    ),
    BadInput("a page that is no .html", "view scan.nii.gz truth.nii.gz --html a.txt", r"must end in .html"),
]
