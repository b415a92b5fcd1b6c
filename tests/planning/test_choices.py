"""What is chosen of made-up fingerprints and measurements; no network is trained."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from viscera.config import Recipe, ResizedSlices, SpacedSlices, SpacedVolumes, VolumeAugmentation
from viscera.config.recipe_json import recipe_from_json
from viscera.errors import LabelError, SettingError
from viscera.io.json_codec import to_json
from viscera.labels import SPACES
from viscera.learning.setup import check_fit
from viscera.networks.levels import check_patch
from viscera.planning.choices import (
    choose_patch,
    choose_slice,
    choose_space,
    choose_spacing,
    choose_window_hu,
    kinds_for,
    volume_recipe,
)
from viscera.planning.fingerprint import Fingerprint, OrganSize, organ_sizes
from viscera.planning.grounds import Grounds, evenly
from viscera.planning.length import USED, Work, length_of
from viscera.planning.measurement import Measured, Trial
from viscera.planning.plan import Plan, Request, make_plan
from viscera.planning.reasons import Reason
from viscera.planning.search import MEMORY_SHARE
from viscera.preparation.store import Store

LIVER = OrganSize(3, 1500.0, 120.0, 100.0, -20.0, 200.0)
WHOLE = Fingerprint(
    organs=("liver", "kidney", "spleen", "pancreas"),
    annotated={"a": {"liver": 10, "kidney": 10, "spleen": 10, "pancreas": 10}},
    cases={"a": 10},
    partly=0,
    spacing_mm=(2.0, 0.8, 0.8),
    shape=(200, 512, 512),
    extent_mm=400.0,
    training_cases=70,
    training_slices=14_000,
    validation_cases=10,
    validation_slices=2_000,
    sampled=3,
    sizes={"liver": LIVER},
    hu=(-20.0, 200.0),
)


def of_sizes(**across: float) -> Fingerprint:
    return replace(WHOLE, sizes={organ: replace(LIVER, across_mm=mm) for organ, mm in across.items()})


@pytest.mark.parametrize(
    ("fingerprint", "spacing"),
    [
        (of_sizes(liver=120.0), 2.5),
        (of_sizes(liver=120.0, pancreas=15.0), 2.5),  # six pixels of 2.5 mm
        (of_sizes(liver=120.0, adrenal_gland_left=14.0), 2.0),
        (of_sizes(adrenal_gland_left=9.0), 1.5),
        (of_sizes(adrenal_gland_left=2.0), 1.0),
        (replace(of_sizes(adrenal_gland_left=2.0), spacing_mm=(2.0, 1.7, 1.7)), 1.7),  # the scans' own
        (replace(of_sizes(adrenal_gland_left=2.0), spacing_mm=(5.0, 4.0, 4.0)), 2.5),
        (replace(WHOLE, sizes={}), 2.5),
    ],
)
def test_pixels_are_as_small_as_the_thinnest_organ_asks_for_and_the_scans_allow(fingerprint, spacing):
    chosen, reason = choose_spacing(fingerprint)
    assert chosen == spacing
    assert reason.value == f"{spacing:g} mm"
    assert reason.basis == "rule of thumb"


def test_partly_annotated_data_get_viscera2d_and_hear_why():
    kinds, refused = kinds_for(replace(WHOLE, partly=4), None)
    assert kinds == ("2D",)
    assert all("4 cases do not annotate every organ" in one.why for one in refused)


@pytest.mark.parametrize(
    ("fingerprint", "standing", "kinds"),
    [
        (WHOLE, None, ("3D", "2.5D with context", "2D")),
        (replace(WHOLE, spacing_mm=(5.0, 0.8, 0.8)), None, ("2.5D with context", "2D")),  # anisotropic
        (replace(WHOLE, extent_mm=60.0), None, ("3D", "2D")),
        (WHOLE, SpacedSlices(), ("2.5D with context", "2D")),
        (WHOLE, ResizedSlices(), ("2D",)),
        (replace(WHOLE, partly=1), SpacedVolumes(), ("3D",)),
    ],
)
def test_what_the_data_or_the_store_rule_out_is_not_tried(fingerprint, standing, kinds):
    found, refused = kinds_for(fingerprint, standing)
    assert found == kinds
    if standing is None:
        assert {one.setting.removeprefix("not ") for one in refused} | {*kinds} == {"3D", "2.5D with context", "2D"}


def test_the_label_space_is_the_one_that_holds_most_that_is_annotated_and_least_that_is_not():
    def named(*organs: str) -> dict[int, str]:
        return dict(enumerate(organs, start=1))

    assert choose_space([named("liver", "kidney"), named("spleen", "pancreas")], None)[0].name == "abdomenct1k"
    assert choose_space([named(*SPACES["flare13"].organs)], None)[0].name == "flare13"
    assert choose_space([named(*SPACES["starter19"].organs)], None)[0].name == "starter19"
    assert (
        choose_space([named(*SPACES["zhang12"].organs[:6]), named(*SPACES["zhang12"].organs[6:])], None)[0].name
        == "zhang12"
    )
    assert choose_space([named("liver")], "flare13")[0].name == "flare13"
    with pytest.raises(SettingError, match="no label space 'flar13'. Did you mean 'flare13'"):
        choose_space([named("liver")], "flar13")
    with pytest.raises(LabelError, match=r"no label space holds any annotated organ \(vertebrae_l1\)"):
        choose_space([named("vertebrae_l1")], None)


def test_the_window_is_widened_for_organs_of_high_hu_only():
    assert choose_window_hu(WHOLE)[0].window_hu == (-400.0, 400.0)
    gas = replace(LIVER, median_hu=-900.0, low_hu=-1000.0)
    assert choose_window_hu(replace(WHOLE, sizes={"colon": gas}))[0].window_hu == (-400.0, 400.0)
    bone = replace(LIVER, median_hu=500.0, high_hu=1212.0)
    assert choose_window_hu(replace(WHOLE, sizes={"femoral_head": bone}))[0].window_hu == (-400.0, 1250.0)


def test_large_slices_are_cut_and_small_ones_are_whole():
    assert choose_slice([(512, 512)] * 3, (0.8, 0.8))[0] == (400, 512)  # 320 mm; 409.6 mm, within the multiple of 16
    assert choose_slice([(64, 80)] * 9 + [(320, 320)], (2.5, 2.5))[0] == (64, 80)
    assert choose_slice([(512, 512)], None)[0] == (512, 512)


@pytest.mark.parametrize(
    "median", [(200.0, 256.0, 256.0), (40.0, 200.0, 200.0), (6.0, 300.0, 300.0), (500.0, 90.0, 120.0)]
)
@pytest.mark.parametrize("most", [32**3, 64**3, 128**3])
def test_patches_have_no_more_voxels_than_allowed_and_can_be_halved(median, most):
    patch, levels = choose_patch(median, most)
    check_patch(patch, stride=2 ** (levels - 1), setting="sampling.size")
    assert np.prod(patch) <= most
    assert levels >= 2


def test_a_planned_3d_network_never_mirrors_and_sees_whole_patches():
    # its intensities are 0 to 1 and its labels have sides, unlike gao2step's; only context is made ready for short scans
    recipe, _ = volume_recipe(Recipe(label_space="zhang12"), WHOLE, None, device="cpu", most=64**3)
    assert isinstance(recipe.augmentation, VolumeAugmentation)
    assert (recipe.augmentation.flip_x, recipe.augmentation.flip_y, recipe.augmentation.shorten) == (0, 0, 0)


def test_organs_are_measured_in_millimetres(make_case):
    labels = np.zeros((4, 20, 20), np.uint8)
    labels[1:3, 5:10, 5:15] = 1
    image = np.full(labels.shape, -1000, np.int16)
    image[labels == 1] = 60
    image[1, 5, 5] = 80
    case = make_case("a__b", annotated=("liver",), labels=labels, image=image)
    sizes, hu = organ_sizes([case], SPACES["abdomenct1k"])
    [(organ, size)] = sizes.items()
    assert organ == "liver"
    assert size.volume_ml == 2 * 50 * 5 * 2 * 2 / 1000
    assert size.across_mm == pytest.approx(2 * np.sqrt(50 * 4 / np.pi), abs=0.01)
    assert (size.median_hu, size.low_hu, hu) == (60.0, 60.0, (60.0, 80.0))


def test_a_training_is_as_long_as_the_time_whatever_validation_costs():
    length = length_of(Work(1000, 100, 16, 300), 3600.0, step_s=0.5, validated_s=0.1)
    assert length.epochs * (length.passes * 0.5 + 10) <= 3600
    assert length.epochs * ((length.passes + 1) * 0.5 + 10) > 3600
    assert length.visits * 1000 / 16 == pytest.approx(length.passes, rel=1e-4)
    dear = length_of(Work(1000, 1000, 16, 300), 3600.0, step_s=0.5, validated_s=0.1)
    assert dear.epochs * 100 <= 0.15 * 3600
    few = length_of(Work(10, 0, 16, 300), 36_000.0, step_s=0.1, validated_s=0.0)
    assert few.capped
    assert few.total * 16 <= 300 * 10
    assert length_of(Work(1000, 0, 16, 300), 1.0, step_s=2.0, validated_s=0.0) is None


class Machine:
    """Measures nothing: a step takes as long, and as much memory, as is made up here."""

    def __init__(self, *, second_per_pixel: float = 1e-7, mib_per_pixel: float = 1e-5, held: float = 300.0):
        self.speed, self.memory, self.held = second_per_pixel, mib_per_pixel, held
        self.trials: list[Trial] = []

    def __call__(self, trial: Trial) -> Measured | None:
        recipe = trial.recipe
        self.trials.append(trial)
        size = recipe.sampling.window or recipe.sampling.size
        work = float(np.prod(size)) * recipe.training.batch_size * recipe.network.widths[0]
        extra = {} if recipe.context is None else {"context_step_s": 1.0, "seen_s": 0.1}
        return Measured(4, work * self.speed, 1e-4, self.held, self.held + work * self.memory, **extra)


class Sample(Store):
    """A store of one case that is nowhere."""

    def names(self, split=None):
        return ["a__b"]

    def facts(self, name):
        return SimpleNamespace(geometry=SimpleNamespace(size=(128, 160)))


def plan_of(
    fingerprint: Fingerprint, machine: Machine, *, hours: float = 8.0, memory: float | None = 1000.0, standing=None
) -> Plan:
    sample = Sample(Path(), SPACES["abdomenct1k"], SpacedSlices())
    grounds = Grounds(
        fingerprint,
        SPACES["abdomenct1k"],
        Reason("label_space", "abdomenct1k", "It is.", "data"),
        standing,
        lambda preparation: sample,
    )
    return make_plan(grounds, Request(hours, "cpu", memory), tell=lambda *said: None, trial=machine)


PARTLY = replace(WHOLE, partly=1)


def test_a_plan_says_why_of_every_choice_and_is_a_recipe(tmp_path):
    plan = plan_of(PARTLY, Machine())
    check_fit(plan.recipe)
    read = recipe_from_json(to_json(plan.to_json()), where="plan.json")
    assert read == plan.recipe
    settings = [one.setting for one in plan.because]
    assert len(set(settings)) == len(settings)
    assert {"kind", "label_space", "preparation.spacing_mm", "sampling.window", "intensity", "network.widths"} < {
        *settings
    }
    assert {"training.batch_size", "training.epochs", "training.visits_per_slice", "memory"} < {*settings}
    assert all(one.why.endswith(".") for one in plan.because)


def test_a_faster_machine_gets_a_wider_network_and_no_more_time_than_there_is():
    widths = []
    for speed in (5e-6, 1e-6, 2e-7, 1e-8):
        machine = Machine(second_per_pixel=speed)
        plan = plan_of(PARTLY, machine)
        widths.append(plan.recipe.network.widths[0])
        taken = 128 * 160 * plan.recipe.training.batch_size * widths[-1] * speed
        passes = plan.recipe.training.epochs * plan.recipe.training.visits_per_slice * 14_000 / 16
        assert taken * passes <= 8 * 3600 * USED
    assert widths == [16, 24, 32, 64]


def test_batches_shrink_until_they_fit_the_memory_and_steps_see_as_many_slices():
    machine = Machine(mib_per_pixel=2e-4)  # 16 slices: 1049 MiB; 4: 262
    plan = plan_of(PARTLY, machine)
    assert (plan.recipe.training.batch_size, plan.recipe.training.accumulate) == (4, 4)
    assert plan.recipe.network.widths[0] == 24  # width 32 would need a smaller batch
    assert plan.tries[-2].outcome == "takes 824 MiB, of 1000 free may be 80% taken"
    taken = [
        300 + 128 * 160 * one.recipe.training.batch_size * one.recipe.network.widths[0] * 2e-4 for one in machine.trials
    ]
    assert max(taken) <= MEMORY_SHARE * 1000  # nothing was tried that would not have fitted


def test_memory_that_does_not_suffice_for_the_smallest_is_refused_with_what_would():
    with pytest.raises(
        SettingError,
        match=r"memory does not suffice.*batch 2.*takes 955 MiB, of 1000 free may be 80% taken.*About 1195 MiB",
    ):
        plan_of(PARTLY, Machine(mib_per_pixel=1e-3))


def test_a_candidate_that_is_killed_for_its_memory_counts_as_too_large():
    class Killer(Machine):
        def __call__(self, trial):
            return None if trial.recipe.training.batch_size > 4 else super().__call__(trial)

    assert plan_of(PARTLY, Killer()).recipe.training.batch_size == 4
    with pytest.raises(SettingError, match="out of memory while it was tried"):
        plan_of(PARTLY, lambda trial: None)  # type: ignore[arg-type]


def test_hours_that_are_too_short_are_refused_with_those_that_would_do():
    with pytest.raises(
        SettingError, match=r"0.05 hours are too short: .* would make \d+ steps.*Pass --hours"
    ) as refused:
        plan_of(PARTLY, Machine(second_per_pixel=1e-6), hours=0.05)
    hours = float(str(refused.value).partition("--hours ")[2].split()[0])
    plan = plan_of(PARTLY, Machine(second_per_pixel=1e-6), hours=hours)
    assert any("steps are few: 770 are wanted" in note for note in plan.notes)


def test_fine_pixels_that_are_too_slow_become_coarser():
    class Slow(Machine):
        def __call__(self, trial):
            found = super().__call__(trial)
            return replace(found, step_s=60.0 if trial.recipe.preparation.spacing_mm < 2.0 else 1.0)

    plan = plan_of(replace(of_sizes(adrenal_gland_left=9.0), partly=1), Slow())
    assert plan.recipe.preparation == SpacedSlices(spacing_mm=2.0)
    [reason] = [one for one in plan.because if one.setting == "preparation.spacing_mm"]
    assert "too slow" in reason.why
    assert reason.basis == "measured"


def test_complete_data_get_3d_where_it_is_fast_else_context_else_2d():
    fast = plan_of(WHOLE, Machine(second_per_pixel=1e-9, mib_per_pixel=1e-5))
    assert fast.recipe.dimensions == 3
    check_fit(fast.recipe)
    slower = plan_of(WHOLE, Machine(second_per_pixel=4e-6))
    assert slower.recipe.dimensions == 2
    assert slower.recipe.context is None
    between = plan_of(WHOLE, Machine(second_per_pixel=1e-6))
    assert between.recipe.context is not None
    check_fit(between.recipe)
    assert any(one.setting == "context.training.epochs" for one in between.because)
    assert "not 3D" in {one.setting for one in between.because}


def test_a_busy_machine_is_told_of():
    class Busy(Machine):
        def __call__(self, trial):
            return replace(super().__call__(trial), cpu_share=0.25)

    assert any("the machine was busy: the steps had 25%" in note for note in plan_of(PARTLY, Busy()).notes)
    assert not any("busy" in note for note in plan_of(PARTLY, Machine()).notes)


def test_a_store_keeps_its_preparation():
    plan = plan_of(WHOLE, Machine(), standing=SpacedSlices(spacing_mm=1.25))
    assert plan.recipe.preparation == SpacedSlices(spacing_mm=1.25)
    assert any("prepared already, so its preparation stays" in one.why for one in plan.because)


def test_what_stands_beside_the_recipe_must_be_the_plans_own():
    text = to_json(plan_of(PARTLY, Machine()).to_json())
    edited = json.loads(text) | {"training": {"epochs": 3}}
    with pytest.raises(
        SettingError, match="x.json: 'training' stands beside the plan's recipe, where it would do nothing"
    ):
        recipe_from_json(json.dumps(edited), where="x.json")
    edited = json.loads(text)
    edited["recipe"]["training"]["epoch"] = 3
    with pytest.raises(SettingError, match=r"no setting 'training.epoch'. Did you mean 'training.epochs'"):
        recipe_from_json(json.dumps(edited), where="x.json")


def test_samples_are_taken_evenly():
    assert evenly(range(10), 3) == [1, 5, 8]
    assert evenly(range(2), 3) == [0, 1]


@pytest.mark.parametrize(
    ("settings", "said"), [({"hours": 0.0}, "hours must be more than 0"), ({"memory_mib": -1.0}, "max_memory must be")]
)
def test_requests_out_of_range_are_refused(settings, said):
    with pytest.raises(SettingError, match=said):
        Request(**settings)
