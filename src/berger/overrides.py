"""Options of a command that are fields of its configuration: ``--training.steps 500``."""

from __future__ import annotations

from berger.configuration import Config, field_names
from berger.errors import BergerError


def schema_of(command: str) -> type[Config] | None:
    """Return the configuration that a command's further options belong to."""
    if command == "prepare":
        from berger.preprocessing import PreprocessingConfig

        return PreprocessingConfig
    if command == "pretrain":
        from berger.pretraining import PretrainingConfig

        return PretrainingConfig
    if command == "adapt":
        from berger.evaluation.decoding import AdaptationConfig

        return AdaptationConfig
    if command == "evaluate":
        from berger.evaluation.plan import EvaluationConfig

        return EvaluationConfig
    return None


def take_overrides(tokens: list[str]) -> tuple[list[str], dict[str, str]]:
    """Separate ``--field value`` of a command's configuration from the command's own options."""
    schema = schema_of(tokens[0]) if tokens else None
    if schema is None:
        return tokens, {}
    fields = set(field_names(schema)) - {"seed"}
    words = {word for name in fields for word in name.split(".")}

    def spelled(word: str) -> str:  # the names of models and tasks, which users choose, stay
        written = word.replace("-", "_")
        return written if written in words else word

    left, overrides = [], {}
    rest = iter(tokens)
    for token in rest:
        name, has_value, value = token.removeprefix("--").partition("=")
        name = ".".join(map(spelled, name.split(".")))
        if token.startswith("--") and (name in fields or "." in name):
            if not has_value and (value := next(rest, "--")).startswith("--"):
                raise BergerError(f"--{name}: needs a value.")
            overrides[name] = value
        else:
            left.append(token)
    return left, overrides
