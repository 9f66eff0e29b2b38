"""What a container or a batch system (Docker, Kubernetes, Slurm) leaves of the memory: Linux' control groups."""

from pathlib import Path

FILES = {  # version: (limit, in use, the line of memory.stat with what Linux gives back when memory is short)
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
NO_LIMIT = 2**60  # bytes; version 1 writes a number above it for "none"


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that the control groups of this process still leave it; None if none sets a limit, or there are none.

    The limit of a group holds for all groups below it, so each is asked up to the first. root: of the file system.
    """
    left = [free for version, folder in _groups(root) if (free := _left(folder, version)) is not None]
    return max(0, min(left)) if left else None


def _groups(root: Path) -> list[tuple[int, Path]]:
    """(version, folder) of every group that may limit the memory of this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        mounts = (
            {1: ["memory"]} if "memory" in controllers.split(",") else {2: ["", "unified"]} if not controllers else {}
        )
        for version, names in mounts.items():
            for mount in (root / "sys/fs/cgroup" / name for name in names):
                folder = mount / path.strip("/")  # in a container it may be the host's, and not be there
                found += [(version, one) for one in (folder, *folder.parents) if one.is_relative_to(mount)]
    return found


def _left(folder: Path, version: int) -> int | None:
    """Bytes between a group's limit and what it uses; None without a limit."""
    limit_file, used_file, given_back = FILES[version]
    try:
        limit, used = (folder / limit_file).read_text().strip(), int((folder / used_file).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        left = int(limit) - used + int(stat.get(given_back, 0))
    except (OSError, ValueError):  # "max" is no number
        return None
    return left if int(limit) < NO_LIMIT else None
