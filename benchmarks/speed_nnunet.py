"""nnU-Net's machinery in speed.py: its ``nnUNetPredictor`` with viscera's network and a 2D plan that asks for the same work.

The plan's spacing is the field of view over the prepared size, so that slices become 256x256 there too, one tile each. All else
is nnU-Net's own: SimpleITK, cubic resampling of the scan in 3D, tiles one by one in fp32 (its way on a CPU), half-precision
logits, linear resampling of all logits, argmax. Without mirroring. ``predict_from_files_sequential``: with one scan the worker
processes of ``predict_from_files`` have nothing to overlap, and their start would only be added.

It runs in a Python that can import nnunetv2 and viscera (``--nnunet-python``); nothing else here needs either.
"""

import contextlib
import io
import os

os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), "/nowhere"))

import nibabel
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO  # pyright: ignore[reportMissingImports]
from nnunetv2.inference import predict_from_raw_data  # pyright: ignore[reportMissingImports]
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # pyright: ignore[reportMissingImports]
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # pyright: ignore[reportMissingImports]
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # pyright: ignore[reportMissingImports]

from speed_child import Clock, Order, Segment, measured, plain_network


def load(order: Order, clock: Clock) -> Segment:
    """Put the network into a predictor, and time its functions; ``how["order"]``: of the scan's interpolation, 3 by default."""
    network, weights = plain_network(order.run)
    recipe = weights.recipe
    steps = nibabel.load(order.scan).header.get_zooms()  # type: ignore[attr-defined]
    shape = nibabel.load(order.scan).shape  # type: ignore[attr-defined]
    rows, columns = recipe.preparation.size
    spacing_mm = [float(steps[1]) * shape[1] / rows, float(steps[0]) * shape[0] / columns]
    dataset = dataset_of(len(weights.space.classes))
    plans = plans_of(
        {"2d": configuration_of([rows, columns], spacing_mm, order=int(order.how.get("order", 3)))},
        window=(recipe.intensity.low_hu, recipe.intensity.high_hu),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    manager = PlansManager(plans)
    configuration = manager.get_configuration("2d")
    predictor.manual_initialization(
        network,
        manager,
        configuration,
        parameters=[network.state_dict()],
        dataset_json=dataset,
        trainer_name="nnUNetTrainer",
        inference_allowed_mirroring_axes=None,
    )
    clock.wrap(SimpleITKIO, "read_images", "read")
    clock.wrap(DefaultPreprocessor, "run_case", "prepare")
    clock.wrap(predictor, "predict_logits_from_preprocessed_data", "sliding window")
    clock.wrap(network, "forward", "network")
    clock.wrap(predict_from_raw_data, "export_prediction_from_logits", "labels")
    clock.wrap(SimpleITKIO, "write_seg", "write")

    def segment(scan: str, out: str) -> None:
        """Segment one scan."""
        # nnU-Net's export sets torch's threads to 8, and back.
        with contextlib.redirect_stdout(io.StringIO()), clock.stage("else"):
            predictor.predict_from_files_sequential([[scan]], [out.removesuffix(".nii.gz")])

    return segment


def dataset_of(classes: int) -> dict[str, object]:
    """Give a dataset.json."""
    names = {"background": 0} | {f"organ_{index}": index for index in range(1, classes)}
    return {"channel_names": {"0": "CT"}, "labels": names, "numTraining": 1, "file_ending": ".nii.gz"}


def configuration_of(patch: list[int], spacing_mm: list[float], *, order: int = 3) -> dict[str, object]:
    """Give a configuration with nnU-Net's default functions; order 3 is its default for scans, 1 for logits."""
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


def plans_of(configurations: dict[str, object], *, window: tuple[float, float] = (-400.0, 400.0)) -> dict[str, object]:
    """Give plans whose normalisation scales a HU window to [0, 1], as zhang2d does."""
    low, high = window
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
            "0": {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
        },
    }


if __name__ == "__main__":
    measured(load)
