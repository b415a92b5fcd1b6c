"""Draw docs/partial_labels.png from benchmarks/results/partial_labels.json."""

import json

import matplotlib as mpl

from machine import RESULTS, ROOT

mpl.use("Agg")
import matplotlib.pyplot as plt

NAMES = {
    "background": "unannotated = background",
    "background_down_weighted": "same, background weighs 0.3",
    "sigmoid": "sigmoid heads",
    "marginal": "marginal",
    "marginal_exclusion": "marginal + exclusion",
    "pseudo": "… + pseudo-labels",
    "complete": "everything annotated (bound)",
}
TITLES = {"two_overlapping": "two data sets that overlap", "three_disjoint": "three disjoint data sets"}
COLOURS = {"annotated": "#4477AA", "unannotated": "#CC6677"}


def main() -> None:
    """Draw one panel per design: Dice with intervals, organs annotated in the patient's own data set and others."""
    found = json.loads((RESULTS / "partial_labels.json").read_text())["arms"]
    figure, axes = plt.subplots(1, len(TITLES), figsize=(10, 3.6), sharey=True, layout="constrained")
    places = range(len(NAMES))[::-1]
    for axis, (design, title) in zip(axes, TITLES.items(), strict=True):
        for shift, (group, colour) in zip((0.14, -0.14), COLOURS.items(), strict=True):
            rows = [found[name][design][group] for name in NAMES]
            dice = [row["dice"] for row in rows]
            reach = [[d - row["interval"][0] for d, row in zip(dice, rows, strict=True)],
                     [row["interval"][1] - d for d, row in zip(dice, rows, strict=True)]]  # fmt: skip
            heights = [place + shift for place in places]
            axis.errorbar(dice, heights, xerr=reach, fmt="o", color=colour, capsize=2, label=f"{group} organs")
            axis.axvline(dice[-1], color=colour, lw=0.8, ls=":")
        axis.set_title(title)
        axis.set_xlabel("Dice, mean over organs [95 % interval over patients]")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yticks(list(places), list(NAMES.values()))
    axes[0].legend(loc="lower left", frameon=False)
    figure.savefig(ROOT / "docs" / "partial_labels.png", dpi=130)


if __name__ == "__main__":
    main()
