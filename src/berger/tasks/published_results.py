"""What others have reported of a task: shown beside what is measured, and never mixed with it."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from berger.configuration import Config

LEAST: Final = {
    "balanced_accuracy": 0.0,
    "auroc": 0.0,
    "auprc": 0.0,
    "kappa": -1.0,
    "f1_weighted": 0.0,
    "pearson": -1.0,
    "r2": float("-inf"),
    "rmse": 0.0,
}
"""The scores that Berger has as well, and the lowest value of each."""
REGRESSION: Final = ("pearson", "r2", "rmse")

Metric = Literal[
    "balanced_accuracy", "auroc", "auprc", "kappa", "f1_weighted", "pearson", "r2", "rmse"
]
Words = Annotated[str, Field(min_length=1)]


class PublishedResult(Config):
    """A number that somebody has reported of a task, with other splits and programs than Berger's.

    Attributes
    ----------
    model : str
    metric : str
        One of `LEAST`.
    value : float
        Shares from 0 to 1, no percentages; a root mean squared error in the target's unit.
    spread : float, optional
        What stands behind the ± there.
    split : str
        Who was tested there by what was learned from whom.
    source : str
        Paper and table.
    """

    model: Words
    metric: Metric
    value: FiniteFloat
    spread: Annotated[FiniteFloat, Field(ge=0)] | None = None
    split: Words
    source: Words

    @model_validator(mode="after")
    def _is_a_score(self) -> Self:
        if self.value < LEAST[self.metric] or (self.metric != "rmse" and self.value > 1):
            raise ValueError(
                f"{self.metric} cannot be {self.value:g}; give a share of 1, not a percentage"
            )
        return self

    @property
    def kind(self) -> Literal["classification", "regression"]:
        """The kind of task that it is a score of."""
        return "regression" if self.metric in REGRESSION else "classification"
