"""What several test files need: the checker of array shapes, small cases and stores, and where the real scans are."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# Array shapes in annotations are checked in tests only (beartype through jaxtyping's import hook).
from jaxtyping import install_import_hook

collect_ignore = ["conftest.py"]
"""There are two conftest.py (this one, and src's for doctests); neither is a test."""

HOOK = install_import_hook("viscera", "checking.check")

SHARED_DATA = Path(os.environ.get("VISCERA_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("cuda") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA GPU here")
        # As learning/setup.py: torch looks once, at the first matrix product on a GPU, which may be another test's.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Return each device: the test of a GPU is itself tested on the CPU."""
    return request.param


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real scans, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real scans beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def make_case() -> Callable:
    """Return a function that makes a Case in memory."""
    from viscera.preparation.geometry import Geometry
    from viscera.preparation.store import Case
    from viscera.volume import Turn

    def make(name, *, annotated, labels, known=None, image=None):
        if image is None:
            image = np.random.default_rng(len(name)).integers(-1000, 1000, labels.shape).astype(np.int16)
        geometry = Geometry(
            labels.shape, np.diag([5.0, -2.0, -2.0, 1.0]), Turn((0, 1, 2), (False,) * 3), labels.shape[1:]
        )
        dataset = name.partition("__")[0]
        return Case(name, dataset, name, image, labels, known, tuple(annotated), geometry)

    return make


@pytest.fixture(scope="session")
def small_store(tmp_path_factory, make_case) -> Path:
    """Return a store in which a liver (bright, on the left) and a spleen (brighter, on the right) are easily told apart.

    Data set "a" annotates both, "b" the liver only; six patients with four slices of 16x16 each.
    """
    from viscera.config import ResizedSlices
    from viscera.io.atomic import write_json
    from viscera.labels import ABDOMENCT1K
    from viscera.preparation.store import Facts, SourceFacts, create_store, write_case

    store = create_store(tmp_path_factory.mktemp("store"), space=ABDOMENCT1K, preparation=ResizedSlices(size=(16, 16)))
    splits = dict(zip("abcdef", ("training", "training", "training", "validation", "training", "test"), strict=True))
    generator = np.random.default_rng(0)
    cases = {}
    for number, patient in enumerate(splits):
        labels = np.zeros((4, 16, 16), np.uint8)
        labels[1:, 3:9, 2:7], labels[1:, 8:13, 10:14] = 1, 3
        image = np.choose(labels, [-100, 80, 0, 250]) + generator.normal(0, 20, labels.shape)
        annotated = ABDOMENCT1K.organs if number % 2 == 0 else ("liver",)
        seen = np.where(np.isin(labels, [0, *(ABDOMENCT1K.index(organ) for organ in annotated)]), labels, 0).astype(
            np.uint8
        )
        name = f"{'ab'[number % 2]}__{patient}"
        case = make_case(name, annotated=annotated, labels=seen, image=image.astype(np.int16))
        voxels = dict(zip(ABDOMENCT1K.classes, np.bincount(seen.ravel(), minlength=5).tolist(), strict=True))
        source = SourceFacts(f"{patient}.nii.gz", (), "", (), (), (), annotated, ())
        facts = Facts(name, case.dataset, patient, annotated, (), source, case.geometry, "", {}, voxels)
        write_case(store.path, case, facts)
        cases[name] = splits[patient]
    write_json(store.path / "splits.json", {"seed": 0, "fractions": {}, "cases": cases})
    return store.path


@pytest.fixture(autouse=True)
def all_cores_again():
    """Forget after each test how many cores a command was told to use: it holds for the process, and for the tests after it."""
    from viscera.networks import device

    yield
    if device._chosen:
        device.use_cores()
