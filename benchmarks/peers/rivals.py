"""Who segments in speed.py: viscera, MONAI, the notebook's way, nnU-Net; each ``load_NAME`` in a process of its own.

    python -m benchmarks.peers.rivals NAME ORDER         (said by child.py only)
    python -m benchmarks.peers.rivals train WORK --python NNUNET/bin/python      (trainings side by side: see nnunet.py)

Libraries are imported where they are used: each rival's start-up is its own, and nnU-Net's Python needs nothing of the others.
"""

import contextlib
import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.peers.child import Clock, Order, Segment, measured, plain_network

if TYPE_CHECKING:
    from viscera.config import Recipe


def load_viscera(order: Order, clock: Clock) -> Segment:
    """Load viscera's ``predict_file``.

    ``how`` names the runtime; "exact": fp32 on torch; "every_slice": none is skipped; "weights": others.
    """
    from viscera.cli.startup import kept_graphs, starting
    from viscera.deployment.flops import NotedRunner
    from viscera.inference.jobs import ScanJob
    from viscera.inference.model import load_model
    from viscera.inference.predict import predict_file
    from viscera.networks.torch_runner import TorchRunner

    how = order.how
    exact, weights = "exact" in how, Path(how.get("weights", order.run))
    with starting():
        model = load_model(
            weights,
            accelerator="cpu",
            runtime=None if exact else how["runtime"],  # type: ignore[arg-type]
            graphs=kept_graphs(),
        )
    if exact:
        model = replace(model, network=TorchRunner(model.module))
    if "every_slice" in how:
        inference = replace(model.recipe.inference, look_mm=0.0, step_mm=0.0)
        model = replace(model, recipe=replace(model.recipe, inference=inference))

    def segment(scan: str, out: str) -> dict[str, object]:
        """Segment; calls that run at once share the cores, so the network's time is the sum of them over their number."""
        noted = NotedRunner(model.network)
        facts = predict_file(ScanJob(Path(scan), Path(out)), replace(model, network=noted))["run"]
        clock.seconds.update(facts["seconds"])  # type: ignore[index]
        return {
            "network_s": round(noted.calls.seconds / model.network.streams, 3),
            "slices_seen": sum(shape[0] * times for shape, times in noted.calls.shapes.items()),
            "runtime": facts["runtime"],  # type: ignore[index]
            "precision": facts["precision"],  # type: ignore[index]
        }

    return segment


def load_monai(order: Order, clock: Clock) -> Segment:
    """Build MONAI's transforms around ``SliceInferer`` (``sliding_window_inference`` slice by slice), as its bundles do.

    Load, orient, resize, window; the network in fp32; logits resized back by ``Invertd``, argmax, save. No smoothing, and
    orientation "PLS", so that rows and columns are viscera's and the labels can be compared.
    """
    from monai.inferers.inferer import SliceInferer
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import ScaleIntensityRanged
    from monai.transforms.io.dictionary import LoadImaged, SaveImaged
    from monai.transforms.post.dictionary import AsDiscreted, Invertd
    from monai.transforms.spatial.dictionary import Orientationd, Resized
    from monai.transforms.utility.dictionary import EnsureChannelFirstd

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
    undo = Invertd("labels", transform=prepare, orig_keys="image", nearest_interp=False)
    decide = Compose([undo, AsDiscreted("labels", argmax=True)])
    inferer = SliceInferer(roi_size=size, spatial_dim=2, sw_batch_size=weights.recipe.inference.batch_size, overlap=0.0)
    clock.wrap(network, "forward", "network")

    @torch.inference_mode()
    def segment(scan: str, out: str) -> None:
        """Segment one scan."""
        file = Path(out)
        with clock.stage("read"):
            case: dict = reader({"image": scan})  # type: ignore[assignment]
        with clock.stage("prepare"):
            case = prepare(case)  # type: ignore[assignment]
        with clock.stage("sliding window"):
            case["labels"] = inferer(case["image"][None], network)[0]
        with clock.stage("labels"):
            case = decide(case)  # type: ignore[assignment]
        with clock.stage("write"):
            named = {"subject": file.name.removesuffix(".nii.gz"), "idx": None}
            where = {"output_dir": file.parent, "output_postfix": "", "separate_folder": False}
            settings = {"output_dtype": "uint8", "resample": False, "print_log": False}
            SaveImaged("labels", output_name_formatter=lambda _meta, _saver: named, **where, **settings)(case)

    return segment


def load_notebook(order: Order, clock: Clock) -> Segment:
    """Build the network; then nibabel, scipy's zoom, one slice at a time through torch in fp32, labels enlarged by nearest.

    What zhang2d's own prediction does in spirit, and many a notebook to the letter. scipy's zoom aligns the corners of the slices,
    not of the pixels, so the labels are not those of viscera, MONAI or nnU-Net.
    """
    import nibabel
    from scipy.ndimage import zoom

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


