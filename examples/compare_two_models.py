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
from dataclasses import replace
from pathlib import Path

import numpy as np

from train_and_look import prepared, small_recipe, trained_and_scored
from viscera.datasets.sources import Source
from viscera.evaluation.comparing import Comparison, compare
from viscera.evaluation.pairing import ScoringJob, match
from viscera.evaluation.scores import MEAN, Evaluation
from viscera.figures.canvas import GREY, INK, line_colour, new_figure, save, style
from viscera.figures.montage import Look, montage
from viscera.io.nifti import read
from viscera.labels import readable

# %% [markdown]
# ## Differences, not means
# Patients differ more than models do: two means with their wide intervals often hide a difference that every patient shows.
# So each patient is compared with itself. `compare` gives the mean difference, its 95 % interval over patients, and the
# p-value of Wilcoxon's signed-rank test. With the few test patients of an example none can be small: six are the least for
# p < 0.05. An interval that holds 0 is no proof that the models are alike.


# %%
def difference_figure(rows: Sequence[Comparison], out: Path) -> Path:
    """Draw each organ's mean difference with its interval; right of the line the second model is better."""
    figure = new_figure(8.5, 1.2 + 0.34 * len(rows))
    axes = figure.add_subplot()
    style(axes, "Dice, second model minus first (mean, 95 % interval)", x="difference in Dice")
    axes.axvline(0, color=INK, linewidth=1)
    for place, row in enumerate(rows):
        colour = GREY if row.organ == MEAN else line_colour(row.organ)
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=4, alpha=0.6)
        axes.plot(row.difference, place, "o", color=colour)
    axes.set_yticks(range(len(rows)), [f"{readable(row.organ)} ({row.patients})" for row in rows])
    axes.invert_yaxis()
    return save(figure, out)


# %% [markdown]
# ## The patient in whom they differ most
# A number says that they differ, a picture how. A montage chooses slices by what truth and prediction show, so those of the two
# may lie a little apart.


# %%
def mean_dice(found: Evaluation) -> dict[str, float]:
    """Return {case: mean Dice over the organs that it or its prediction shows}."""
    values: dict[str, list[float]] = {}
    for row in found.scores:
        if np.isfinite(row.values["dice"]):
            values.setdefault(row.case, []).append(row.values["dice"])
    return {case: float(np.mean(dice)) for case, dice in values.items()}


def both_montages(source: Source, runs: Sequence[Path], out: Path) -> None:
    """Draw what each run made of one patient."""
    for run in runs:
        pair, _ = match(ScoringJob(source.name, run / "test" / f"{source.name}.nii.gz", source))
        montage(
            read(source.image),
            pair.prediction,
            truth=pair.truth,
            names=pair.space.labels,
            annotated=pair.annotated,
            out=out / f"{run.name}.png",
            look=Look(axial=2, coronal=1, title=f"{run.name}: {source.name}"),
        )


# %%
def main(out: Path = Path("example_out"), *, quick: bool = False) -> tuple[Comparison, ...]:
    """Train and compare both; pictures lie in ``out``."""
    first = small_recipe(quick=quick)
    second = replace(first, name="uniform", loss=replace(first.loss, class_weights="uniform"))
    store, test = prepared(out, first, quick=quick)  # the same preparation, so one store serves both
    runs = [out / "weighted", out / "uniform"]
    scores = [trained_and_scored(recipe, store, test, run) for recipe, run in zip((first, second), runs, strict=True)]
    rows = compare(scores[0].scores, scores[1].scores, np.random.default_rng(0))
    for row in rows:
        print(f"{row.organ:20} {row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]  p = {row.p_value:.2f}")
    difference_figure(rows, out / "differences.png")
    dice = [mean_dice(found) for found in scores]
    apart = max(test, key=lambda source: abs(dice[1].get(source.name, 0.0) - dice[0].get(source.name, 0.0)))
    both_montages(apart, runs, out)
    print(f"pictures: {out / 'differences.png'}, weighted.png, uniform.png")
    return rows


# %%
if __name__ == "__main__":
    words = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook has arguments of its own
    main(*(Path(word) for word in words if word != "--quick"), quick="--quick" in words)
