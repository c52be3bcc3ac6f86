"""Presets: the layout of public downloads of data sets, as files in ``datasets``, which ``config`` links to."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from retinaflow.config.lookups import CLASS_FOLDERS
from retinaflow.config.messages import raise_problems, unknown_name
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import USES, DataSetSettings

PRESETS = Path(__file__).with_name("datasets")
PARTS = "parts"
OWN_KEYS = ("preset", "folder", "part")  # of a data set that has a preset
PLACES = ("images", "labels", "pairs")  # below the folder
JOINED = ("images", "labels")  # of several parts


def with_presets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values``, a configuration as read, in which data sets with a preset have all keys of it.

    Keys that the configuration names replace those of the preset.

    Raises:
        RetinaflowError: one error that lists each preset that cannot be used.
    """
    data = values.get("data")
    if not isinstance(data, Mapping):
        return dict(values)
    problems: list[str] = []
    filled = dict(data)
    for use in USES:
        source = data.get(use)
        if not isinstance(source, Mapping):
            continue
        if _has_preset(source):
            filled[use] = _filled(source, use, f"data.{use}", problems)
        else:
            filled[use] = {
                name: _filled(one, use, f"data.{use}.{name}", problems) if _has_preset(one) else one
                for name, one in source.items()
            }
    raise_problems(problems)
    return {**values, "data": filled}


def preset_names() -> list[str]:
    """Names of the presets of this workflow."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def _has_preset(source: Any) -> bool:
    return isinstance(source, Mapping) and isinstance(source.get("preset"), str)


def _filled(source: Mapping[str, Any], use: str, key: str, problems: list[str]) -> dict[str, Any]:
    """A data set with the keys of its preset. Faults are added to ``problems``."""
    try:
        preset = _read(source["preset"])
        chosen = _parts(preset, source, use)
        if not isinstance(source.get("folder"), str) or not source["folder"]:
            raise RetinaflowError("folder: name the folder of the download, or an archive of it")
        keys = {**{name: value for name, value in preset.items() if name != PARTS}, **_joined(chosen)}
    except RetinaflowError as error:
        problems.append(f"{key}.{error}")
        return dict(source)
    return {**{name: _placed(name, value, source["folder"]) for name, value in keys.items()}, **source}


def _read(preset: str) -> dict[str, Any]:
    """Content of the file of a preset."""
    is_path = "/" in preset or preset.endswith((".yaml", ".yml"))
    path = Path(preset).expanduser() if is_path else PRESETS / f"{preset}.yaml"
    if not path.is_file():
        if is_path:
            raise RetinaflowError(f"preset: there is no file {preset!r}; correct the path")
        near = difflib.get_close_matches(preset.lower(), preset_names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(preset_names())}"
        raise RetinaflowError(f"preset: there is no preset {preset!r}; {hint}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RetinaflowError(f"preset: {path} cannot be read as YAML ({error}); correct it") from error
    for fault in _faults(content):
        raise RetinaflowError(f"preset: {path}: {fault}")
    return dict(content)


def _faults(content: Any) -> Iterable[str]:
    """Faults of the content of a preset."""
    parts = content.get(PARTS) if isinstance(content, Mapping) else None
    if not isinstance(parts, Mapping) or not parts:
        yield f"expected the key {PARTS!r}, with images and labels of each part of the download; add it"
        return
    known = sorted(DataSetSettings.model_fields.keys() - set(OWN_KEYS))
    for where, section in (("", {key: value for key, value in content.items() if key != PARTS}), *parts.items()):
        if not isinstance(section, Mapping):
            yield f"{PARTS}.{where} is {section!r}; expected a section with images and labels"
            continue
        for key in section:
            if key not in known:
                yield f"{key!r} is no key of a data set; {unknown_name(str(key), known)}"
        if where:
            yield from (f"{PARTS}.{where} has no {key!r}; add it" for key in JOINED if key not in section)


def _parts(preset: Mapping[str, Any], source: Mapping[str, Any], use: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The parts of a download that a data set has, by their names."""
    parts = preset[PARTS]
    names = source.get("part")
    if names is None:
        names = use if use in parts else next(iter(parts)) if len(parts) == 1 else None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list):
        raise RetinaflowError(
            f"preset: {source['preset']} has no part {use!r}; name one of {', '.join(parts)} with the key part"
        )
    for name in names:
        if name not in parts:
            raise RetinaflowError(f"part: {source['preset']} has no part {name!r}; {unknown_name(str(name), parts)}")
    return [(name, parts[name]) for name in names]


def _joined(parts: list[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The keys of several parts: lists of their images and labels, and all others once."""
    (first, keys), *others = parts
    joined = dict(keys)
    for name, part in others:
        for key in sorted({*keys, *part} - set(JOINED)):
            if keys.get(key) != part.get(key):
                raise RetinaflowError(
                    f"part: {first} and {name} have different values of {key}; make a data set of each part"
                )
        joined |= {key: [*_as_list(joined[key]), *_as_list(part[key])] for key in JOINED}
    return joined


def _placed(key: str, value: Any, folder: str) -> Any:
    """The value of a key, with the folder before places in it."""
    if key not in PLACES or value == CLASS_FOLDERS:
        return value
    if isinstance(value, list):
        return [_placed(key, one, folder) for one in value]
    return folder if value == "." else f"{folder.rstrip('/')}/{value}"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
