"""Bytes in words."""

GIB = 2**30


def gib(size: float) -> str:
    """Bytes as GiB, or as MiB where there are few: 3.2 GiB, 64 MiB, 0.4 MiB."""
    mib = size / 2**20
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{mib:.{0 if mib >= 10 or not mib else 1}f} MiB"
