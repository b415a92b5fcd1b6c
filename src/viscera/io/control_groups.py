"""Control groups: where Linux says what a process, or what it is in, may use of the machine."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def group_folders(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Yield where the files of this process's control groups may be, and of all groups that they are in; on Linux only.

    Source: kernel.org, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/cgroups.rst.

    Args:
        controller: "cpu" or "memory".
        root: Of the file system; another one in tests.
    """
    for line in text_of(root / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        # In a container the root of what is mounted may be the group itself, and its path that of the machine.
        path = PurePosixPath(group.strip().lstrip("/"))
        for mount in _mounts(root, controllers, controller):
            for place in dict.fromkeys((path, *path.parents)):
                yield mount / place


def text_of(file: Path) -> str:
    """Return what a file of the system says; nothing where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _mounts(root: Path, controllers: str, controller: str) -> tuple[Path, ...]:
    """List where a hierarchy of control groups may be mounted; version 2 names no controllers."""
    place = root / "sys" / "fs" / "cgroup"
    if not controllers:
        return place, place / "unified"
    return (place / controllers, place / controller) if controller in controllers.split(",") else ()
