"""MONAI in speed.py: its transforms around ``SliceInferer`` (``sliding_window_inference`` slice by slice), as its bundles do.

Load, orient, resize, window; the network in fp32; logits resized back by ``Invertd``, argmax, save. No smoothing, and orientation
"PLS", so that rows and columns are viscera's and the labels can be compared.
"""

from pathlib import Path
from typing import cast

import torch
from monai.inferers.inferer import SliceInferer
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import ScaleIntensityRanged
from monai.transforms.io.dictionary import LoadImaged, SaveImaged
from monai.transforms.post.dictionary import AsDiscreted, Invertd
from monai.transforms.spatial.dictionary import Orientationd, Resized
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from speed_child import Clock, Order, Segment, measured, plain_network


def load(order: Order, clock: Clock) -> Segment:
    """Build the transforms."""
    network, weights = plain_network(order.run)
    window, size = weights.recipe.intensity, weights.recipe.preparation.size
    reader = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    prepare = Compose(
        [
            Orientationd("image", axcodes="PLS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Resized("image", (*size, -1), mode="trilinear", align_corners=False),
            ScaleIntensityRanged("image", window.low_hu, window.high_hu, 0.0, 1.0, clip=True),
        ]
    )
    decide = Compose(
        [
            Invertd("labels", transform=prepare, orig_keys="image", nearest_interp=False),
            AsDiscreted("labels", argmax=True),
        ]
    )
    inferer = SliceInferer(roi_size=size, spatial_dim=2, sw_batch_size=weights.recipe.inference.batch_size, overlap=0.0)

    clock.wrap(network, "forward", "network")

    @torch.inference_mode()
    def segment(scan: str, out: str) -> None:
        """Segment one scan."""
        with clock.stage("read"):
            case = reader({"image": scan})
        with clock.stage("prepare"):
            case = cast("dict", prepare(case))
        with clock.stage("sliding window"):
            case["labels"] = inferer(case["image"][None], network)[0]
        with clock.stage("labels"):
            case = cast("dict", decide(case))
        with clock.stage("write"):
            writer(Path(out))(case)

    return segment


def writer(out: Path) -> SaveImaged:
    """Give what saves labels under a name."""
    return SaveImaged(
        "labels",
        output_dir=out.parent,
        output_postfix="",
        output_dtype="uint8",
        separate_folder=False,
        resample=False,
        print_log=False,
        output_name_formatter=lambda _meta, _saver: {"subject": out.name.removesuffix(".nii.gz"), "idx": None},
    )


if __name__ == "__main__":
    measured(load)
