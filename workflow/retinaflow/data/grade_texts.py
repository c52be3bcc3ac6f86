"""Grades as label tables have them: numbers, names in several spellings, and maps of other scales."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# A value in the table and its grade, or a grade and its values in the table.
GradeMap = Mapping[str, str | Sequence[str]]

NUMBER = re.compile(r"([0-9]{1,9})([.,]0+)?")
# Of "No_DR" and "Mild NPDR".
DISEASE = re.compile("(np)?dr$")
OTHER_WORDS = {"proliferate": "proliferative", "pdr": "proliferative"}


def parse_grade(text: str, grade_names: Sequence[str]) -> int | None:
    """Return the grade 0 to k - 1 of ``text``, which is one of the k ``grade_names`` or a number (2, 2.0 or 2,0).

    Case, blanks, hyphens and underscores of a name are ignored, as are "DR" and "NPDR" at its end. "Proliferate" and
    "PDR" are "proliferative".

    Returns:
        The grade, or None for any other text, or if several names fit. Also None for a number if one of the names is
        the number of another grade: there, 1 could be name or number.
    """
    text = text.strip()
    if text in grade_names:
        return list(grade_names).index(text)
    if re.search("[^\\W\\d_]", text):
        return _named(text, grade_names)
    if any(name.isdecimal() and int(name) != grade for grade, name in enumerate(grade_names)):
        return None
    number = NUMBER.fullmatch(text)
    if number and int(number[1]) < len(grade_names):
        return int(number[1])
    return None


def grade_parser(
    grade_names: Sequence[str], grade_map: GradeMap | None = None, separator: str = ""
) -> Callable[[str], int | None]:
    """Return a function that reads the grade of a value in a label table.

    Args:
        grade_names: Names of the grades.
        grade_map: Grades of the values in the table. With it, other values have no grade. Values are compared like the
            names of ``parse_grade``: 2 and 2.0 are one value, as are "R 0" and "r0".
        separator: Characters between several values in one text. The grade is the highest of those that have one.
    """
    if not grade_map:
        return lambda text: parse_grade(text, grade_names)
    grades = {plain_text(value): parse_grade(grade, grade_names) for value, grade in map_entries(grade_map)}

    def parse(text: str) -> int | None:
        found = [grades.get(plain_text(value)) for value in values_of(text, separator)]
        return max((grade for grade in found if grade is not None), default=None)

    return parse


def values_of(text: str, separator: str) -> list[str]:
    """Return the values in a text that have any of the characters of ``separator`` between them."""
    return re.split(f"[{re.escape(separator)}]", text) if separator else [text]


def map_entries(grade_map: GradeMap) -> Iterator[tuple[str, str]]:
    """Yield each value in the table with its grade, a name or number."""
    for key, value in grade_map.items():
        if isinstance(value, str):
            yield key, value
        else:
            yield from ((one, key) for one in value)


def map_faults(grade_map: GradeMap, grade_names: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with a grade map."""
    grades: dict[str, int | None] = {}
    for key, single in grade_map.items():
        if isinstance(single, str) and NUMBER.fullmatch(single) and _named(key, grade_names) is not None:
            yield (
                f"{key}: {single} has two meanings; write {key}: [{single}] if {single} stands in the table, or "
                f"{key}: {key} if {key!r} stands there"
            )
    for value, name in map_entries(grade_map):
        grade = parse_grade(name, grade_names)
        if grade is None:
            yield f"{name!r} is no grade; expected 0 to {len(grade_names) - 1} or one of {', '.join(grade_names)}"
        elif grades.setdefault(plain_text(value), grade) != grade:
            yield f"{value!r} has two grades; leave one of them"


def scale_grades(scale: Mapping[str, str | Sequence[str]], grade_names: Sequence[str]) -> dict[str, list[int]]:
    """Return the training grades of each grade of a scale without faults, in order of severity."""
    found = {name: sorted(parsed) for name, parsed in _parsed_scale(scale, grade_names).items()}
    return dict(sorted(found.items(), key=lambda entry: entry[1]))


def scale_faults(scale: Mapping[str, str | Sequence[str]], grade_names: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the scale of a test set."""
    expected = f"expected 0 to {len(grade_names) - 1} or one of {', '.join(grade_names)}"
    parsed = _parsed_scale(scale, grade_names)
    for name, grades in parsed.items():
        texts = [scale[name]] if isinstance(scale[name], str) else scale[name]
        yield from (
            f"{name}: {text!r} is no grade; {expected}"
            for text, grade in zip(texts, grades, strict=True)
            if grade is None
        )
    if any(None in grades for grades in parsed.values()):
        return
    for grade, title in enumerate(grade_names):
        users = [name for name, grades in parsed.items() if grade in grades]
        if not users:
            yield f"grade {grade} ({title}) is in none of {', '.join(scale)}; expected each grade of the training sets"
        elif len(users) > 1:
            yield f"grade {grade} ({title}) is in {' and '.join(users)}; expected it in one of them"
    for name, grades in parsed.items():
        if max(grades) - min(grades) >= len(set(grades)):
            yield f"{name} joins {sorted(set(grades))}; expected grades that follow each other"


def _parsed_scale(scale: Mapping[str, str | Sequence[str]], grade_names: Sequence[str]) -> dict[str, list[Any]]:
    return {
        name: [parse_grade(text, grade_names) for text in ([texts] if isinstance(texts, str) else texts)]
        for name, texts in scale.items()
    }


def _named(text: str, grade_names: Sequence[str]) -> int | None:
    plain = plain_text(text)
    stem = DISEASE.sub("", plain)
    for form in (plain, OTHER_WORDS.get(plain), stem, OTHER_WORDS.get(stem)):
        found = [grade for grade, name in enumerate(grade_names) if form and plain_text(name) == form]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def plain_text(text: str) -> str:
    """``text`` in its plainest spelling."""
    text = text.strip()
    if number := NUMBER.fullmatch(text):
        return str(int(number[1]))
    # Without a letter, a hyphen could be the sign of a number.
    return re.sub(r"[\s_-]", "", text.casefold()) if re.search("[^\\W\\d_]", text) else text
