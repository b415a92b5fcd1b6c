"""Write what is generated: docs/results.md, the marked parts of README and docs, and the package's table of speeds elsewhere.

    python benchmarks/tables.py          (make tables)
    python benchmarks/tables.py --check  exits with 1 if anything is not up to date

results.md.jinja says what the page shows of benchmarks/results. What stands between <!-- NAME --> and <!-- /NAME --> in README.md
or a page of docs is filled in: accuracy, speed, layouts, tree.
"""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "viscera"
CARD = PACKAGE / "networks" / "bundled" / "starter.json"
ELSEWHERE = PACKAGE / "deployment" / "elsewhere.json"
"""What `viscera bench` says of other processors."""
WAYS = ("default", "--runtime torch")
"""Of the command, in README and ELSEWHERE."""
GROUPS = ["annotated", "unannotated"]
SCANS = {
    "20 slices": "20 slices of the upper abdomen, labels by TotalSegmentator",
    "3 mm": "ts_example_ct_3mm, labels by TotalSegmentator",
    "kidneys": "HCC_048 and HCC_006, kidneys found by their HU",
    "HCC_048_portal_venous": "HCC_048, kidneys found by their HU",
    "HCC_048_portal_venous_sinus_aside": "HCC_048, the same without what lies in their sinus",
    "HCC_006_LIVER_3PHASE": "HCC_006, kidneys found by their HU",
    "HCC_006_LIVER_3PHASE_sinus_aside": "HCC_006, the same without what lies in their sinus",
    "spleen": "spleen_8 of the Decathlon, labels by experts",
    "liver": "Three slices of dcmqi's example, DICOM SEG, semi-automatic",
}
"""{name of a real scan in the results: what it is}."""
UNSAID = {"Intel(R) Xeon(R) Processor": "AMX"}
"""What the results before the 26th of November 2026 do not say of their only machine."""


def results() -> dict[str, Any]:
    """Return what was measured: {name of the file: its content, a list where it is of several machines}."""
    folder = ROOT / "benchmarks" / "results"
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def measurements(found: dict[str, Any]) -> list[dict]:
    """Return all results, each of one machine."""
    return [row for one in found.values() for row in (one if isinstance(one, list) else [one])]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(row) for row in rows)]
    return "\n".join(f"|{line}|" if line.startswith("---") else f"| {line} |" for line in lines)


def words(name: str) -> str:
    """Return the name of an organ or arm as people write it."""
    return name.replace("_", " ")


def formatted(value: float | None, digits: int, style: str = "{:.{digits}f}") -> str:
    """Return a number, or a dash where there is none."""
    missing = value is None or isinstance(value, jinja2.Undefined)
    return "-" if missing else style.format(value, digits=digits)


def interval(row: dict) -> str:
    """Return a mean Dice with its interval, or a dash."""
    return f"{row['dice']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]" if row else "-"


def in_points(difference: Sequence[float | None], digits: int = 1) -> str:
    """Return a difference in Dice in points, with its interval where there is one."""
    mean, low, high = (None if value is None else 100 * value for value in difference)
    ends = "" if low is None else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{mean:+.{digits}f}{ends}"


def gap(arms: dict[str, dict], design: str) -> str:
    """Return how many Dice points the best arm stays below complete labels on unannotated organs."""
    minus = [arm[design]["unannotated"]["minus_complete"][0] for name, arm in arms.items() if name != "complete"]
    return f"{min(-100 * one for one in minus):.1f}"


def kind(found: dict) -> str:
    """Return the processor of a result and its vector instructions."""
    machine = found["machine"]
    name = machine["processor"] if isinstance(machine, dict) else machine
    instructions = found.get("kind") or found.get("instructions") or UNSAID[name]
    return f"{name.replace('(R)', '').removesuffix(' Processor')}, {instructions}"


def cores(found: dict) -> int:
    """Return the cores of a result's machine."""
    return found["machine"]["cores"] if isinstance(found["machine"], dict) else found["cores"]


def runtime(row: dict) -> str:
    """Return what ran the network, and in which precision if that was noted."""
    names = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}
    return f"{names.get(row['runtime'], row['runtime'])} {row['precision'] or ''}".strip()


def organs_of(scans: Iterable[dict], scan: str) -> list[str]:
    """Return the organs that arms were measured on in a scan."""
    return list(dict.fromkeys(organ for one in scans for organ in one[scan]))


FILTERS: dict[str, Callable] = {
    "words": words,
    "f": formatted,
    "runtime": runtime,
    "percent": lambda value, digits: formatted(value, digits, "{:.{digits}%}"),
    "signed": lambda value, digits: formatted(value, digits, "{:+.{digits}f}"),
    "times": lambda value: "" if isinstance(value, jinja2.Undefined) else f" ({value:g}x)",
    "share": lambda count: "-" if isinstance(count, jinja2.Undefined) else f"{count[0]} of {count[1]}",
    "interval": interval,
    "points": in_points,
    "gap": gap,
    "kind": kind,
    "processor": lambda found: f"{kind(found)}, {cores(found)} cores",
    "network": lambda case: f"{case['recipe']}, {case['parameters'] / 1e6:.1f} M",
    "organs_of": organs_of,
}


