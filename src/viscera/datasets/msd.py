"""The layout of the Medical Segmentation Decathlon (and nnU-Net v1): dataset.json lists imagesTr/X and labelsTr/X.

Source: Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9; Simpson et al. 2019, arXiv:1902.09063.
"""

from collections.abc import Mapping
from pathlib import Path

from viscera.datasets.sources import (
    Found,
    file_within,
    files_by_case,
    missing_files,
    named_organs,
    pair_files,
    read_json,
    require_case_name,
    section,
)
from viscera.errors import DataSetError
from viscera.io import nifti
from viscera.io.atomic import write_json

CASE_NAME = "case_{:03d}"
LABEL_NAMES = {"colon cancer primaries": "colon_tumour"}
"""Task10 names its only label so."""


def find(folder: Path) -> Found | None:
    """Find the cases, or None where there is no dataset.json in the form of the decathlon.

    Raises:
        DataSetError: dataset.json describes something else than one channel of CT, or lists cases in another form.
    """
    path = folder / "dataset.json"
    if not path.is_file() or "channel_names" in (content := read_json(path)) or "labels" not in content:
        return None
    modality = section(content, "modality", path=path) if "modality" in content else {"0": "CT"}
    if len(modality) != 1 or "CT" not in str(next(iter(modality.values()))).upper():
        text = ", ".join(str(name) for name in modality.values())
        raise DataSetError(
            f"{path}: the modality is {text or 'empty'}; viscera reads CT alone", "Choose another data set.", file=path
        )
    organs = read_organs(path, content)
    listed = content.get("training") or []
    if not isinstance(listed, list):
        raise DataSetError(
            f'{path}: \'training\' must be a list of {{"image", "label"}}', "Correct the file.", file=path
        )
    if not listed:
        images, labels = files_by_case(folder / "imagesTr", suffix="_0000"), files_by_case(folder / "labelsTr")
        return pair_files(folder, images, labels, organs=organs)
    images, labels, problems = {}, {}, []
    for entry in listed:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise DataSetError(
                f'{path}: each of \'training\' needs "image" and "label", got {entry!r}', "Correct it.", file=path
            )
        pair = [file_within(folder, entry[key], where=path) for key in ("image", "label")]
        name = nifti.stem(pair[1])
        require_case_name(name, where=path)
        if problem := missing_files(name, pair, folder=folder):
            problems.append(problem)
        else:
            images.setdefault(name, []).append(pair[0])
            labels.setdefault(name, []).append(pair[1])
    sources, more = pair_files(folder, images, labels, organs=organs)
    return sources, problems + more


def read_organs(path: Path, content: Mapping[str, object]) -> dict[int, str]:
    """Return {label value: organ} from the content of dataset.json at ``path``.

    Raises:
        DataSetError: A key is not a number, or a value no name.
    """
    organs = {}
    for key, name in section(content, "labels", path=path).items():
        if not key.isdecimal() or not isinstance(name, str):
            raise DataSetError(
                f'{path}: labels must be {{"1": "spleen"}}, got {{{key!r}: {name!r}}}',
                "If this is nnU-Net v2's form, add channel_names and use layout 'nnunet'.",
                file=path,
            )
        if int(key):
            organs[int(key)] = LABEL_NAMES.get(name.strip().lower(), name)
    if not organs:
        raise DataSetError(
            f"{path}: 'labels' names no organ", 'List them as {"0": "background", "1": "liver"}.', file=path
        )
    return named_organs(organs)


def register(folder: Path, *, organs: Mapping[int, str], case: str) -> None:
    """Write dataset.json with one more case, or bring it up to date."""
    path = folder / "dataset.json"
    content = read_json(path) if path.exists() else {}
    kept = section(content, "labels", path=path) if content else {"0": "background"}
    added = {str(value): organ for value, organ in organs.items() if str(value) not in kept}
    entry = {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
    listed = content.get("training")
    training = listed if isinstance(listed, list) else []
    training = training if entry in training else [*training, entry]
    own = {"name": folder.name, "modality": {"0": "CT"}, "numTest": 0, "test": []}
    write_json(path, own | content | {"labels": kept | added, "numTraining": len(training), "training": training})
