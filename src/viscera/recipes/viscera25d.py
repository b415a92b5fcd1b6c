"""viscera25d: a network of slices that knows where it is, since a small 3D one has seen the whole patient before.

viscera2d's preparation, losses, sampling and augmentation. What differs:

- context: a small 3D U-Net looks at the whole scan in voxels of twice the pixel, once; its probabilities of the organs are further
  channels of the network of slices, and say which slices, rows and columns this needs to look at. A cascade, as nnU-Net's (Isensee
  et al. 2021, doi:10.1038/s41592-020-01008-z), whose fine half is a 2D network.
- the first level has half the rows and columns (space to depth), since the context and 2.5 mm pixels leave little for the finest
  level: a fifth of viscera2d's work.

Two arms show what each half is worth: viscera25d-2d has no context, viscera25d-3d is the context network alone.
"""

from dataclasses import replace

from viscera.config import Context, Recipe, SpacedVolumes, UNetShape, WindowInference
from viscera.recipes.viscera2d import VISCERA2D

VISCERA25D = replace(
    VISCERA2D,
    name="viscera25d",
    about="ours: a 3D network sees the patient in 5 mm voxels, a 2.5D one with half-size first level draws the edges",
    network=UNetShape(widths=(32, 64, 128, 256), slices=3, stem=2),
    context=Context(),
)
"""1.9 M parameters and 1.4 M of the context."""

VISCERA25D_2D = replace(
    VISCERA25D, name="viscera25d-2d", about="viscera25d without context, to compare with", context=None
)


def alone(recipe: Recipe) -> Recipe:
    """Return the context network of a recipe as a recipe of its own, on a store in its voxels.

    Args:
        recipe: One with context, and slices of one pixel spacing.

    Raises:
        SettingError: It has no context.
    """
    context = recipe.required_context
    voxel_mm = context.pixels * recipe.preparation.pixel_mm[0]  # type: ignore[index]
    return replace(
        recipe,
        preparation=SpacedVolumes(spacing_mm=(voxel_mm, voxel_mm, voxel_mm), margin_mm=recipe.preparation.margin_mm),  # type: ignore[union-attr]
        network=context.network,
        context=None,
        loss=context.loss,
        sampling=context.sampling,
        augmentation=context.augmentation,
        training=context.training,
        inference=WindowInference(region="whole"),
    )


VISCERA25D_3D = replace(
    alone(VISCERA25D), name="viscera25d-3d", about="viscera25d's context network alone, in 5 mm voxels, to compare with"
)
