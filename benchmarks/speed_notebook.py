"""The notebook's way in speed.py: nibabel, scipy's zoom, one slice at a time through torch in fp32, labels enlarged by nearest.

What zhang2d's own prediction does in spirit, and many a notebook to the letter. scipy's zoom aligns the corners of the slices, not
of the pixels, so the labels are not those of viscera, MONAI or nnU-Net.
"""

import nibabel
import numpy as np
import torch
from scipy.ndimage import zoom

from speed_child import Clock, Order, Segment, measured, plain_network


def load(order: Order, clock: Clock) -> Segment:
    """Build the network."""
    network, weights = plain_network(order.run)
    window, size = weights.recipe.intensity, weights.recipe.preparation.size

    @torch.inference_mode()
    def segment(path: str, out: str) -> None:
        """Segment one scan."""
        with clock.stage("read"):
            scan = nibabel.load(path)
            voxels = scan.get_fdata()  # type: ignore[attr-defined]
        labels = np.zeros(voxels.shape, np.uint8)
        for z in range(voxels.shape[2]):
            with clock.stage("prepare"):
                image = voxels[:, :, z].T
                factors = [new / old for new, old in zip(size, image.shape, strict=True)]
                small = np.asarray(zoom(image, factors, order=1)).clip(window.low_hu, window.high_hu)
                small = (small - window.low_hu) / (window.high_hu - window.low_hu)
                batch = torch.from_numpy(small[None, None]).float()
            with clock.stage("network"):
                logits = network(batch)
            with clock.stage("labels"):
                found = logits.argmax(1)[0].numpy().astype(np.uint8)
                back = [new / old for new, old in zip(image.shape, size, strict=True)]
                labels[:, :, z] = zoom(found, back, order=0).T
        with clock.stage("write"):
            nibabel.save(nibabel.Nifti1Image(labels, scan.affine), out)  # type: ignore[attr-defined]

    return segment


if __name__ == "__main__":
    measured(load)
