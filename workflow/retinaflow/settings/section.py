"""Base class of the settings: one frozen class for each section of the configuration.

The classes hold values and decide nothing. They import nothing of the library, so that every package can use them.
"""

import math
import os
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

WHOLE = re.compile(r"[-+]?[0-9]{1,300}")
NUMBER_TEXT = re.compile(r"[-+]?([0-9]{1,300}([.][0-9]{0,300})?|[.][0-9]{1,300})([eE][-+]?[0-9]{1,9})?")
WORDS = {"true": True, "false": False, "null": None}


class Section(BaseModel):
    """A section of the configuration. The docstring below each field is its description in the reference.

    Nested values of ``--config`` arrive as text. If a field expects no text, text with the form of a number, ``true``,
    ``false`` or ``null`` becomes such a value. A whole number is an ``int`` in every field, so that ``1`` and ``1.0``
    are one value.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        regex_engine="python-re",
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {
            key: from_text(value, fields[key].annotation) if key in fields else value for key, value in values.items()
        }

    @model_validator(mode="after")
    def _write_whole_numbers(self) -> "Section":
        for name, value in self.__dict__.items():
            self.__dict__[name] = _whole(value)
        return self

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Values by key, in alphabetical order at each level. The order in a file has no effect."""
        # Pydantic warns about an integer in a field for floats.
        values: dict[str, Any] = _sorted(super().model_dump(**{"warnings": False, **options}))
        return values


def from_text(value: Any, annotation: Any) -> Any:
    """Convert text to the type of ``annotation``, if it has this form. Return other values unchanged."""
    expected = alternatives(annotation)
    containers = {get_origin(form): get_args(form)[-1] for form in expected if get_args(form)}
    if isinstance(value, list) and list in containers:
        return [from_text(item, containers[list]) for item in value]
    if isinstance(value, Mapping) and dict in containers:
        return {key: from_text(inner, containers[dict]) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    if value == "" and str not in expected and type(None) in expected:  # The file has no value after the key.
        return None
    if value in WORDS and (WORDS[value] in literals(annotation) or type(WORDS[value]) in expected):
        return WORDS[value]
    if str in expected or value in expected:
        return value
    if int in expected and WHOLE.fullmatch(value):
        return int(value)
    if float in expected and NUMBER_TEXT.fullmatch(value):
        return int(value) if WHOLE.fullmatch(value) else float(value)
    return value


def alternatives(annotation: Any) -> list[Any]:
    """Types and literal values that a field accepts, without unions and metadata."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if is_union(annotation):
        return [inner for form in get_args(annotation) for inner in alternatives(form)]
    return list(get_args(annotation)) if get_origin(annotation) is Literal else [annotation]


def literals(annotation: Any) -> list[Any]:
    """Literal values that a field accepts."""
    return [value for value in alternatives(annotation) if isinstance(value, str | bool)]


def is_union(annotation: Any) -> bool:
    """Whether ``annotation`` joins several types."""
    return get_origin(annotation) in (Union, types.UnionType)


def is_section(annotation: Any) -> TypeGuard[type["Section"]]:
    """Whether ``annotation`` is a class of a section."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and math.fabs(value) < 2**53 else value


@dataclass(frozen=True)
class Unique:
    """A list without equal items."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(_check_unique, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "uniqueItems": True}


def _check_unique(items: list[Any]) -> list[Any]:
    twice = next((item for item in items if items.count(item) > 1), None)
    if twice is not None:
        raise PydanticCustomError("unique", "has {item} twice; write it once", {"item": repr(twice)})
    return items


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        found = str(error) if isinstance(error, re.error) else "too large or nested too deep"
        raise PydanticCustomError("regex", "is no regular expression: {found}", {"found": found}) from None
    return text


def expand_home(path: str) -> str:
    """Replace a leading ``~``, ``$HOME`` or ``${HOME}`` of a path by the user's home folder.

    Other variables stay. Their values can differ between the machine that submits jobs and those that run them.
    """
    for variable in ("$HOME", "${HOME}"):
        if path == variable or path.startswith(f"{variable}/"):
            return os.path.expanduser("~") + path.removeprefix(variable)  # noqa: PTH111
    return os.path.expanduser(path) if path.startswith("~") else path  # noqa: PTH111


Text = Annotated[str, Field(min_length=1)]
Place = Annotated[str, Field(min_length=1), AfterValidator(expand_home)]
Pattern = Annotated[str, AfterValidator(_check_pattern), Field(max_length=1_000, json_schema_extra={"format": "regex"})]
