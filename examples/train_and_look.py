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
import os
import sys
from dataclasses import replace
from pathlib import Path

from viscera.config import Recipe, ResizedSlices, UNetShape
from viscera.datasets.layouts import find_sources
from viscera.datasets.sources import Source
from viscera.datasets.synthetic import Cohort, write_cohort
from viscera.evaluation.evaluate import evaluate
from viscera.evaluation.pairing import ScoringJob, match
from viscera.evaluation.scores import Evaluation
from viscera.figures.canvas import save
from viscera.figures.curves import training_curves
from viscera.figures.montage import montage
from viscera.figures.scores import dice_bars
from viscera.inference.jobs import ScanJob
from viscera.inference.model import load_model
from viscera.inference.predict import predict_all
from viscera.io.nifti import read
from viscera.learning.training import Watch, train
from viscera.preparation.case import case_name
from viscera.preparation.prepare import Plan, prepare_store
from viscera.preparation.store import Store, open_store
from viscera.recipes.catalogue import find_recipe

# %% [markdown]
# ## The recipe
# A recipe is a value that holds every setting; another experiment is another value. This one is `zhang2d-small`, a 2D U-Net
# for eleven organs. With `--quick` it only shows that all steps work: such a network has learnt nothing.


# %%
def small_recipe(*, quick: bool) -> Recipe:
    """Return the settings of a network that trains in minutes, or in seconds."""
    recipe = find_recipe("zhang2d-small")
    if not quick:
        return recipe
    tiny = replace(recipe.training, epochs=1, batch_size=16)
    return replace(recipe, preparation=ResizedSlices(size=(32, 32)), network=UNetShape(widths=(4, 8)), training=tiny)


# %% [markdown]
# ## Patients and store
# With scans of your own, leave `write_cohort` out and name their layout in `find_sources` (`viscera info layouts`).
# `prepare_store` checks every scan, brings it to the network's form and divides the *patients* (never slices) into
# training, validation and test. What it cannot use it does not pass over: that stands in `problems`.


# %%
def prepared(out: Path, recipe: Recipe, *, quick: bool) -> tuple[Store, list[Source]]:
    """Return a store of synthetic patients, and the cases of its test patients."""
    folder, store = out / "patients", out / "store"
    if not folder.exists():
        cases, shape = (5, (16, 48, 48)) if quick else (20, (64, 128, 128))
        write_cohort(folder, Cohort("nnunet", cases=cases, shape=shape), jobs=1 if quick else os.cpu_count() or 1)
    sources, problems = find_sources("nnunet", folder)
    plan = Plan(jobs=1) if quick else Plan()
    found = prepare_store(
        store, sources, problems=problems, space=recipe.space, preparation=recipe.preparation, plan=plan
    )
    for problem in found.problems:
        print(f"{problem.case}: {problem.what}. {problem.remedy}")
    opened = open_store(store)
    return opened, [source for source in sources if case_name(source) in opened.names("test")]


# %% [markdown]
# ## Train, predict, evaluate
# Label maps lie on the grid of the scans, and scores are measured there, in millimetres, not on the network's pixels.


# %%
def trained_and_scored(recipe: Recipe, store: Store, test: list[Source], run: Path) -> Evaluation:
    """Train into a run's folder (an interrupted run goes on), segment the test patients into RUN/test, score them."""
    watch = Watch(epoch=lambda run: print(f"{run.name}: {(run / 'log.jsonl').read_text().count(chr(10))} epochs done"))
    train(recipe, store, run, existing="resume", watch=watch)
    scans = [ScanJob(source.image, run / "test" / f"{source.name}.nii.gz") for source in test]
    for scan, error in predict_all(scans, load_model(run)):
        print(f"{scan.scan.name}: {error}")
    return evaluate(test, run / "test")


# %% [markdown]
# ## Look
# Curves show whether training was long enough; bars, which organs are hard; the montage, why. In the agreement column
# yellow is right, green found too much, red missed.


# %%
def main(out: Path = Path("example_out"), *, quick: bool = False) -> tuple[Source, Path]:
    """Go the whole way; pictures lie in ``out``. Give a test patient and the file of its predicted labels."""
    recipe = small_recipe(quick=quick)
    store, test = prepared(out, recipe, quick=quick)
    run = out / "run"
    scores = trained_and_scored(recipe, store, test, run)
    training_curves(run, out / "curves.png")
    save(dice_bars([row for row in scores.summary if row.metric == "dice"]), out / "dice.png")
    labels = run / "test" / f"{test[0].name}.nii.gz"
    pair, _ = match(ScoringJob(test[0].name, labels, test[0]))  # truth and prediction in one label space
    names, annotated = pair.space.labels, pair.annotated
    montage(
        read(test[0].image), pair.prediction, truth=pair.truth, names=names, annotated=annotated, out=out / "look.png"
    )
    print(f"curves, scores, pictures: {out / 'curves.png'}, dice.png, look.png")
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

        from viscera.reports.notebook import browse

        display(browse(case.image, found, truth=case))
