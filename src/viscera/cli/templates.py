"""What the verbs that make synthetic patients share: reading the label maps that these are made from."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import say
from viscera.errors import SettingError
from viscera.io.extras import require_train

if TYPE_CHECKING:
    from viscera.synthesis.template.template import Template


def read_templates(
    labels: Sequence[Path], images: Sequence[Path], *, ignore: Sequence[str] = (), prefix: str = "--"
) -> "tuple[Template, ...]":
    """Read the label maps that patients are to be made from, and say what was made up.

    Args:
        labels: The label maps; a JSON beside each names its values.
        images: Their scans, or nothing.
        ignore: Names in them to be left out.
        prefix: What the verb's options begin with, for messages.

    Raises:
        SettingError: Not as many scans as label maps, or SciPy is not installed.
        VisceraError: A file is not a template.
    """
    if labels:
        require_train(f"{prefix}template", "scipy")
    from viscera.io import nifti
    from viscera.io.label_names import label_names
    from viscera.synthesis.template.template import read_template

    if images and len(images) != len(labels):
        raise SettingError(
            f"{prefix}template-image names {len(images)} scans, {prefix}template {len(labels)} label maps",
            "Give one scan for each label map, or none.",
        )
    found = []
    for path, image in zip_longest(labels, images):
        template = read_template(
            nifti.read(path),
            label_names(path).labels,
            image=nifti.read(image) if image else None,
            ignore=ignore,
            where=path.name,
        )
        for note in template.notes:
            say(f"note: {path.name}: {note}")
        found.append(template)
    return tuple(found)
