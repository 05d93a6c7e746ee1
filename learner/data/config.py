"""What can be said about the rows to train on in a configuration."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

HUB = "hf:"
"""Before the name of a data set of the Hugging Face hub, or of a folder that it can be loaded from."""

KINDS = (".jsonl", ".jsonl.gz", ".parquet")


def kind_of(path: Path) -> str | None:
    """Which of the KINDS a file is by its name; None for others."""
    return next((kind for kind in KINDS if path.name.endswith(kind)), None)


class CurriculumConfig(BaseModel):
    """Easy rows first: how hard a row may be rises with the position, in even steps.

    At position p rows of a difficulty up to start + (end − start)·s/steps are admitted, s = min(steps, ⌊steps·p/positions⌋).
    The difficulty is a column of stored rows, and of rows made on the fly their level (see docs/data.md).
    """

    model_config = ConfigDict(extra="forbid")

    column: str = Field("difficulty", description="of stored rows, the column that says how hard each is: a number")
    start: float = Field(description="the greatest difficulty at first")
    end: float | None = Field(
        None, description="the greatest difficulty ever; of stored rows that of the hardest where it is left out"
    )
    positions: int = Field(ge=1, description="rows issued until the end is reached (of a mixture, of this part)")
    steps: int = Field(10, ge=1, description="in how many even steps it rises")

    @model_validator(mode="after")
    def _rises(self) -> "CurriculumConfig":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end ({self.end:g}) must not be less than start ({self.start:g})")
        return self


class RowsConfig(BaseModel):
    """How rows are read from a source, and what prompt is made of each."""

    model_config = ConfigDict(extra="forbid")

    eval_source: str | None = Field(
        None, description="the held-out rows, if they are elsewhere: a file, a folder or hf:…, as in source"
    )
    subset: str | None = Field(None, description="of hf:, the name of the configuration (main of openai/gsm8k)")
    split: str = Field("train", description="of hf:, the split to train on")
    eval_split: str | None = Field(None, description="of hf:, the split of the held-out rows (test, say)")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="the columns of a row, each by the name it has in the source (answer: solution); others are left out. "
        "Without it all are kept",
    )
    prompt: str | None = Field(
        None, description="a prompt made of columns: {{name}} stands for the value of one, all else for itself"
    )
    system: str | None = Field(
        None, description="a system message put before every prompt; messages that begin with their own keep that"
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="of rows made on the fly, what they are like (arithmetic: digits, operations)"
    )
    curriculum: CurriculumConfig | None = Field(None, description="easy rows first")


class PartConfig(RowsConfig):
    """One source of a mixture, and its share in it."""

    source: str = Field(description="as dataset.source")
    weight: float = Field(1.0, gt=0, description="its share, relative to those of the other parts")
    name: str | None = Field(
        None,
        description="what the column `source` of its rows says; by default the source, of a file without the folder",
    )

    @property
    def known_as(self) -> str:
        """Its name, which its rows bear in their column `source`."""
        if self.name is not None:
            return self.name
        path = Path(self.source)
        return path.name if kind_of(path) else self.source.removeprefix(HUB)

    @property
    def elsewhere(self) -> tuple[str, str] | None:
        """The source and the split of the held-out rows, if they are not the last ones of its own."""
        if self.eval_source is None and (self.eval_split is None or not self.source.startswith(HUB)):
            return None
        return self.eval_source or self.source, self.eval_split or self.split


class DatasetConfig(RowsConfig):
    """Where prompts come from. A row has `messages` or `prompt`, and whatever columns the rewards read."""

    source: str | None = Field(
        None,
        description="sort, count, arithmetic, countdown or reasoning_gym:TASK (made on the fly), digits (the classes 0 to "
        "9), hf:NAME of the Hugging Face hub or hf:./folder, a .jsonl, .jsonl.gz or .parquet file, or a folder of such (with a slash: ./rows)",
    )
    mixture: list[PartConfig] = Field(
        default_factory=list, description="several sources by weight, instead of one; the keys of rows stand with each"
    )
    eval_size: int = Field(256, ge=0, description="rows held out for evaluation; of a mixture, by weight of each part")
    seed: int = Field(0, description="of the order, and of problems made on the fly")

    @model_validator(mode="after")
    def _is_source_or_mixture(self) -> "DatasetConfig":
        if (self.source is None) == (not self.mixture):
            seen = "both are given" if self.mixture else "neither is given"
            raise ValueError(f"a source or a mixture of several is wanted, and {seen}")
        ill_placed = [key for key in RowsConfig.model_fields if self.mixture and getattr(self, key) != _default(key)]
        if ill_placed:
            raise ValueError(f"{ill_placed[0]} is said of each part of a mixture: dataset.mixture[…].{ill_placed[0]}")
        return self

    @property
    def parts(self) -> list[PartConfig]:
        """The mixture, or the source as its only part."""
        if self.mixture:
            return self.mixture
        assert self.source is not None
        return [PartConfig(source=self.source, **{key: getattr(self, key) for key in RowsConfig.model_fields})]


def _default(key: str) -> Any:
    return RowsConfig.model_fields[key].get_default(call_default_factory=True)
