"""Write the README's generated parts: results from benchmarks/results, the tree from the modules' docstrings.

Usage: python benchmarks/tables.py          (make tables)
       python benchmarks/tables.py --check  exits with 1 if the README is not up to date
"""

import ast
import json
import sys
from pathlib import Path

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
    for layer in reversed(contract["layers"]):
        name = layer.removeprefix("viscera.")
        file = PACKAGE / f"{name}.py"
        if file.exists():
            rows.append((f"{name}.py", first_line(file)))
            continue
        rows.append((f"{name}/", first_line(PACKAGE / name / "__init__.py")))
    width = max(len(name) for name, _ in rows)
    return "```\nsrc/viscera/\n" + "\n".join(f"    {name:<{width}}  {text}" for name, text in rows) + "\n```"


def layouts() -> str:
    """Give the table of layouts."""
    from viscera.datasets import LAYOUTS

    rows = "\n".join(f"| `{name}` | {text} |" for name, text in LAYOUTS.items())
    return f"| layout | folder |\n|---|---|\n{rows}"


def results() -> str:
    """Give the tables of the results that there are: of benchmarks/results/NAME.json by the function below it."""
    tables = {
        "partial_labels": partial_labels,
        "ablation": ablation,
        "demo": demo,
        "real": real,
        "predict": predict,
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
    return (
        f"**From one real patient to another**: zhang2d-small trained for {found['minutes']:.0f} minutes on one scan "
        f"(labels made by TotalSegmentator), tested on 20 slices of another (likewise). As it is: one patient is not a "
        f"training set.\n\n| organ | Dice | NSD |\n|---|---|---|\n{rows}"
    )


def predict(found: dict) -> str:
    """Give seconds and memory of segmenting real scans."""
    rows = "\n".join(
        f"| {row['scan']} | {row['shape']} | {row['recipe']} | {row['file_to_file_s']:.1f} | {row['network_s']:.1f} "
        f"| {row['peak_mib']:.0f} |"
        for row in found["scans"]
    )
    return (
        "**Segmenting real scans** on two cores, one process each, start-up apart (zhang2d: untrained weights, for time only):\n\n"
        "| scan | voxels | recipe | file to file, s | of that the network, s | peak memory, MiB |\n|---|---|---|---|---|---|\n"
        + rows
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
