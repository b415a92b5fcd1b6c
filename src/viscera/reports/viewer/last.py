"""The viewer's page of a result that is kept small: of the server's last one, and of the node's."""

from collections.abc import Mapping

from viscera.reports.viewer.page import embed
from viscera.reports.viewer.scene import label_scene
from viscera.volume import Volume

NOTE = "Every n-th voxel only: at most 256 voxels along each axis."


def last_page(ct: Volume, labels: Volume, names: Mapping[int, str]) -> str:
    """Return the page.

    Args:
        ct: HU, few enough voxels to embed.
        labels: On its grid.
        names: {label: organ}.
    """
    return embed(
        label_scene(ct, labels, names=names, title="Last result", notes=(NOTE,)), name="the page of the last result"
    )
