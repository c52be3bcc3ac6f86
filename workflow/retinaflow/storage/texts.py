"""Text that comes from outside, such as names of files, for a terminal or a log."""


def printable(text: str) -> str:
    """Escape control characters, marks of direction, and bytes of a file name that are no UTF-8."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
