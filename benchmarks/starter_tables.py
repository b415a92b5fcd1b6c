"""The README's tables of the weights that come with viscera: arms on real scans, few annotated scans, signs of distrust."""

ABOUT = {
    "20 slices": "20 slices of another patient, labels by TotalSegmentator",
    "3 mm": "ts_example_ct_3mm, labels by TotalSegmentator",
    "HCC_048_portal_venous": "kidneys of HCC_048, found by their HU",
    "HCC_006_LIVER_3PHASE": "kidneys of HCC_006, found by their HU",
    "spleen": "spleen_8 of the Decathlon, labels by experts",
    "liver": "three slices, DICOM SEG of dcmqi",
}


def starter(found: dict) -> str:
    """Give Dice and NSD of every arm on every real scan."""
    arms = found["arms"]
    lines = [
        f"- *{row['arm']}*: {row['about']}; {row['slices']} slices, {row['core_minutes']:.0f} minutes beside other work"
        for row in arms
    ]
    parts = [
        "**The weights that come with viscera, and the ways tried to train them.** Everything below is measured on real scans "
        "that had no part in training:\n\n" + "\n".join(lines)
    ]
    for scan, about in ABOUT.items():
        shown = [row for row in arms if scan in row["scans"]]
        organs = dict.fromkeys(organ for row in shown for organ in row["scans"][scan])
        rows = [
            f"| {organ.replace('_', ' ')} | " + " | ".join(pair(row["scans"][scan][organ]) for row in shown) + " |"
            for organ in organs
        ]
        head = " | ".join(row["arm"].replace("_", " ") for row in shown)
        parts.append(f"Dice / NSD on {about}:\n\n| organ | {head} |\n|{'---|' * (1 + len(shown))}\n" + "\n".join(rows))
    return "\n\n".join(parts)


def pair(scores: dict[str, float]) -> str:
    """Give Dice and NSD."""
    return f"{scores['dice']:.3f} / {scores['nsd']:.3f}"


def speed(found: dict) -> str:
    """Give seconds and memory of the command."""
    rows = "\n".join(
        f"| {row['scan']} | {row['way']} | {row['scan_s']:.2f} | {row['command_s']:.2f} | {row['peak_mib']:.0f} |"
        for row in found["rows"]
    )
    return (
        f"**`viscera predict SCAN LABELS`**, nothing but the package, {found['cores']} cores, medians of {found['rounds']}:\n\n"
        f"| scan | said | file to file, s | whole command, s | MiB |\n|---|---|---|---|---|\n{rows}"
    )


def few_shot(found: dict) -> str:
    """Give what so many annotated patients of one's own bring."""
    counts = list(dict.fromkeys(row["patients"] for row in found["rows"]))
    ways = list(dict.fromkeys(row["from"] for row in found["rows"] if row["patients"]))
    cells = {(row["from"], row["patients"]): row for row in found["rows"]}
    untouched = next(row for row in found["rows"] if not row["patients"])
    rows = [f"| 0 | {interval(untouched)} (untouched) | " + " | ".join("-" for _ in ways[1:]) + " |"]
    for count in counts[1:]:
        shown = [interval(cells[way, count]) if (way, count) in cells else "-" for way in ways]
        rows.append(f"| {count} | " + " | ".join(shown) + " |")
    test = found["patients"]["test"]
    return (
        "**How many scans must be annotated?** Synthetic patients of a scanner that the weights never saw (HU compressed and "
        "raised, softer, noisier), FLARE's 13 organs; fine-tuned with `--start starter`, or trained from nothing. Mean Dice over "
        f"organs [95 % interval over {test} unseen patients]:\n\n| annotated | {' | '.join(ways)} |\n"
        f"|{'---|' * (1 + len(ways))}\n" + "\n".join(rows)
    )


def interval(row: dict) -> str:
    """Give a mean Dice with its interval."""
    return f"{row['dice']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]"


def trust(found: dict) -> str:
    """Give how often signs are raised, on organs and on scans."""
    organs = "\n".join(
        f"| {kind} | " + " | ".join(share(groups.get(group)) for group in ("good", "bad")) + " |"
        for kind, groups in found["organ_signs"].items()
    )
    scans = "\n".join(
        f"| {way} | {', '.join(f'{kind} {share(count)}' for kind, count in signs.items()) or 'none'} |"
        for way, signs in found["scan_signs"].items()
    )
    return (
        f"**Signs that a result should not be trusted** (`--statistics`), on {found['patients']} unseen synthetic patients, each "
        "as it is and in each wrong way, and on the real scans; how often each is raised on organs segmented well (Dice above "
        "0.85) "
        "and badly (below 0.5, or not there):\n\n"
        f"| sign | good organs | bad organs |\n|---|---|---|\n{organs}\n\n"
        f"| scan | signs of the scan itself |\n|---|---|\n{scans}"
    )


def share(count: list[int] | None) -> str:
    """Give how many of how many."""
    return f"{count[0]} of {count[1]}" if count else "-"
