"""Numbers in words, for people."""


def many(count: int, word: str, ending: str = "s") -> str:
    """``1 class``, ``2,000 classes``: a number and what it counts, with ``ending`` unless it is one."""
    return f"{count:,} {word}{ending if count != 1 else ''}"
