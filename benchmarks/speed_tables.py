"""What speed.py, unchanged.py, less.py and int8.py measured, as Markdown for tables.py."""


def whole(found: dict) -> str:
    """Give file-to-file seconds and memory beside peers, and the stages of the first scan."""
    return "\n\n".join((cases(found), stages(found)))


def parts(found: dict) -> str:
    """Give the 3D export and post-processing."""
    return "\n\n".join(table(found[name]) for name, table in (("export", export), ("tidy", tidy)) if name in found)


def cases(found: dict) -> str:
    """Give who takes how long and how much, by scan and network."""
    rows = []
    for case in found["cases"]:
        network = f"{case['recipe']}, {case['parameters'] / 1e6:.1f} M"
        for row in case["rows"]:
            begin = f"| {case['shape']} | {network} | {row['name']} |"
            if "failed" in row:
                rows.append(f"{begin} failed: {row['failed']} | | | | | |")
                continue
            unlike = row.get("labels_unlike_exact_fraction")
            rows.append(
                f"{begin} {row['median_s']:.2f} ({times(row, 'times_ours')}) | {row['network_s']:.2f} "
                f"| {row['outside_s']:.2f} ({times(row, 'times_ours_outside')}) "
                f"| {row['start_up_s'] + row['warm_up_s']:.1f} | {row['peak_mib']:.0f} ({times(row, 'times_our_memory')}) "
                f"| {'-' if unlike is None else format(unlike, '.3%')} |"
            )
    return (
        f"**Beside peers, file to file**: the same scan, weights and {found['threads']} thread(s), a process each, medians of "
        f"{found['rounds']} alternating rounds ({found['slow_rounds']} of the slow ones), in brackets times viscera's; start-up "
        f"apart. nnU-Net {found['nnunet']}. The last column: voxels labelled otherwise than by viscera in fp32 on every slice.\n\n"
        "| scan | network | who | file to file, s | network, s | all else, s | start-up, s | peak memory, MiB | labels unlike |\n"
        f"|{'---|' * 9}\n" + "\n".join(rows)
    )


def times(row: dict, name: str) -> str:
    """Give a ratio."""
    return f"{row[name]:g}x" if name in row else "-"


def stages(found: dict) -> str:
    """Give where the time goes on the first scan, network by network."""
    first = [case for case in found["cases"] if case["scan"] == found["cases"][0]["scan"]]
    rows = [
        f"| {case['parameters'] / 1e6:.1f} M | {row['name']} | "
        + ", ".join(f"{name} {seconds:.2f}" for name, seconds in row["stages_s"].items() if seconds >= 0.005)
        + " |"
        for case in first
        for row in case["rows"]
        if "failed" not in row
    ]
    return (
        f"**Stages** of {first[0]['scan']} ({first[0]['shape']}), seconds (viscera's `network` includes the labels on the "
        f"scanner's slices, slice by slice):\n\n| parameters | who | stages |\n|{'---|' * 3}\n" + "\n".join(rows)
    )


def export(found: dict) -> str:
    """Give the 3D export."""
    rows = []
    for row in found["rows"]:
        if "failed" in row:
            rows.append(f"| {row['name']} | failed: {row['failed']} | | |")
            continue
        unlike = row.get("voxels_unlike_ours_fraction")
        rows.append(
            f"| {row['name']} | {row['median_s']:.2f} ({row.get('times_ours', 1.0):g}x) | {row['peak_mib_beyond_logits']:.0f} "
            f"| {'-' if unlike is None else format(unlike, '.4%')} |"
        )
    return (
        f"**3D export**: logits of {found['classes']} classes on {found['prepared']} voxels ({found['logits_mib']:.0f} MiB) to "
        f"labels on {found['grid']}:\n\n| who | seconds | MiB beyond the logits | voxels unlike |\n|{'---|' * 4}\n"
        + "\n".join(rows)
    )


def tidy(found: dict) -> str:
    """Give post-processing."""
    rows = [
        f"| {task['what']} | {row['name']} | {row['median_s']:.2f} ({row['times_ours']:g}x) "
        f"| {task['voxels_unlike_ours'][row['name']]} |"
        for task in found["tasks"]
        for row in task["rows"]
    ]
    return (
        f"**Post-processing** of {found['labels']}, one thread:\n\n| what | who | seconds | voxels unlike viscera's |\n"
        f"|{'---|' * 4}\n" + "\n".join(rows)
    )


