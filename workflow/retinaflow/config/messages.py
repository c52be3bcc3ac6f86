"""One line for each mistake in a configuration: the key, the value, the expected form, and a hint."""

import datetime
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from pydantic import Tag, ValidationError

from retinaflow.config.old_keys import present_key, present_value
from retinaflow.errors import RetinaflowError
from retinaflow.settings.section import Section, alternatives, is_section, is_union, literals

LONGEST = 400  # characters of a message
TYPES = {
    "int_type": "integer",
    "float_type": "number",
    "finite_number": "number",
    "string_type": "string",
    "bool_type": "boolean",
    "list_type": "list",
    "dict_type": "section",
    "model_type": "section",
}
BOUNDS = {
    "greater_than": ("gt", "is not above"),
    "greater_than_equal": ("ge", "is less than the minimum of"),
    "less_than": ("lt", "is not below"),
    "less_than_equal": ("le", "is greater than the maximum of"),
}
# Words for the patterns of names.
NAME_FORM = (
    "the form of a name: letters, digits, points, hyphens and underscores, of which the first is no point or hyphen"
)
GRADE_FORM = (
    "the form of the name of a grade: letters, digits, blanks, points, plus signs, hyphens and underscores, of which "
    "the first is a letter, digit or underscore, and not index.csv"
)
PATTERNS = {
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$": NAME_FORM,
    r"^(?!index[.]csv$)[A-Za-z0-9_][A-Za-z0-9_ .+-]*$": GRADE_FORM,
}
SIZES = {
    "too_short": ("min_length", "is too short, expected at least {} entries"),
    "too_long": ("max_length", "is too long, expected at most {} entries"),
    "string_too_short": ("min_length", "is too short, expected at least {} characters"),
    "string_too_long": ("max_length", "is too long, expected at most {} characters"),
}


def raise_problems(problems: Iterable[str]) -> None:
    """Raise one ``RetinaflowError`` that lists all ``problems``, if there are any."""
    listed = "\n".join(f"  - {problem}" for problem in problems)
    if listed:
        raise RetinaflowError(
            f"The configuration cannot be used:\n{listed}\nEvery key is explained in config/README.md."
        )


def shown(value: Any) -> str:
    """``value`` as Python writes it, but a date as YAML has it."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of too many digits"


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The known name that is most like ``name``, or all of them."""
    known = sorted(known)
    if not known:
        return "there are none"
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


@dataclass
class _Field:
    """All that pydantic reports about one field. A field that accepts several forms has an error for each form."""

    path: str
    annotation: Any
    errors: list[Any] = field(default_factory=list)


def describe(error: ValidationError, root: type[Section], values: Mapping[str, Any]) -> list[str]:
    """A line for each wrong key of ``values``, which ``root`` refused with ``error``."""
    fields: dict[str, _Field] = {}
    for one in error.errors(include_url=False):
        path, annotation = _locate(one["loc"], root, values)
        fields.setdefault(path, _Field(path, annotation)).errors.append(one)
    # An error inside a list says more than the mismatch of the other forms of that field.
    outer = {path.rpartition("[")[0] for path in fields if path.endswith("]")}
    return [_line(fields[path]) for path in sorted(fields) if path not in outer or _others(fields[path].errors)]


def _locate(steps: Sequence[int | str], root: type[Section], values: Any) -> tuple[str, Any]:
    """The path and the annotation of a key. Pydantic's ``steps`` name the forms of a value, too."""
    path: list[str] = []
    annotation: Any = root
    for number, step in enumerate(steps, start=1):
        found = _present(annotation)
        if is_section(found):
            annotation = found.model_fields[step].annotation if step in found.model_fields else found
            path.append(str(step))
        elif get_origin(found) is dict:
            annotation = get_args(found)[1]
            path.append(str(step))
        elif get_origin(found) is list:
            annotation = get_args(found)[0]
            if isinstance(values, list):  # a single value, which is read as a list of one, has no number
                path[-1] += f"[{step}]"
        else:  # the label of a form
            annotation = _tagged(found, step) or (found if number == len(steps) else _list_form(found))
            continue
        values = _value(values, step)
    return ".".join(path), annotation


