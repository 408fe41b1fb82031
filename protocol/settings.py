"""Checking configuration data against typed structs, so that a mistake is named where a person can find it.

Pure: what was read from a file comes in as a mapping, the struct or one exception comes out. Every fault is reported,
not only the first: nobody likes to correct a file line by line, starting a service each time.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeAlias, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, inspect

from protocol.identifiers import IDENTIFIER_PATTERN

StructT = TypeVar("StructT", bound=Struct)

_FILE = {"file": True}
FilePath: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096, extra=_FILE)]
"""A file that the configuration names: a path, relative to the configuration's own folder, or ``credential:NAME``."""
OptionalFilePath: TypeAlias = Annotated[str, Meta(max_length=4096, extra=_FILE)]
"""The same, where no file (an empty text) is fine too."""

CREDENTIAL = "credential:"
"""Begins the name of a file that systemd hands over (see ``protocol.adapters.secret_files``)."""

_PATTERNS_IN_WORDS = {
    IDENTIFIER_PATTERN: "1 to 64 letters, digits, '_', '.' or '-'",
    r"\A(?:[01]\d|2[0-3]):[0-5]\d-(?:(?:[01]\d|2[0-3]):[0-5]\d|24:00)\Z": "the form HH:MM-HH:MM",
    r"\A[0-9a-f]{64}\Z": "64 hexadecimal digits",
    r"\A[0-9a-f]{16}\Z": "16 hexadecimal digits",
    r"\A[a-z0-9_-]{1,32}\Z": "1 to 32 small letters, digits, '_' or '-'",
}
_MAX_SHOWN = 60


class ConfigurationError(ValueError):
    """A configuration that cannot be used; the text has one line per fault, each naming file and key."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def settings_from(data: Mapping[str, Any], wanted: type[StructT], source: str) -> StructT:
    """Return ``data`` as the struct; raise ``ConfigurationError`` with every fault, each starting with ``source``.

    Strict: no text where a number belongs, no boolean for a number, no fraction for a whole number, no NaN or infinity,
    no unknown key at any depth. A whole number is accepted where any number is.
    """
    faults = tuple(f"{source}: {fault}" for fault in _table_faults(data, wanted, ""))
    if faults:
        raise ConfigurationError(*faults)
    try:
        return msgspec.convert(data, wanted, strict=True)
    except msgspec.ValidationError as exc:  # a rule between several keys: a __post_init__ said no
        raise ConfigurationError(f"{source}: {exc}") from exc


def anchored(settings: StructT, folder: str) -> StructT:
    """Return the settings with every ``FilePath``, in lists and tables too, made relative to ``folder``."""
    changes: dict[str, Any] = {}
    for field in msgspec.structs.fields(type(settings)):
        value = getattr(settings, field.name)
        if isinstance(value, Struct):
            changes[field.name] = anchored(value, folder)
        elif isinstance(value, dict) and _family_of(field.type):
            changes[field.name] = {name: anchored(table, folder) for name, table in value.items()}
        elif _names_files(field.type):
            changes[field.name] = _in_folder(value, folder)
    return msgspec.structs.replace(settings, **changes) if changes else settings


def _names_files(annotation: Any) -> bool:  # noqa: ANN401 - annotations have no type
    if any(isinstance(part, Meta) and part.extra == _FILE for part in getattr(annotation, "__metadata__", ())):
        return True
    return any(_names_files(part) for part in get_args(annotation))


def _in_folder(value: Any, folder: str) -> Any:  # noqa: ANN401 - a path, a list of paths, or None
    if isinstance(value, list | tuple):
        return type(value)(_in_folder(item, folder) for item in value)
    if not value or not isinstance(value, str) or value.startswith(CREDENTIAL):
        return value
    return str(PurePosixPath(folder) / value)


def _table_faults(data: Mapping[str, Any], wanted: type[Struct], path: str) -> Iterator[str]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
    for key in data:
        if key not in fields:
            yield f"{_dotted(path, key)} is not a key of {_table(path)}; allowed are {_listed(fields)}" + _nearest(
                key, fields
            )
    for key, field in fields.items():
        nested = _struct_of(field.type)
        if key in data:
            yield from _value_faults(data[key], field.type, nested, _dotted(path, key))
        elif field.required and nested is not None:
            required = [f.encode_name for f in msgspec.structs.fields(nested) if f.required]
            yield f"the table {_table(_dotted(path, key))} is missing; it needs {_listed(required) or 'no key'}"
        elif field.required:
            yield f"{_dotted(path, key)} is missing; it belongs in {_table(path)} and is {expectation(field.type)}"


def _value_faults(value: object, annotation: Any, nested: type[Struct] | None, path: str) -> Iterator[str]:  # noqa: ANN401 - annotations have no type
    family = _family_of(annotation)
    if (nested is not None or family) and not isinstance(value, Mapping):
        name = f"{path}.NAME" if family else path
        yield f"{path} is {_shown(value)}, but it must be a table: write [{name}] above its keys"
        return
    if nested is not None:
        yield from _table_faults(cast("Mapping[str, Any]", value), nested, path)
        return
    if family:
        yield from _family_faults(cast("Mapping[str, Any]", value), annotation, family, path)
        return
    if not _all_finite(value):
        yield f"{path} is {_shown(value)}; allowed is {expectation(annotation)}, and it must be finite"
        return
    try:
        msgspec.convert(value, annotation, strict=True)
    except msgspec.ValidationError:
        allowed = expectation(annotation)
        yield f"{path} is {_shown(value)}; allowed is {allowed}" + _nearest_choice(value, annotation)


def _family_faults(
    tables: Mapping[str, Any],
    annotation: Any,  # noqa: ANN401 - annotations have no type
    family: Mapping[str, type[Struct]],
    path: str,
) -> Iterator[str]:
    """Check tables with names of their owner's choice, each of which says by one key what kind it is of."""
    field = next(iter(family.values())).__struct_config__.tag_field or "type"
    for name, table in tables.items():
        own = _dotted(path, name)
        try:
            msgspec.convert(name, get_args(annotation)[0], strict=True)
        except msgspec.ValidationError:
            yield f"{own}: the name {_shown(name)} is not allowed; allowed is {expectation(get_args(annotation)[0])}"
            continue
        if not isinstance(table, Mapping):
            yield f"{own} is {_shown(table)}, but it must be a table: write [{own}] above its keys"
            continue
        kind = table.get(field)
        if not isinstance(kind, str) or kind not in family:
            state = f"is {_shown(kind)}" if field in table else "is missing"
            guess = _nearest(kind, family) if isinstance(kind, str) else ""
            yield f"{_dotted(own, field)} {state}; allowed is {_alternatives([repr(tag) for tag in family])}{guess}"
            continue
        found = list(_table_faults({key: value for key, value in table.items() if key != field}, family[kind], own))
        yield from found or _rule_faults(table, family[kind], own)


