"""Reader of the messages of protobuf, which ONNX files consist of. Needs no package.

See protobuf.dev/programming-guides/encoding. Messages are places in one content: no part of it is copied.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


class Message(NamedTuple):
    """Bytes of a field, which may be a message: a content, and the place of the bytes in it.

    Attributes:
        content: Content of the file.
        start: First byte.
        end: Byte after the last one.
    """

    content: memoryview
    start: int
    end: int

    def fields(self) -> Iterator[tuple[int, "int | Message"]]:
        """Yield number and value of each field: a number, or its bytes.

        Raises:
            ValueError: This is no message, or not all of one.
        """
        place = self.start
        while place < self.end:
            key, place = self._varint(place)
            number, wire = key >> 3, key & 7
            if wire == VARINT:
                value, place = self._varint(place)
                yield number, value
                continue
            if wire == DELIMITED:
                length, place = self._varint(place)
            elif wire in (FIXED64, FIXED32):
                length = 8 if wire == FIXED64 else 4
            else:
                raise ValueError(f"a field has wire type {wire}")
            if number == 0 or length > self.end - place:
                raise ValueError("a field is longer than its message")
            yield number, Message(self.content, place, place + length)
            place += length

    def inner(self, *numbers: int) -> Iterator["Message"]:
        """Yield the messages in the fields of some numbers."""
        yield from (value for number, value in self.fields() if number in numbers and is_message(value))

    def bytes(self, most: int | None = None) -> bytes:
        """Return the bytes, or the first ``most``."""
        end = self.end if most is None else min(self.end, self.start + most)
        return bytes(self.content[self.start : end])

    def _varint(self, place: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if place >= self.end:
                raise ValueError("it ends within a number")
            byte = self.content[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
        raise ValueError("a number has more than ten bytes")


def message_of(content: memoryview | bytes) -> Message:
    """Return the message that a whole content is."""
    view = content if isinstance(content, memoryview) else memoryview(content)
    return Message(view, 0, len(view))


def is_message(value: "int | Message") -> TypeGuard[Message]:
    """Whether the value of a field is bytes."""
    return isinstance(value, Message)