def _value(values: Any, step: int | str) -> Any:
    try:
        return values[step]
    except (KeyError, IndexError, TypeError):
        return None


def _present(annotation: Any) -> Any:
    """An annotation without metadata and without ``None``."""
    if get_origin(annotation) is Annotated:
        return _present(get_args(annotation)[0])
    forms = [form for form in get_args(annotation) if form is not type(None)] if is_union(annotation) else []
    return _present(forms[0]) if len(forms) == 1 else annotation


def _tagged(annotation: Any, tag: int | str) -> Any:
    """The form of a union that pydantic calls ``tag``; None if no form has that name."""
    for form in get_args(annotation):
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in get_args(form)[1:]):
            return get_args(form)[0]
    return None


def _list_form(annotation: Any) -> Any:
    return next(form for form in map(_present, get_args(annotation)) if get_origin(form) is list)


def _others(errors: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The errors that are no mismatch of a type or a literal."""
    return [error for error in errors if error["type"] not in TYPES and error["type"] != "literal_error"]


def _line(one: _Field) -> str:
    kind = one.errors[0]["type"]
    if kind == "missing":
        return f"{one.path}: this key is required and missing"
    if kind == "extra_forbidden":
        return f"{one.path}: {_unknown_key(one)}"
    errors = _others(one.errors)[:1] or one.errors
    text = ", and ".join(dict.fromkeys(_mismatch(error, one.annotation) for error in errors))
    text = text if len(text) < LONGEST else f"{text[:200]} ... {text[-150:]}"
    return f"{one.path or 'configuration'}: {text}{_hint(errors, one)}"


def _unknown_key(one: _Field) -> str:
    if present := present_key(one.path):
        return f"this key is now `{present}`; {'write it so' if ' ' in present else 'rename it'}"
    return f"unknown key; {unknown_name(one.path.rpartition('.')[2], one.annotation.model_fields)}"


def _mismatch(error: Mapping[str, Any], annotation: Any) -> str:
    kind, given, value = error["type"], error["input"], shown(error["input"])
    if kind in TYPES:
        null = ", 'null'" if type(None) in alternatives(annotation) else ""
        return f"{value} is not of type {TYPES[kind]!r}{null}"
    if kind in BOUNDS:
        bound, words = BOUNDS[kind]
        return f"{value} {words} {error['ctx'][bound]:g}"
    if kind in SIZES:
        size, words = SIZES[kind]
        return f"{value} {words.format(error['ctx'][size]) if given else 'should be non-empty'}"
    if kind == "string_pattern_mismatch":
        return f"{value} does not match {PATTERNS.get(error['ctx']['pattern'], repr(error['ctx']['pattern']))}"
    if kind == "literal_error":
        allowed = literals(annotation)
        return f"{allowed[0]!r} was expected" if len(allowed) == 1 else f"{value} is not one of {allowed}"
    return f"{value} {error['msg']}"


def _hint(errors: Sequence[Mapping[str, Any]], one: _Field) -> str:
    """Advice about a mistake that YAML or a habit invites, in brackets; empty for any other."""
    error, expected = errors[0], alternatives(one.annotation)
    value, kind = error["input"], error["type"]
    if present := present_value(one.path, value):
        return f" ({value} is now called {present})"
    if kind in ("less_than", "less_than_equal") and 1 in error["ctx"].values() and value >= 2:
        return f" (it is a share: {value} % is {value / 100:g})"
    if value is None:
        return " (nothing stands there: give it a value or delete the key)"
    if isinstance(value, bool) and bool not in expected:
        return " (YAML reads yes, no, on and off as true and false: put the word in quotes)"
    if kind == "string_type" and not isinstance(value, list | dict):
        return " (put it in quotes)"
    if kind in ("model_type", "model_attributes_type", "dict_type") and one.path.startswith("data.validation."):
        return " (name each data set: `validation: {NAME: {images: ..., labels: ...}}`)"
    if kind in ("model_type", "dict_type") and isinstance(value, list):
        return " (a list; expected a section, with a line `key: value` for each)"
    return ""
