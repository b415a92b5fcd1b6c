"""What a run learns from, in a few bytes: whether a store still holds the same scans, labels and annotations.

The hashes are of what the store notes of each case, not of the prepared voxels, which may be terabytes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

from viscera.preparation.geometry import geometry_to_json
from viscera.preparation.store import Store

Contents = Mapping[str, Mapping[str, object]]
"""{case: {"annotated": organs, "scan", "labels", "pseudo-labels": hash}}."""


def contents_of(store: Store, names: Iterable[str]) -> dict[str, dict[str, object]]:
    """Return what cases of a store hold.

    Raises:
        StoreError: A case is missing or damaged.
    """
    found = {}
    for name in names:
        facts = store.facts(name)
        source = facts.source
        pseudo = store.path / "cases" / name / "pseudo.json"
        found[name] = {
            "annotated": list(facts.annotated),
            "scan": _hash(facts.image_sha256, facts.hu, geometry_to_json(facts.geometry)),
            "labels": _hash(source.labels_sha256, source.organs, source.unknown, facts.voxels),
            "pseudo-labels": _hash(pseudo.read_text(encoding="utf-8")) if pseudo.is_file() else "",
        }
    return found


def changes(before: Contents, now: Contents) -> list[str]:
    """Say of each case what is another one than before.

    Example:
        >>> old = {"a": {"annotated": ["liver"], "labels": "1f"}, "b": {"annotated": [], "labels": "2e"}}
        >>> changes(old, {"a": {"annotated": ["liver", "spleen"], "labels": "77"}, "b": {"annotated": [], "labels": "2e"}})
        ['case a has other labels, and annotates liver, spleen (before: liver)']
    """
    found = []
    for name in sorted(before.keys() | now.keys()):
        if name not in before or name not in now:
            found.append(f"case {name} {'came' if name in now else 'went'}")
            continue
        old, new = before[name], now[name]
        words = [what for what in new if what != "annotated" and old.get(what) != new[what]]
        said = [f"has {'another' if words == ['scan'] else 'other'} {' and '.join(words)}"] if words else []
        if old.get("annotated") != new["annotated"]:
            organs = (", ".join(one["annotated"]) or "nothing" for one in (new, old))  # type: ignore[arg-type]
            said.append("annotates {} (before: {})".format(*organs))
        if said:
            found.append(f"case {name} {', and '.join(said)}")
    return found


def _hash(*facts: object) -> str:
    """Return a hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
