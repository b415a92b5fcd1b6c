"""What the verbs that make synthetic patients share: reading the label maps that these are made from, or get organs of."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from viscera.cli.console import say
from viscera.errors import SettingError
from viscera.io.extras import require_train

if TYPE_CHECKING:
    from viscera.synthesis.grafting import Donor
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


def read_donors(
    labels: Sequence[Path], templates: "Sequence[Template]" = (), *, prefix: str = "--"
) -> "tuple[Donor, ...]":
    """Read the label maps whose organs others may get, and say which are left out.

    Args:
        labels: The label maps; a JSON beside each names its values.
        templates: Those that give their organs to each other, if they are several.
        prefix: What the verb's options begin with, for messages.

    Raises:
        SettingError: SciPy is not installed.
        VisceraError: A file is not a donor.
    """
    mixed = templates if len(templates) > 1 else ()
    if not labels and not mixed:
        return ()
    require_train(f"{prefix}donor", "scipy")
    from viscera.io import nifti
    from viscera.io.label_names import label_names
    from viscera.synthesis.template.donors import donor_of, read_donor

    found = []
    for path in labels:
        donor = read_donor(nifti.read(path), label_names(path).labels, where=path.name)
        for note in donor.notes:
            say(f"note: {path.name}: {note}")
        say(f"note: {path.name} gives {', '.join(name for graft in donor.grafts.values() for name in graft.names)}")
        found.append(donor)
    given = [donor_of(template) for template in mixed]
    return (*found, *(donor for donor in given if donor.grafts))
