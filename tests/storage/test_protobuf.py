"""Messages of protobuf: fields, and content that is none."""

import random

import pytest

from retinaflow.storage.protobuf import Message, message_of

# Field 1: the number 150. Field 2: the text "testing". Fields 3 and 4: of eight and four bytes. Field 5: empty.
CONTENT = b"\x08\x96\x01\x12\x07testing\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x2a\x00"


def values(message):
    return [(number, value.bytes() if isinstance(value, Message) else value) for number, value in message.fields()]


def test_fields_of_each_kind_are_read():
    assert values(message_of(CONTENT)) == [(1, 150), (2, b"testing"), (3, bytes(8)), (4, bytes(4)), (5, b"")]
    outer = b"\x0a" + bytes([len(CONTENT)]) + CONTENT
    (inner,) = message_of(memoryview(outer)).inner(1)
    assert values(inner) == values(message_of(CONTENT))
    assert [each.bytes(4) for each in inner.inner(2, 5)] == [b"test", b""]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\x08", "ends within a number"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes"),
        (b"\x12\x08testing", "longer than its message"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "longer than its message"),
        (b"\x02\x00", "longer than its message"),
        (b"\x0b", "wire type 3"),
        (b"\x19\x00", "longer than its message"),
    ],
)
def test_content_that_is_no_message_is_an_error(content, fault):
    with pytest.raises(ValueError, match=fault):
        values(message_of(content))


def test_any_bytes_end_with_fields_or_one_error():
    rng = random.Random(1)  # noqa: S311
    whole = 0
    for _ in range(3000):
        content = rng.randbytes(rng.randrange(40))
        try:
            found = values(message_of(content))
        except ValueError:
            continue
        whole += 1
        assert sum(len(value) for _, value in found if isinstance(value, bytes)) <= len(content)
    assert whole > 50
