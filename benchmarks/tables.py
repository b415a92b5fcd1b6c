"""Write the README's generated parts: results from benchmarks/results, the tree from the modules' docstrings.

Usage: python benchmarks/tables.py          (make tables)
       python benchmarks/tables.py --check  exits with 1 if the README is not up to date
"""

import ast
import json
import sys
from pathlib import Path

import speed_tables
import starter_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGE = ROOT / "src" / "viscera"


def first_line(file: Path) -> str:
    """Give the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0].rstrip(".")


def tree() -> str:
    """Give one line per file and folder, in the order of permitted imports."""
    import tomllib

    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    rows = []
    for name in [name.strip() for layer in reversed(contract["layers"]) for name in layer.split("|")]:
        file = PACKAGE / f"{name}.py"
        if file.exists():
            rows.append((f"{name}.py", first_line(file)))
            continue
        rows.append((f"{name}/", first_line(PACKAGE / name / "__init__.py")))
    width = max(len(name) for name, _ in rows)
    return "```\nsrc/viscera/\n" + "\n".join(f"    {name:<{width}}  {text}" for name, text in rows) + "\n```"


def layouts() -> str:
    """Give the table of layouts."""
    from viscera.datasets.layouts import LAYOUTS

    rows = "\n".join(f"| `{name}` | {text} |" for name, text in LAYOUTS.items())
    return f"| layout | folder |\n|---|---|\n{rows}"


def results() -> str:
    """Give the tables of the results that there are: of benchmarks/results/NAME.json by the function below it."""
    tables = {
        "starter": starter_tables.starter,
        "starter_speed": starter_tables.speed,
        "few_shot": starter_tables.few_shot,
        "trust": starter_tables.trust,
        "partial_labels": partial_labels,
        "ablation": ablation,
        "two_step": two_step,
        "regions": regions,
        "regularised": regularised,
        "volume_memory": volume_memory,
        "contrast_study": contrast_study,
        "demo": demo,
        "real": real,
        "real_volumes": real,
        "bench": speed_tables.bench,
        "speed_lidc": speed_tables.whole,
        "speed_wide": speed_tables.cases,
        "speed_hcc": speed_tables.cases,
        "speed_large": speed_tables.cases,
        "speed_export": speed_tables.parts,
        "speed_tidy": speed_tables.parts,
        "folder": speed_tables.folder,
        "unchanged": speed_tables.unchanged,
        "less": speed_tables.less,
        "int8": speed_tables.int8,
        "upsampling": upsampling,
        "files": files,
        "metrics": metrics,
        "training_cpu": training,
    }
    stored = {name: RESULTS / f"{name}.json" for name in tables}
    return "\n\n".join(tables[name](json.loads(file.read_text())) for name, file in stored.items() if file.exists())


def partial_labels(found: dict) -> str:
    """Give what each way of treating unannotated organs reaches."""
    rows = []
    for name, arm in found["arms"].items():
        cells = [f"{with_interval(arm[design][group])}" for design in found["designs"] for group in GROUPS]
        rows.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    arms = [arm for name, arm in found["arms"].items() if name != "complete"]
    gaps = " and ".join(
        f"{min(-100 * arm[design]['unannotated']['minus_complete'][0] for arm in arms):.1f}"
        for design in found["designs"]
    )
    names = ", ".join(found["designs"]).replace("_", " ")
    head = " | ".join(f"{design.replace('_', ' ')}: {group}" for design in found["designs"] for group in GROUPS)
    return (
        f"**Unannotated organs.** {found['patients']['training']} synthetic patients dealt out to data sets that annotate "
        f"different organs, {found['patients']['test']} unseen ones with their whole truth, {found['seeds']} seeds; the same "
        "network and steps in every arm. Dice over the organs that the patient's own data set annotates, and over those that "
        "only another does; mean over organs [95 % interval over patients]:\n\n"
        f"| arm | {head} |\n|---|{'---|' * 2 * len(found['designs'])}\n"
        + "\n".join(rows)
        + f"\n\nOn unannotated organs the best arm stays {gaps} Dice points below complete labels ({names}), in as many steps: "
        "where data sets are disjoint, each step teaches each organ from a third of the patients only."
        + "\n\n![Dice of each arm, both groups of organs](docs/partial_labels.png)"
    )


GROUPS = ("annotated", "unannotated")


def with_interval(row: dict) -> str:
    """Give a mean Dice with its interval."""
    return f"{row['dice']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]"


def in_points(difference: list[float]) -> str:
    """Give a difference in Dice with its interval, in points."""
    mean, low, high = (100 * value for value in difference)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def ablation(found: dict) -> str:
    """Give what viscera2d loses without each of its parts."""
    rows = "\n".join(
        f"| {row['name']} | "
        + " | ".join(in_points(row[group]["minus_viscera2d"]) for group in GROUPS)
        + f" | {row['core_minutes'] / found['seeds']:.1f} |"
        for row in found["rows"][1:]
    )
    best = found["rows"][0]
    return (
        f"**viscera2d, taken apart**: two data sets that overlap, {found['seeds']} seeds, equal slice visits, width 16 on 6 mm "
        f"pixels. All of it: Dice {with_interval(best['annotated'])} over annotated organs, {with_interval(best['unannotated'])} "
        f"over unannotated ones, {best['core_minutes'] / found['seeds']:.1f} core minutes; each row, the difference in Dice "
        "points [95 % interval over patients]:\n\n"
        f"| viscera2d, but | annotated | unannotated | core minutes |\n|---|---|---|---|\n{rows}"
    )


def two_step(found: dict) -> str:
    """Give what gao2step's two small networks reach on unseen patients."""
    shown = found["scores"]["by_organ"] | {
        "tumour": found["scores"]["tumour"],
        "mean of organs": found["scores"]["organs"],
    }
    rows = "\n".join(
        f"| {organ.replace('_', ' ')} | "
        + " | ".join(f"{scores[name]:.3f}" for name in ("dice", "nsd", "flare_dice", "flare_nsd"))
        + " |"
        for organ, scores in shown.items()
    )
    training, patients = found["training"], found["patients"]
    return (
        f"**Two 3D networks, organs and tumours** ({', '.join(found['recipes'].values())}): "
        f"{patients['training']} synthetic patients in FLARE's layout for the organs, {patients['training_tumour']} for tumours, "
        f"{training['organs']['minutes']:.0f} and {training['tumour']['minutes']:.0f} core minutes of training; "
        f"{patients['test']} unseen patients, {found['seconds_median']:.1f} s each on one core, at most "
        f"{found['peak_memory_mib']:.0f} MiB. Dice and surface Dice (NSD) as viscera counts them, and by FLARE's official rules:"
        f"\n\n| organ | Dice | NSD | Dice, FLARE's rules | NSD, FLARE's rules |\n|---|---|---|---|---|\n{rows}"
    )


