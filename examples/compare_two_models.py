# %% [markdown]
# # Compare two models
#
# Is one way of training better than another? Here: zhang2d's class weights against uniform ones (its authors' figure 4d says
# that those miss organs). Patients, training and scores are those of `train_and_look.py`; run that first if you like, its
# patients are used again.
#
#     python examples/compare_two_models.py [OUT] [--quick]

# %%
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import viscera
from train_and_look import prepared, small_recipe, trained_and_scored

# %% [markdown]
# ## Differences, not means
# Patients differ more than models do: two means with their wide intervals often hide a difference that every patient shows.
# So each patient is compared with itself. `compare` gives the mean difference, its 95 % interval over patients, and the
# p-value of Wilcoxon's signed-rank test. With the few test patients of an example none can be small: six are the least for
# p < 0.05. An interval that holds 0 is no proof that the models are alike.


# %%
def difference_figure(rows: Sequence, out: Path) -> None:
    """Draw each organ's mean difference with its interval; right of the line the second model is better."""
    figure = Figure((8.5, 1.2 + 0.34 * len(rows)), layout="constrained")
    axes = figure.add_subplot(title="Dice, second model minus first (mean, 95 % interval)", xlabel="difference in Dice")
    axes.axvline(0, color="black", linewidth=1)
    for place, row in enumerate(rows):
        colour = "grey" if row.organ == "mean" else "C0"
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=4, alpha=0.6)
        axes.plot(row.difference, place, "o", color=colour)
    axes.set_yticks(range(len(rows)), [f"{row.organ} ({row.patients})" for row in rows])
    axes.invert_yaxis()
    figure.savefig(out)


# %% [markdown]
# ## The patient in whom they differ most
# A number says that they differ, a picture how. A montage chooses slices by what truth and prediction show, so those of the two
# may lie a little apart.


# %%
def mean_dice(found: viscera.Evaluation) -> dict[str, float]:
    """Return {case: mean Dice over the organs that it or its prediction shows}."""
    values: dict[str, list[float]] = {}
    for row in found.scores:
        if np.isfinite(row.values["dice"]):
            values.setdefault(row.case, []).append(row.values["dice"])
    return {case: float(np.mean(dice)) for case, dice in values.items()}


# %%
def main(out: Path = Path("example_out"), *, quick: bool = False) -> tuple:
    """Train and compare both; pictures lie in ``out``."""
    first = small_recipe(quick=quick)
    second = small_recipe({"loss.class_weights": "uniform"}, quick=quick)
    store = prepared(out, first, quick=quick)  # the same preparation, so one store serves both
    runs = [out / "weighted", out / "uniform"]
    test, before = trained_and_scored(first, store, runs[0])
    _, after = trained_and_scored(second, store, runs[1])
    rows = viscera.compare(before, after)
    for row in rows:
        print(f"{row.organ:20} {row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]  p = {row.p_value:.2f}")
    difference_figure(rows, out / "differences.png")
    dice = [mean_dice(found) for found in (before, after)]
    apart = max(test, key=lambda case: abs(dice[1].get(case.name, 0.0) - dice[0].get(case.name, 0.0)))
    for run in runs:
        look = viscera.view(apart.image, run / "test" / f"{apart.name}.nii.gz", truth=apart)
        look.save(out / f"{run.name}.png", axial=2, overwrite=True)
    print(f"pictures: {out / 'differences.png'}, weighted.png, uniform.png")
    return rows


# %%
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook has arguments of its own
    main(*(Path(word) for word in words if word != "--quick"), quick="--quick" in words)
