"""How tests damage files."""

from pathlib import Path


def truncate(path: Path) -> None:
    """Leave the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
