"""One schema for everything that can be configured: frozen pydantic models read from YAML."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from berger.errors import BergerError


class Config(BaseModel):
    """Base of every configuration: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def shipped_configs() -> dict[str, Path]:
    """Return name → YAML file of every configuration that is shipped with the package.

    The folder that a file lies in says what it configures: preparation, pretraining, adaptation,
    evaluation.
    """
    folder = Path(str(resources.files("berger") / "configs"))
    return {file.stem: file for file in sorted(folder.glob("*/*.yaml"))}


def locate(source: str | Path, shipped: Mapping[str, Path], kind: str) -> Path:
    """Return the shipped file of that name, or the user's file.

    Raises
    ------
    BergerError
        If there is neither, with the nearest shipped name.
    """
    path = shipped.get(str(source), Path(source))
    if not path.is_file():
        near = difflib.get_close_matches(str(source), shipped, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"shipped are {', '.join(shipped)}."
        raise BergerError(f"{source}: neither a YAML file nor a shipped {kind}; {hint}")
    return path


class _OnceOnly(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML's own loader drops the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping with all that the text has."""
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":  # these may come again
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is there twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file as a mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _OnceOnly)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BergerError(f"{path}: not readable as YAML ({reason}); correct the file.") from error
    if content is not None and not isinstance(content, dict):
        raise BergerError(f"{path}: must hold `key: value` lines at its top level.")
    return content or {}


def load_config(
    schema: type[C], source: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> C:
    """Read a configuration.

    Parameters
    ----------
    schema : type of Config
        What the configuration must look like.
    source : str or Path, optional
        A YAML file, or the name of one shipped with the package. None means all defaults.
    overrides : mapping, optional
        Dotted field name → value, e.g. ``{"optimizer.lr": "3e-4"}``. Text is read as YAML.

    Raises
    ------
    BergerError
        For a missing file, unreadable YAML, an unknown key (with the nearest known one) or a
        value out of range.
    """
    content = {}
    if source is not None:
        content = read_yaml(locate(source, shipped_configs(), "configuration"))
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        place = content
        for key in parents:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise BergerError(f"--{dotted}: {key!r} holds a single value, not further fields.")
        try:
            place[last] = yaml.safe_load(value) if isinstance(value, str) else value
        except yaml.YAMLError as error:
            raise BergerError(f"--{dotted}: {value!r} is not readable as YAML.") from error
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        where = "configuration" if source is None else str(source)
        raise BergerError(f"{where}: {_explain(error, schema)}") from error


def _explain(error: ValidationError, schema: type[Config]) -> str:
    """Say in one line what is wrong with the first offending fields."""
    known = list(field_names(schema))
    reasons = []
    for fault in error.errors()[:3]:
        field, kind, given = _written(schema, fault["loc"]), fault["type"], fault["input"]
        message = fault["msg"].removeprefix("Value error, ").replace("Input", "input")
        if kind == "extra_forbidden":
            same_end = [name for name in known if name.split(".")[-1] == field.split(".")[-1]]
            near = same_end or difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "remove it"
            if field in known:
                part = field.rpartition(".")[0]
                hint = f"another kind of {part} has it, to change kinds give the whole of {part}"
            reasons.append(f"unknown key {field!r}; {hint}")
        elif kind == "missing":
            reasons.append(f"{field!r} is missing")
        elif kind in ("union_tag_invalid", "union_tag_not_found"):
            key = fault["ctx"]["discriminator"].split(" | ")[-1]
            known_tags = fault["ctx"].get("expected_tags")
            demand = f"must be one of {known_tags}" if known_tags else "is missing"
            reasons.append(f"{field!r}: {key} {demand}")
        elif kind in ("model_type", "model_attributes_type"):
            reasons.append(f"{field!r} = {given!r}: must hold further keys")
        elif kind == "string_type" and not isinstance(given, (Mapping, list)):
            reasons.append(f"{field!r} = {given!r}: must be text, write it in quotes")
        elif isinstance(given, Mapping):  # several fields do not go together
            reasons.append(f"{field!r}: {message}" if field else message)
        else:
            reasons.append(f"{field!r} = {given!r}: {message}")
    reason = "; ".join(reasons)
    return reason if reason.endswith((".", "?")) else f"{reason}."


def _written(schema: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """Return the dotted key as a user writes it; pydantic also names the member of a union."""
    keys: list[str] = []
    schemas: tuple[type[BaseModel], ...] = (schema,)
    parts = iter(place)
    for part in parts:
        keys.append(str(part))
        fields = [kind.model_fields[part] for kind in schemas if part in kind.model_fields]
        schemas = tuple(inner for field in fields for inner in _models_in(field.annotation))
        if len(schemas) > 1:
            next(parts, None)
    return ".".join(keys)


def field_names(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every field of `schema` and of the models inside it."""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{field.alias or name}"
        for kind in _models_in(field.annotation):
            yield from field_names(kind, f"{prefix}{name}.")


def _models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the models that a field's type is, or is a union of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for inner in get_args(annotation) for model in _models_in(inner))


def differences(before: Config, after: Config) -> list[str]:
    """Return ``field: old → new`` for every field in which two configurations differ."""
    old, new = (dict(_leaves(c.model_dump(mode="json"))) for c in (before, after))
    return [
        f"{key}: {old.get(key)} → {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything in nested mappings."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
