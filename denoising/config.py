"""What can be said about an image policy in a configuration: how images are made, and what is learned of it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DenoisingConfig(BaseModel):
    """The policy is a consistency model, and model.path its pipeline as diffusers saves it."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(
        4, ge=2, le=64, description="evaluations of the network for an image (N); all but the last are actions"
    )
    guidance: float = Field(
        1.0, ge=1, description="of models that are told it (guidance embedding); 1 for none, and for all other models"
    )
    image_size: int | None = Field(None, ge=8, description="pixels of a side; the model's own by default")
    consistency_lora: str | None = Field(
        None,
        description="a LoRA that makes the pipeline a consistency model (lcm-lora-sdxl), by folder or hub id; kept",
    )
    wire: Literal["float32", "float16"] = Field("float32", description="of latents as they travel, and as they are fed")
    shared_noise: bool = Field(False, description="the images of a group begin with the same noise")
    max_batch: int = Field(64, ge=1, description="images that one worker makes at once")
    trained_actions: int | None = Field(
        None, ge=1, description="of each image, drawn anew at each step; by default all steps - 1 are learned from"
    )
    clip_scale: Literal["snr", "none"] = Field(
        "snr",
        description="a step's clip range grows with the root of the signal-to-noise ratio that it leads to, so that the "
        "same change of the image fits into each; or all have the same",
    )
    density: Literal["sum", "mean"] = Field(
        "sum",
        description="log-probabilities are sums over the numbers of a latent; or, as in RLCM's and DDPO's code, their "
        "means, under which ratios hardly leave 1 and w corrects nothing",
    )

    @model_validator(mode="after")
    def _trains_what_there_is(self) -> "DenoisingConfig":
        if self.trained_actions is not None and self.trained_actions >= self.steps:
            raise ValueError(
                f"trained_actions ({self.trained_actions}) must be below steps ({self.steps}): the last is no action"
            )
        return self
