"""Damaged files for property tests: what a bad disk, a broken transfer or somebody malicious makes of a good one."""

from collections.abc import Sequence

from hypothesis import strategies as st

PLACES = st.integers(0, 2**20)
# Numbers that length and size fields are usually confused by, beside plain bytes.
EXTREMES = [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x01\x00\x00", b"\x80\x00"]
PIECES = st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(EXTREMES))
EDITS = st.tuples(
    st.sampled_from(["replace", "replace", "replace", "insert", "remove", "cut", "repeat"]), PLACES, PIECES
)


def mutated(samples: Sequence[bytes], header: int = 2**20) -> st.SearchStrategy[bytes]:
    """One of ``samples`` after one to four edits that start within its first ``header`` bytes."""
    edits = st.lists(EDITS, min_size=1, max_size=4)
    return st.builds(_edited, st.sampled_from(samples), edits, st.just(header))


def _edited(content: bytes, edits: list[tuple[str, int, bytes]], header: int) -> bytes:
    for kind, place, piece in edits:
        place %= min(len(content), header) or 1
        before, after = content[:place], content[place:]
        if kind == "replace":
            content = before + piece[: len(after)] + after[len(piece) :]
        elif kind == "insert":
            content = before + piece + after
        elif kind == "remove":
            content = before + after[len(piece) :]
        elif kind == "repeat":
            content = before + after[:64] + after
        else:
            content = before
    return content