WAYS = ("middle", "finder", "find", "whole")
"""Where viscera predict looks in 3D."""


def regions(found: dict) -> str:
    """Give what the middle-slices cut costs: gao2step's table 5 with accuracy beside it."""

    def cell(row: dict) -> str:
        scores = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("dice", "nsd", "tumour_dice"))
        return f"{' / '.join(scores)}, {row['seconds']:.1f} s"

    rows = "\n".join(
        f"| {row['slices']} | {' | '.join(cell(row[way]) for way in WAYS)} | "
        f"{', '.join(format(row[way]['peak_memory_mib'], '.0f') for way in WAYS)} |"
        for row in found["rows"]
    )
    return (
        "**Where to look.** The same weights on one synthetic scan each of 55 to 499 slices: the middle 50 slices, as gao2step "
        "published it; the windows that hold organs, as a finder says or, our default, a first pass; every window. Dice / NSD "
        "of 13 organs / Dice of the tumours, seconds on one core; peak memory in MiB in the same order:\n\n"
        f"| slices | {' | '.join(WAYS)} | MiB |\n|{'---|' * (2 + len(WAYS))}\n{rows}"
    )


def regularised(found: dict) -> str:
    """Give what the regularised softmax does beside the plain one."""
    rows = "\n".join(
        f"| {row['softmax']} | {row['seed']} | {row['dice']:.4f} | {row['nsd']:.4f} | {row['spurious']:.1f} | "
        f"{row.get('lambda', '-')} |"
        for row in found["rows"]
    )
    pairs = "; ".join(
        f"seed {pair['seed']}: {in_points(pair['difference'])}" for pair in found["dice_regularised_minus_plain"]
    )
    return (
        f"**The regularised softmax** (runet's last layer) beside the plain one, same network and patches, {found['steps']} steps "
        "each; label maps not tidied, spurious components per scan over four organs:\n\n"
        f"| softmax | seed | Dice | NSD | spurious components | lambda learnt |\n|---|---|---|---|---|---|\n{rows}\n\n"
        f"Dice points, regularised minus plain [95 % interval over patients]: {pairs}."
    )


def volume_memory(found: dict) -> str:
    """Give the peak memory of a large scan."""
    beside = f" ({found['note']})" if "note" in found else ""
    depth, height, width = found["shape"]
    return (
        f"**A large scan in 3D**: {height}x{width}x{depth} voxels of 0.78x0.78x1 mm, gao2step at full width "
        f"({found['parameters'] / 1e6:.1f} M parameters, untrained), {found['classes']} classes, two cores, windows without "
        f"overlap: {found['peak_memory_mib'] / 1024:.2f} GiB at most, {found['seconds']:.0f} s{beside}."
    )