def unchanged(found: dict) -> str:
    """Give what each step towards the fast path changes."""
    rows = []
    for where in ("scans", "patients"):
        if where not in found:
            continue
        for row in found[where]["rows"]:
            dice = [value for value in row["dice_with_plain"].values() if value is not None]
            truth = "- | - | -"
            if "mean_dice_with_truth" in row:
                truth = (
                    f"{row['mean_dice_with_truth']:.4f} | {row['mean_dice_points_from_plain']:+.3f} "
                    f"| {row['largest_dice_points_of_a_case']:.3f}"
                )
            what = f"{len(found[where]['cases'])} {'real scans' if where == 'scans' else 'synthetic test patients'}"
            rows.append(
                f"| {what} | {row['step']} | {row['unlike_plain_fraction']:.4%} | {min(dice, default=1.0):.4f} | {truth} |"
            )
    return (
        f"**Results unchanged?** {found['recipe']}, {found['classes']} classes, from the plain path to the fast one, one change "
        "after the other. Voxels unlike the plain path's and the lowest Dice of an organ with it; mean Dice with the truth, its "
        "change in points, and the largest change of an organ of a patient:\n\n"
        "| on | step | voxels unlike | lowest Dice with plain | Dice with truth | points | largest |\n"
        f"|{'---|' * 7}\n" + "\n".join(rows)
    )


def less(found: dict) -> str:
    """Give what skipping slices saves and costs."""
    rows = []
    for row in found["synthetic"]["rows"]:
        points = row["dice_points"].values()
        seconds = [next(one["median_s"] for one in scan["rows"] if one["way"] == row["way"]) for scan in found["scans"]]
        rows.append(
            f"| {row['way']} | {' | '.join(f'{each:.2f}' for each in seconds)} | {row['seconds']:.1f} "
            f"| {min(points):+.3f} to {max(points):+.3f} |"
        )
    scans = " | ".join(
        f"{scan['scan'].split('_')[0]} {'x'.join(map(str, scan['shape']))}, s" for scan in found["scans"]
    )
    return (
        f"**Slices that are skipped** between two, so far apart, that hold no organ ({found['recipe']}, {found['runtime']}; "
        f"reading and writing apart); {found['synthetic']['patients']} unseen synthetic patients, Dice points lost:\n\n"
        f"| slices seen first | {scans} | synthetic, s | Dice points |\n|{'---|' * (len(found['scans']) + 3)}\n"
        + "\n".join(rows)
    )


def int8(found: dict) -> str:
    """Give a network's time and what its organs lose in each precision."""
    rows = []
    for row in found["rivals"]:
        points = [abs(value) for value in row.get("dice_difference_points", {}).values()]
        rows.append(f"| {row['name']} | {row['ms_per_slice']:.1f} | {format(max(points), '.3f') if points else '-'} |")
    return (
        f"**Precision**: {found['recipe']}, {found['threads']} thread(s), chunks of {found['chunk']}, median; the largest change "
        "of an organ's Dice against torch in fp32, in points, on the test patients:\n\n"
        "| what | ms per slice | Dice points |\n|---|---|---|\n" + "\n".join(rows)
    )


def bench(found: dict) -> str:
    """Give what `viscera bench` measured on a real scan."""
    stages = ("read", "prepare", "network", "postprocess", "write")
    rows = [
        f"| {name}, {one['precision']} | {' | '.join(format(one['median_s'][stage], '.2f') for stage in stages)} "
        f"| {one['median_s']['file to file']:.2f} | {sorted(one['start_up_s'])[1]:.2f} | {one['peak_memory_mib']:.0f} "
        f"| {one['peak_fraction']:.0%} |"
        for name, one in found["runtimes"].items()
    ]
    scan = "x".join(str(found["scan"][side]) for side in ("columns", "rows", "slices"))
    return (
        f"**A scan of {scan}, file to file** (`viscera bench`, LIDC-IDRI-0314, {found['recipe']}, trained, 12 classes, a quiet "
        "machine with two cores and AMX), medians of 5, seconds; the last column: what the network reaches of this machine's "
        f"convolution peak:\n\n| runtime | {' | '.join(stages)} | file to file | start-up | peak memory, MiB | of the peak |\n"
        f"|{'---|' * 10}\n" + "\n".join(rows)
    )


def folder(found: dict) -> str:
    """Give what reading ahead and writing behind bring."""
    rows = {row["way"]: row for row in found["rows"]}
    scans = found["copies"] * len(found["scans"])
    return (
        f"**A folder of {scans} scans** ({found['recipe']}, two cores, medians of {len(rows['overlapped']['seconds'])} alternating "
        f"rounds): {rows['one by one']['median_s']:.1f} s one by one, {rows['overlapped']['median_s']:.1f} s with the next read "
        "and the last written beside the network."
    )