def results_page(found: dict[str, dict]) -> str:
    """Return docs/results.md."""
    loader = jinja2.FileSystemLoader(ROOT / "benchmarks")
    page = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    page.filters |= FILTERS
    kinds = list(dict.fromkeys(map(kind, measurements(found))))
    text = page.get_template("results.md.jinja").render(
        **found, results=found, real_scans=SCANS, groups=GROUPS, kinds=kinds
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def accuracy() -> str:
    """Return what the bundled weights reach on real scans, by the organs that they find by default."""
    organs = json.loads(CARD.read_text())["organs"]
    rows, further = [], []
    for organ, said in organs.items():
        if said["standing"] != "shipped":
            further.append(words(organ))
            continue
        figures = {(one["on"], one["measure"]): one for one in said["figures"]}
        for on in dict.fromkeys(one["on"] for one in said["figures"]):
            dice, nsd = figures[on, "dice"], figures[on, "nsd"]
            about = SCANS[on][0].upper() + SCANS[on][1:] if on == "liver" else SCANS[on]
            rows.append([words(organ), f"{dice['mean']:.2f}", f"{nsd['mean']:.2f}", about, str(dice["cases"])])
    return (
        table(["organ", "Dice", "surface Dice", "real scans", "n"], rows)
        + f"\n\nExperimental, with `--organs all`: {', '.join(further)}."
    )


def newest(rows: Sequence[dict]) -> list[dict]:
    """Return the rows of results/speed.json that say what viscera takes today: "after" where that was measured, else "before"."""

    def which(row: dict) -> tuple[str, ...]:
        return kind(row), str(row["cores"]), row["scan"], row["way"]

    after = {which(row) for row in rows if row["state"] == "after"}
    return [row for row in rows if row["way"] in WAYS and (row["state"] == "after" or which(row) not in after)]


def speed(rows: Sequence[dict]) -> str:
    """Return seconds of `viscera predict` by kind of processor.

    Args:
        rows: Of results/speed.json.

    Raises:
        ValueError: They are of one kind of processor, whose seconds would be taken for everybody's.
    """
    if len({row["kind"] for row in rows}) < 2:
        raise ValueError("results/speed.json must have rows of at least two kinds of processor")
    shown = newest(rows)
    head = [
        "processor",
        "runtime",
        "scan",
        "file to file, s",
        "whole command, s",
        "CPU, s",
        "memory, MiB",
        "viscera of",
    ]
    cells = [
        [
            f"{kind(row)}, {row['cores']} cores",
            runtime(row),
            row["scan"],
            formatted(row["file_to_file_s"], 1),
            formatted(row["command_s"], 1),
            formatted(row["cpu_s"], 1),
            formatted(row["peak_mib"], 0),
            f"{row['date'][:10]}, {row['commit']}",
        ]
        for row in shown
    ]
    older = list(dict.fromkeys(kind(row) for row in shown if row["state"] == "before"))
    mixed = older and any(row["state"] == "after" for row in shown)
    return table(head, cells) + (f"\n\nOf an earlier viscera: {'; '.join(older)}." if mixed else "")


def elsewhere(rows: Sequence[dict]) -> str:
    """Return the package's table of what the command takes on each kind of processor.

    Args:
        rows: Of results/speed.json.
    """
    same = ("kind", "cores", "scan", "runtime", "precision", "command_s", "file_to_file_s", "commit")
    figures = [
        {key: row[key] for key in same} | {"processor": kind(row).partition(",")[0], "date": row["date"][:10]}
        for row in newest(rows)
    ]
    return json.dumps({"figures": figures}, indent=2) + "\n"


def layouts() -> str:
    """Return the table of layouts."""
    from viscera.datasets.layouts import LAYOUTS

    return table(["layout", "folder"], [[f"`{name}`", text] for name, text in LAYOUTS.items()])


def tree() -> str:
    """Return one line per file and folder of the package, in the order of permitted imports."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    rows = []
    for name in [name.strip() for layer in reversed(contract["layers"]) for name in layer.split("|")]:
        single = (PACKAGE / f"{name}.py").exists()
        file = PACKAGE / f"{name}.py" if single else PACKAGE / name / "__init__.py"
        told = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0].rstrip(".")
        rows.append((file.name if single else f"{name}/", told))
    width = max(len(name) for name, _ in rows)
    return "```\nsrc/viscera/\n" + "\n".join(f"    {name:<{width}}  {text}" for name, text in rows) + "\n```"


def filled(text: str, parts: dict[str, str]) -> str:
    """Return a page with its marked parts filled in."""
    for name, content in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = rf"(?ms)^{re.escape(begin)}$.*?^{re.escape(end)}$"
        text = re.sub(pattern, lambda _, b=begin, c=content, e=end: f"{b}\n{c}\n{e}", text)
    return text


def main() -> int:
    """Write, or check, every generated page and part."""
    found = results()
    parts = {"accuracy": accuracy(), "speed": speed(found["speed"]), "layouts": layouts(), "tree": tree()}
    page = ROOT / "docs" / "results.md"
    pages = [file for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if file != page]
    new = {file: filled(file.read_text(), parts) for file in pages} | {
        page: results_page(found),
        ELSEWHERE: elsewhere(found["speed"]),
    }
    stale = [file for file, text in new.items() if not file.exists() or file.read_text() != text]
    for file in stale:
        print(file.relative_to(ROOT))
        if "--check" not in sys.argv:
            file.write_text(new[file])
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