def contrast_study(found: dict) -> str:
    """Give the study of architecture, depth and contrast."""
    organs = [score["organ"] for score in found["results"][0]["classes"] if score["organ"] != "background"]
    rows = []
    for cell in found["results"]:
        scores = {score["organ"]: score for score in cell["classes"]}
        settings = " | ".join(str(value) for value in cell["settings"].values())
        pooled = " | ".join(f"{scores[organ]['pooled']:.3f}" for organ in organs)
        mean = scores["mean"]
        rows.append(
            f"| {settings} | {pooled} | {mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}] | {cell['best_epoch']} |"
        )
    counts = ", ".join(f"{count} for {split}" for split, count in found["splits"].items())
    return (
        f"**Contrast and depth** (`viscera study upv`): {found['patients']} synthetic patients in AbdomenCT-1K's layout, {counts}; "
        f"{found['epochs']} epochs at width 8 on 128x128 slices, one training per row. IoU over all voxels of the test patients on "
        "the prepared grid, and its mean over patients and organs [95 % interval]:\n\n"
        f"| U-Net | depth | contrast | {' | '.join(organs)} | mean per patient | best epoch |\n|{'---|' * (5 + len(organs))}\n"
        + "\n".join(rows)
    )


def upsampling(found: dict) -> str:
    """Give what exact upsampling saves."""
    rows = []
    for case in found["cases"]:
        seconds = {row["name"]: row for row in case["per_100_slices"]}
        wrong = case["pixels_unlike_interpolated"]["nearest"] / case["pixels"]
        rows.append(
            f"| {case['prepared']} to {case['enlarged']} | {case['open_fraction']:.1%} | {seconds['viscera']['median_s']:.2f} | "
            f"{seconds['interpolated']['median_s']:.2f} ({seconds['interpolated']['times_ours']}x) | "
            f"{seconds['nearest']['median_s']:.2f}, {wrong:.2%} of the pixels wrong |"
        )
    return (
        f"**Upsampling** {found['cases'][0]['classes']} classes to the scanner's slices, {found['threads']} thread(s), seconds per "
        "100 slices; viscera's labels are those of the argmax of interpolated logits, pixel by pixel:\n\n"
        "| slices | pixels that must be mixed | viscera | all logits interpolated | nearest neighbour |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
    )


def demo(found: dict) -> str:
    """Give the demo's scores."""
    rows = "\n".join(
        f"| {row['organ'].replace('_', ' ')} | {row['cases']} | {row['dice']} | {row['nsd']} |"
        for row in found["organs"]
    )
    return (
        f"**`make demo`**: {found['training_patients']} synthetic patients, {found['minutes']:.1f} minutes on "
        f"{found['cores']} cores; unseen synthetic patients, organs that their data set annotates, mean "
        f"[95 % interval]:\n\n| organ | cases | Dice | NSD |\n|---|---|---|---|\n{rows}"
    )


def real(found: dict) -> str:
    """Give what a few minutes on one real patient teach."""
    rows = "\n".join(f"| {row['organ']} | {row['dice']:.3f} | {row['nsd']:.3f} |" for row in found["organs"])
    recipe = found.get("recipe", "zhang2d-small")
    return (
        f"**From one real patient to another**: {recipe} trained for {found['minutes']:.0f} minutes on one scan "
        "(labels made by TotalSegmentator), tested on 20 slices of another (likewise). As it is: one patient is not a "
        f"training set.\n\n| organ | Dice | NSD |\n|---|---|---|\n{rows}"
    )


def files(found: dict) -> str:
    """Give reading and writing beside peers."""
    return "**Files**, medians of alternating rounds:\n\n" + beside_peers([found["read"], found["write"]])


def metrics(found: dict) -> str:
    """Give metrics beside peers."""
    parts = [found["overlap"], found["surface"], found["far_flecks"]]
    return "**Metrics**, medians of alternating rounds:\n\n" + beside_peers(parts)


def beside_peers(parts: list[dict]) -> str:
    """Give a table of what was timed: who, seconds, how many times as long as viscera."""
    rows = [
        f"| {part['what']} | {row['name']} | {'-' if row['median_s'] is None else format(row['median_s'], '.3f')} "
        f"| {row['times_ours']} |"
        for part in parts
        for row in part["rows"]
    ]
    return "| what | who | seconds | times viscera's |\n|---|---|---|---|\n" + "\n".join(rows)


def training(found: dict) -> str:
    """Give training speed on the CPU."""
    rows = "\n".join(
        f"| {row['network']} | {row['slice']} | {row['how']} | {row['slices_per_s']:.1f} |" for row in found["rows"]
    )
    return f"**Training on the CPU**, slices per second:\n\n| network | slice | how | slices/s |\n|---|---|---|---|\n{rows}"


def fill(text: str, name: str, content: str) -> str:
    """Put content between <!-- name --> and <!-- /name -->."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def main() -> int:
    """Fill or check the README."""
    file = ROOT / "README.md"
    text = file.read_text()
    new = text
    for name, content in (("layouts", layouts()), ("results", results()), ("tree", tree())):
        new = fill(new, name, content)
    if "--check" in sys.argv:
        return int(new != text)
    file.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
