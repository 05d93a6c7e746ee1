"""Whether a cluster has room for more workers."""

from collections.abc import Mapping


def lacking(
    wanted: Mapping[str, float], available: Mapping[str, float], *, workers: int, most: int | None = None
) -> str:
    """What is missing, in words; empty if there is room.

    wanted and available: amounts by Ray's names. workers: how many there would be; most: how many a machine may have.
    """
    if most is not None and workers > most:
        return f"{workers} workers on one machine, which has cores for {most}"
    short = [
        f"{amount:g} {name} (there {'is' if available.get(name, 0) == 1 else 'are'} {available.get(name, 0):g} left)"
        for name, amount in wanted.items()
        if amount > available.get(name, 0) + 1e-6
    ]
    return f"they need {', '.join(short)}" if short else ""
