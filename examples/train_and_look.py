# %% [markdown]
# # Train a network and look at what it does
#
# From scans to scores in five steps, on synthetic patients, so that nothing has to be downloaded; some minutes on two
# cores. Each step is one call of the library and writes what the next one reads.
#
#     python examples/train_and_look.py [OUT] [--quick]
#
# The steps are functions, and start only at the end: patients are made and scans prepared by processes of their own,
# which read this file once more.

# %%
import sys
from pathlib import Path

from matplotlib.figure import Figure

import viscera

# %% [markdown]
# ## The recipe
# A recipe is a value that holds every setting; another experiment is another value. This one is `zhang2d-small`, a 2D U-Net
# for eleven organs. With `--quick` it only shows that all steps work: such a network has learnt nothing.

# %%
QUICK = {
    "training.epochs": 1,
    "training.batch_size": 16,
    "preparation.size": (32, 32),
    "network.widths": (4, 8),
}


def small_recipe(changes: dict | None = None, *, quick: bool) -> viscera.Recipe:
    """Return the settings of a network that trains in minutes, or in seconds."""
    return viscera.find_recipe("zhang2d-small", {**(QUICK if quick else {}), **(changes or {})})


# %% [markdown]
# ## Patients and store
# With scans of your own, leave `synthesize` out and name their layout in `prepare` (`viscera info layouts`).
# `prepare` checks every scan, brings it to the network's form and divides the *patients* (never slices) into
# training, validation and test. What it cannot use it does not pass over: that stands in `problems`, and it warns.


# %%
def prepared(out: Path, recipe: viscera.Recipe, *, quick: bool) -> Path:
    """Return a store of synthetic patients."""
    folder, store = out / "patients", out / "store"
    if not folder.exists():
        cases, shape = (5, (16, 48, 48)) if quick else (20, (64, 128, 128))
        viscera.synthesize(folder, cases=cases, shape=shape)
    viscera.prepare(store, {"nnunet": folder}, recipe=recipe, jobs=1 if quick else 0)
    return store


# %% [markdown]
# ## Train, predict, evaluate
# Label maps lie on the grid of the scans, and scores are measured there, in millimetres, not on the network's pixels. The
# test patients are those that the run did not see.


# %%
def trained_and_scored(recipe: viscera.Recipe, store: Path, run: Path) -> tuple[list, viscera.Evaluation]:
    """Train into a run's folder (an interrupted run goes on), segment the test patients into RUN/test, score them."""
    viscera.train(recipe, store, run, existing="resume")
    test = viscera.find_cases("nnunet", store.parent / "patients", split="test", run=run)
    viscera.predict(test, run / "test", run)
    return test, viscera.evaluate(test, run / "test")


# %% [markdown]
# ## Look
# The report holds the curves, which show whether training was long enough. Bars show which organs are hard; the montage, why:
# in the agreement column yellow is right, green found too much, red missed.


# %%
def dice_bars(scores: viscera.Evaluation, out: Path) -> None:
    """Draw each organ's mean Dice with its 95 % interval over patients."""
    rows = [row for row in scores.summary if row.metric == "dice"]
    figure = Figure((8, 0.35 * len(rows) + 1), layout="constrained")
    axes = figure.add_subplot(xlabel="Dice (mean, 95 % interval)", xlim=(0, 1))
    axes.barh([f"{row.organ} ({row.cases})" for row in rows], [row.mean for row in rows])
    axes.hlines(range(len(rows)), [row.low for row in rows], [row.high for row in rows], color="black")
    figure.savefig(out)


def main(out: Path = Path("example_out"), *, quick: bool = False) -> tuple:
    """Go the whole way; pictures lie in ``out``. Return a test patient and the file of its predicted labels."""
    recipe = small_recipe(quick=quick)
    store, run = prepared(out, recipe, quick=quick), out / "run"
    test, scores = trained_and_scored(recipe, store, run)
    viscera.report(run, out / "run.html", overwrite=True)
    dice_bars(scores, out / "dice.png")
    labels = run / "test" / f"{test[0].name}.nii.gz"
    viscera.view(test[0].image, labels, truth=test[0]).save(out / "look.png", overwrite=True)
    print(f"report: {out / 'run.html'}; pictures: {out / 'dice.png'}, look.png")
    return test[0], labels


# %% [markdown]
# In a notebook this ends with the page of `viscera view`: turn the wheel, switch organs off, change the window. It scores the
# scan and the slice.

# %%
if __name__ == "__main__":
    notebook = "ipykernel" in sys.modules
    words = [] if notebook else sys.argv[1:]  # a notebook has arguments of its own
    case, found = main(*(Path(word) for word in words if word != "--quick"), quick="--quick" in words)
    if notebook:
        from IPython.display import display

        display(viscera.view(case.image, found, truth=case))
