"""Configurations: what is given arrives, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field, ValidationError, model_validator

from berger.configuration import (
    Config,
    differences,
    field_names,
    load_config,
    read_yaml,
    shipped_configs,
)
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationConfig
from berger.evaluation.plan import EvaluationConfig
from berger.models import MODELS
from berger.models.heads import MlpHeadConfig
from berger.objectives.dual_alignment import DualAlignmentConfig
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import PretrainingConfig
from berger.tasks import TaskConfig, catalogue, load_task

SCHEMAS: dict[str, type[Config]] = {
    "preparation": PreprocessingConfig,
    "pretraining": PretrainingConfig,
    "adaptation": AdaptationConfig,
    "evaluation": EvaluationConfig,
}


class Inner(Config):
    rate: float = Field(1.0, gt=0)
    steps: int = 3

    @model_validator(mode="after")
    def _slow_enough(self) -> Inner:
        if self.rate * self.steps > 100:
            raise ValueError("rate times steps must stay below 100 Hz")
        return self


class Ball(Config):
    kind: Literal["ball"]
    radius: float = 1.0


class Box(Config):
    kind: Literal["box"]
    width: float


class Outer(Config):
    inner: Inner = Inner()
    maybe: Inner | None = None
    shape: Ball | Box = Field(Ball(kind="ball"), discriminator="kind")
    name: str = "x"
    numbers: tuple[int, ...] = (1, 2)


# laws


def test_defaults_need_nothing() -> None:
    assert load_config(Outer) == Outer()
    assert load_config(Outer, None, {}) == Outer()


@pytest.mark.parametrize(
    "config",
    [Outer(inner=Inner(rate=0.25), name="µ: {x}", numbers=()), Outer(maybe=Inner(steps=7))],
)
def test_a_configuration_survives_yaml(config: Outer, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True), "utf-8")
    assert load_config(Outer, file) == config
    assert differences(load_config(Outer, file), config) == []


def test_every_field_can_be_overridden_by_its_dotted_name(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    names = set(field_names(PretrainingConfig))
    assert {"seed", "model.n_heads", "training.optimizer.lr", "objective.mask.kinds.time"} <= names
    leaves = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
    met = set()
    for kinds in (
        {},
        {"model": {"name": "dare"}, "objective": {"name": "dual-alignment"}},
        {
            "model": {"name": "spechinet-published"},
            "objective": {"auxiliary_weights": [0, 0]},
        },
    ):
        config = PretrainingConfig.model_validate(kinds)
        file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        for name in leaves:
            value: object = config
            try:
                for key in name.split("."):
                    value = getattr(value, key)
            except AttributeError:  # a field of another network or objective
                continue
            met.add(name)
            assert load_config(PretrainingConfig, file, {name: value}) == config
    assert met == leaves


def test_a_field_of_another_kind_is_told_apart() -> None:
    with pytest.raises(BergerError) as caught:
        load_config(PretrainingConfig, None, {"objective.momentum": [1, 1]})
    assert (
        "unknown key 'objective.momentum'; another kind of objective has it, to change kinds give "
        "the whole of objective."
    ) in str(caught.value)


def test_the_kind_of_a_part_is_changed_by_giving_all_of_it() -> None:
    """Fields of the kind before are not carried along, wherever they would fit."""
    source = "conv-linear-probing"
    with pytest.raises(BergerError, match=r"'head\.max_norm'; .* give the whole of head"):
        load_config(AdaptationConfig, source, {"head.name": "mlp"})
    changed = load_config(AdaptationConfig, source, {"head": "{name: mlp, dropout: 0.1}"})
    assert changed.head == MlpHeadConfig(dropout=0.1)


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().name = "y"


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("inner: {rate: 2, steps: 5}\n")
    config = load_config(Outer, file, {"inner.rate": "3e-1", "numbers": "[4, 5]", "name": "'7'"})
    assert config == Outer(inner=Inner(rate=0.3, steps=5), numbers=(4, 5), name="7")


def test_an_override_opens_a_section_that_is_not_there() -> None:
    assert load_config(Outer, None, {"maybe.steps": "9"}).maybe == Inner(steps=9)


def test_differences_name_the_fields() -> None:
    before, after = Outer(), Outer(inner=Inner(rate=2), maybe=Inner())
    assert differences(before, after) == [
        "inner.rate: 1.0 → 2.0",
        "maybe.rate: None → 1.0",
        "maybe.steps: None → 3",
    ]


# what ships


@pytest.mark.parametrize("name", list(shipped_configs()))
def test_a_shipped_configuration_fits_its_schema(name: str) -> None:
    path = shipped_configs()[name]
    config = load_config(SCHEMAS[path.parent.name], name)
    assert set(read_yaml(shipped_configs()[name])) <= set(type(config).model_fields)
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    assert len(header[0]) > 20  # what it is
    assert any(line.startswith("#     berger ") for line in header)  # the command that uses it


def test_the_recipe_of_the_paper() -> None:
    config = load_config(PretrainingConfig, "specmoe-tueg")
    training, optimizer = config.training, config.training.optimizer
    assert config.model == PretrainingConfig().model  # the classes' defaults are the paper's
    assert config.objective == PretrainingConfig().objective
    assert training.batch_size * training.accumulate == 64 * 8 * 4
    assert (config.experts, config.window_seconds, training.epochs) == (3, 30, 50)
    assert (optimizer.lr, optimizer.final_lr, optimizer.weight_decay) == (1e-3, 1e-6, 0.05)
    assert (optimizer.clip_norm, optimizer.warmup) == (5, 0)
    prepared = load_config(PreprocessingConfig, "specmoe")
    assert prepared.ch_names is not None
    assert len(prepared.ch_names) == 19
    assert (prepared.sfreq, prepared.highpass, prepared.lowpass) == (200, 0.3, 75)
    assert (prepared.notch, prepared.max_amplitude, prepared.min_duration) == (60, 100, 300)
    assert (prepared.cut_start, prepared.cut_end) == (60, 60)


def test_the_recipe_of_dare() -> None:
    nano, base = (load_config(PretrainingConfig, f"dare-{size}") for size in ("nano", "base"))
    for size, config in (("nano", nano), ("base", base)):
        assert config.model == MODELS[f"dare-{size}"]
        assert config.objective == DualAlignmentConfig()  # the class' defaults are the paper's
        optimizer = config.training.optimizer
        assert (optimizer.lr, optimizer.weight_decay, optimizer.warmup) == (5e-4, 1e-6, 0.2)
        assert (optimizer.start_lr, optimizer.final_lr) == (5e-4 / 2, 5e-4 / 16)
        assert config.window_seconds == 4
    assert base.training.batch_size == 72 * 3
    assert base.window_step is not None
    assert base.training.epochs is not None
    assert base.training.epochs * base.window_seconds / base.window_step == 200
    assert load_config(PreprocessingConfig, "dare").sfreq == 256
    tueg = load_config(PretrainingConfig, "dare-tueg")
    assert (tueg.model, tueg.objective) == (base.model, base.objective)
    assert tueg.training.optimizer == base.training.optimizer
    assert tueg.training.batch_size == base.training.batch_size
    assert tueg.window_step is not None
    assert tueg.training.epochs is not None
    assert tueg.training.epochs * tueg.window_seconds / tueg.window_step == 200
    prepared = {"sfreq": 256, "reference": "average"}  # as the configuration's head says
    assert load_config(PreprocessingConfig, "tueg", prepared).sfreq == tueg.model.sfreq


def test_the_small_experts_are_small_spechinets() -> None:
    one, three = (
        load_config(PretrainingConfig, name) for name in ("spechinet-small", "specmoe-small")
    )
    assert differences(one, three) == ["experts: 1 → 3"]


def test_names_of_shipped_configurations_are_unique() -> None:
    folder = next(iter(shipped_configs().values())).parents[1]
    assert len(list(folder.glob("*/*.yaml"))) == len(shipped_configs())
    assert {path.parent.name for path in shipped_configs().values()} == set(SCHEMAS)


@pytest.mark.parametrize("name", list(catalogue()))
def test_a_shipped_task_fits_its_schema(name: str) -> None:
    task = load_task(name)
    assert isinstance(task, TaskConfig)
    assert task.name == name
    for fact in ("title", "description", "licence", "paper", "source"):
        assert getattr(task, fact), f"{name} lacks its {fact}"


# what users get wrong


def complaint(source: Path | str | None = None, **overrides: object) -> str:
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    with pytest.raises(BergerError) as caught:
        load_config(Outer, source, fields)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("nam", "name"),
        ("inner.stepps", "inner.steps"),
        ("inner.Rate", "inner.rate"),
        ("rate", "inner.rate"),
        ("maybe.step", "maybe.steps"),
        ("shape.radios", "shape.radius"),
    ],
)
def test_an_unknown_key_is_refused_with_a_hint(key: str, meant: str) -> None:
    given = {key: 1} | ({"shape.kind": "ball"} if "shape" in key else {})
    assert f"unknown key {key!r}; did you mean {meant!r}?" in complaint(None, **given)


def test_an_unknown_key_that_is_like_nothing_is_to_be_removed() -> None:
    assert complaint(None, qqqqq=1) == "configuration: unknown key 'qqqqq'; remove it."


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"inner__rate": "-1"}, "'inner.rate' = -1: input should be greater than 0"),
        ({"inner__rate": "fast"}, "'inner.rate' = 'fast'"),
        ({"inner__rate": ".nan"}, "'inner.rate' = nan: input should be a finite number"),
        ({"inner__rate": "200"}, "'inner': rate times steps must stay below 100 Hz"),
        ({"name": "7"}, "'name' = 7: must be text, write it in quotes"),
        ({"inner": "7"}, "'inner' = 7: must hold further keys"),
        ({"shape__width": 1}, "'shape': 'kind' is missing"),
        ({"shape__kind": "cone"}, "'shape': 'kind' must be one of 'ball', 'box'"),
        ({"shape__kind": "box"}, "'shape.width' is missing"),
        ({"numbers": "[1, a]"}, "'numbers.1' = 'a'"),
        ({"name": "[1"}, "--name: '[1' is not readable as YAML"),
        ({"name__first": "a"}, "'name': input should be a valid string"),
    ],
)
def test_a_wrong_value_is_named(overrides: dict[str, object], words: str) -> None:
    assert words in complaint(None, **overrides)


def test_a_value_has_no_fields(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("name: y\n")
    assert complaint(file, name__first="a") == (
        "--name.first: 'name' holds a single value, not further fields."
    )


def test_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("inner: {rate: -1, speed: 2}\n")
    text = complaint(file)
    assert text.startswith(f"{file}: ")
    assert "'inner.rate' = -1" in text
    assert "unknown key 'inner.speed'" in text


@pytest.mark.parametrize(
    "content",
    [
        "a: [1",
        "a: b: c",
        "a: 1\nb: 2\na: 3",
        "a: {b: 1, b: 2}",
        "\tname: x",
        "- 1\n- 2",
        "just text",
        "[]",
        "0",
    ],
)
def test_bad_yaml_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    assert complaint(file).startswith(f"{file}: ")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(b"name: \xff\xfe")
    assert "not readable as YAML" in complaint(file)


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: !!python/object/apply:os.getcwd []\n")
    assert "not readable as YAML" in complaint(file)


def test_an_empty_file_means_all_defaults(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing yet\n")
    assert load_config(Outer, file) == Outer()


def test_a_missing_file_is_named_and_shipped_ones_offered() -> None:
    assert "shipped are" in complaint("zzz.yaml")
    assert "did you mean 'probe'?" in complaint("prob")
    assert "neither a YAML file nor a shipped configuration" in complaint("nowhere/config.yaml")
