"""Options that every command takes, and those that are fields of its configuration."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import CycloptsError, Parameter, UnknownOptionError, validators

from berger.configuration import Config, field_names
from berger.errors import BergerError
from berger.overrides import schema_of

Overrides = Annotated[dict[str, Any] | None, Parameter(parse=False)]
"""Options named after fields of a command's configuration; `main` fills them in."""


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options that every command takes.

    Parameters
    ----------
    seed
        Of everything random; default: the configuration's.
    device
        Where models compute.
    workers
        Processes; default: all cores for preparing, none beside the main one for training.
    quiet
        No progress bars and no summary.
    """

    seed: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None
    quiet: bool = False

    @property
    def n_processes(self) -> int:
        """Workers for preparing recordings."""
        return self.workers or os.cpu_count() or 1

    def say(self, text: str) -> None:
        """Print unless quiet."""
        if not self.quiet:
            print(text)


def refuse_addresses(arguments: dict[str, Any]) -> None:
    """Refuse https://… and the like where a path is needed; a path would be made of it silently."""
    for name, value in arguments.items():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path) and re.match(r"\w[\w+.-]+:/", str(path)):
                raise BergerError(
                    f"{name}: {path} must be a path on this machine; only a corpus to read from "
                    "can have an address."
                )


def hint(error: CycloptsError, given: list[str]) -> str:
    """Return which field of the command's configuration an unknown option may have meant."""
    schema = schema_of(given[0])
    if schema is None or not isinstance(error, UnknownOptionError):
        return ""
    wrong = (error.token.keyword or error.token.value).removeprefix("--").replace("-", "_")
    near = difflib.get_close_matches(wrong, list(field_names(schema)), n=1)
    return f" Did you mean --{near[0]}?" if near else ""


def print_config_of(config: Config) -> None:
    """Print a configuration as the YAML file that it could be read from."""
    content = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    print(content, end="")