def load_nnunet(order: Order, clock: Clock) -> Segment:
    """Put viscera's network into nnU-Net's ``nnUNetPredictor``, with a plan that asks for the same work (``plans_for``).

    All else is nnU-Net's own: SimpleITK, cubic resampling of the scan in 3D (``how["order"]``), tiles one by one, in fp32 on a CPU
    and in half precision on a GPU (``how["device"]``), half-precision logits, linear resampling of all logits, argmax. Without
    mirroring. ``predict_from_files_sequential``: with one scan the worker processes of ``predict_from_files`` have nothing to
    overlap, and their start would only be added.
    """
    os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), "/nowhere"))
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference import predict_from_raw_data
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    network, weights = plain_network(order.run)
    device = order.how.get("device", "cpu")
    name, plans = plans_for(weights.recipe, order)
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(device), allow_tqdm=False)
    manager = PlansManager(plans)
    predictor.manual_initialization(
        network,
        manager,
        manager.get_configuration(name),
        parameters=[network.state_dict()],
        dataset_json=dataset_of(len(weights.space.classes)),
        trainer_name="nnUNetTrainer",
        inference_allowed_mirroring_axes=None,
    )
    clock.wrap(SimpleITKIO, "read_images", "read")
    clock.wrap(DefaultPreprocessor, "run_case", "prepare")
    clock.wrap(predictor, "predict_logits_from_preprocessed_data", "sliding window")
    clock.wrap(network, "forward", "network")
    clock.wrap(predict_from_raw_data, "export_prediction_from_logits", "labels")
    clock.wrap(SimpleITKIO, "write_seg", "write")

    def segment(scan: str, out: str) -> dict[str, object]:
        """Segment one scan; return what it took of a GPU's memory at most."""
        # nnU-Net's export sets torch's threads to 8, and back.
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with contextlib.redirect_stdout(io.StringIO()), clock.stage("else"):
            predictor.predict_from_files_sequential([[scan]], [out.removesuffix(".nii.gz")])
        if device != "cuda":
            return {}
        reserved, held = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
        return {"peak_allocated_mib": round(held / 2**20), "peak_reserved_mib": round(reserved / 2**20)}

    return segment


def plans_for(recipe: "Recipe", order: Order) -> tuple[str, dict[str, object]]:
    """Return the name of a configuration and the plans that ask nnU-Net for a recipe's work.

    In 2D the spacing is the field of view over the prepared size, so that slices become as large there too, one tile each; in 3D it
    is the recipe's, as are the tiles.
    """
    import nibabel

    spline = int(order.how.get("order", 3))
    if recipe.dimensions == 3:
        patch, steps_mm = list(recipe.sampling.size), list(recipe.preparation.spacing_mm)
        low, high, mean, deviation = recipe.intensity.measured
        plans = plans_of(
            {"3d_fullres": configuration_of(patch, steps_mm, order=spline)},
            window=(low, high),
            scale=(mean, deviation),
        )
        return "3d_fullres", plans
    image = nibabel.load(order.scan)
    steps, shape = image.header.get_zooms(), image.shape  # type: ignore[attr-defined]
    rows, columns = recipe.preparation.size
    spacing_mm = [float(steps[1]) * shape[1] / rows, float(steps[0]) * shape[0] / columns]
    window = (recipe.intensity.low_hu, recipe.intensity.high_hu)
    return "2d", plans_of({"2d": configuration_of([rows, columns], spacing_mm, order=spline)}, window=window)


def dataset_of(classes: int) -> dict[str, object]:
    """Return a dataset.json."""
    names = {"background": 0} | {f"organ_{index}": index for index in range(1, classes)}
    return {"channel_names": {"0": "CT"}, "labels": names, "numTraining": 1, "file_ending": ".nii.gz"}


def configuration_of(patch: list[int], spacing_mm: list[float], *, order: int = 3) -> dict[str, object]:
    """Return a configuration with nnU-Net's default functions; order 3 is its default for scans, 1 for logits."""
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    resample = "resample_data_or_seg_to_shape"
    return {
        "data_identifier": "plans",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": spacing_mm,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": resample,
        "resampling_fn_seg": resample,
        "resampling_fn_data_kwargs": linear | {"order": order},
        "resampling_fn_seg_kwargs": linear | {"is_seg": True},
        "resampling_fn_probabilities": resample,
        "resampling_fn_probabilities_kwargs": linear,
        "architecture": {},
    }


def plans_of(
    configurations: dict[str, object],
    *,
    window: tuple[float, float] = (-400.0, 400.0),
    scale: tuple[float, float] | None = None,
) -> dict[str, object]:
    """Return plans that clip to a HU window and scale by (mean, SD); None: the window to [0, 1], as zhang2d does."""
    low, high = window
    mean, deviation = scale or (low, high - low)
    return {
        "dataset_name": "Dataset001_CT",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.5, 0.8, 0.8],
        "original_median_shape_after_transp": [100, 512, 512],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": mean, "std": deviation, "percentile_00_5": low, "percentile_99_5": high}
        },
    }


LOADERS = {"viscera": load_viscera, "monai": load_monai, "notebook": load_notebook, "nnunet": load_nnunet}

if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        from benchmarks.peers.nnunet import train_both

        train_both(sys.argv[2:])
    else:
        measured(LOADERS[sys.argv.pop(1)])