def _rule_faults(table: Mapping[str, Any], wanted: type[Struct], path: str) -> Iterator[str]:
    """Say what a rule between several keys of a table has against it."""
    try:
        msgspec.convert(table, wanted, strict=True)
    except msgspec.ValidationError as exc:
        yield f"{path}: {exc}"


def _family_of(annotation: Any) -> dict[str, type[Struct]]:  # noqa: ANN401 - annotations have no type
    """Return the structs behind ``dict[str, A | B]`` by their tags; nothing for everything else."""
    if get_origin(annotation) is not dict:
        return {}
    kinds = get_args(annotation)[1]
    parts = get_args(kinds) if get_origin(kinds) in (Union, types.UnionType) else (kinds,)
    if not all(isinstance(part, type) and issubclass(part, Struct) for part in parts):
        return {}
    return {str(part.__struct_config__.tag): part for part in parts if part.__struct_config__.tag is not None}


def expectation(annotation: Any) -> str:  # noqa: ANN401 - annotations have no type
    """Return in words what values the annotated type takes: "a whole number from 1 to 65535"."""
    return _words(inspect.type_info(annotation))


def _words(kind: inspect.Type) -> str:  # noqa: PLR0911 - a table of kinds
    match kind:
        case inspect.Metadata():
            return _words(kind.type)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _range_in_words(kind)
        case inspect.FloatType():
            return "a number" + _range_in_words(kind)
        case inspect.StrType():
            return _text_in_words(kind)
        case inspect.LiteralType():
            return _alternatives([repr(value) for value in kind.values])
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            return f"a list{_length_in_words(kind)}, each item {_words(kind.item_type)}"
        case inspect.UnionType():
            return _alternatives([_words(part) for part in kind.types if not isinstance(part, inspect.NoneType)])
        case inspect.DictType() | inspect.StructType():
            return "a table"
        case _:
            return "anything"


def _range_in_words(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge:.15g} to {kind.le:.15g}"
    bounds = [
        f"{words} {bound:.15g}"
        for words, bound in (("above", kind.gt), ("of at least", kind.ge), ("below", kind.lt), ("at most", kind.le))
        if bound is not None
    ]
    return f" {' and '.join(bounds)}" if bounds else ""


def _text_in_words(kind: inspect.StrType) -> str:
    if kind.pattern is not None:
        return f"a text of {_PATTERNS_IN_WORDS.get(kind.pattern, f'the form {kind.pattern}')}"
    return "a text" + _length_in_words(kind, "characters")


def _length_in_words(kind: Any, unit: str = "items") -> str:  # noqa: ANN401 - four kinds that share two attributes
    if kind.min_length is None and kind.max_length is None:
        return ""
    if kind.max_length is None:
        return f" of at least {kind.min_length} {unit}"
    return f" of {kind.min_length or 0} to {kind.max_length} {unit}"


def _struct_of(annotation: Any) -> type[Struct] | None:  # noqa: ANN401 - annotations have no type
    """Return the struct behind ``X`` or ``X | None``; None for everything else."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return _struct_of(parts[0]) if len(parts) == 1 else None
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation
    return None


def _all_finite(value: object) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case list():
            return all(_all_finite(item) for item in value)
        case Mapping():
            return all(_all_finite(item) for item in value.values())
        case _:
            return True


def _shown(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value) if not isinstance(value, int) or value.bit_length() < 64 else "a huge number"  # noqa: PLR2004 - printing longer ones takes quadratic time
        case str():
            return "the text " + _shortened(repr(value))
        case Mapping():
            return "a table"
        case _:
            return _shortened(str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _nearest(word: str, words: Mapping[str, Any] | list[str]) -> str:
    import difflib  # noqa: PLC0415 - only a mistake pays for it, not every board

    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _nearest_choice(value: object, annotation: Any) -> str:  # noqa: ANN401 - annotations have no type
    kind = inspect.type_info(annotation)
    if isinstance(value, str) and isinstance(kind, inspect.LiteralType):
        return _nearest(value, [str(choice) for choice in kind.values])
    return ""


def _alternatives(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _listed(names: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(names)


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _table(path: str) -> str:
    return f"[{path}]" if path else "the file's top level"
