"""Models of images of known classes: a network called as diffusers' UNet2DModel is, in the pixels themselves."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from ..broker.errors import ConfigError, ModelError
from .images import to_images
from .noise import Noise
from .sampler import Denoise, sample
from .schedule import Schedule, schedule_of


class ClassPipeline(DiffusionPipeline):  # type: ignore[misc]
    """A network of classes and its scheduler, as diffusers saves and loads them.

    Images are made `decoded_size` pixels wide by bicubic interpolation, in the place of a decoder.
    """

    def __init__(self, unet: nn.Module, scheduler: Any, decoded_size: int = 32) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(decoded_size=decoded_size)

    def __call__(self, class_labels: Sequence[int], num_inference_steps: int = 4, seed: int = 0) -> list[Image.Image]:
        """An image of each of these classes."""
        model = ClassModel(self)
        conditions = [model.condition({"label": label}) for label in class_labels]
        noise = Noise(range(seed, seed + len(conditions)), model.latent_shape)
        levels = model.schedule.levels(num_inference_steps)
        return model.decode(sample(model.denoise(conditions), model.schedule, levels, noise).clean)


class ClassModel:
    """A pipeline of classes as it is sampled and trained.

    network: what is trained.
    schedule: the levels that it knows.
    latent_shape: of a latent, [C, H, W], which is an image in [−1, 1].
    """

    def __init__(self, pipeline: Any) -> None:
        """Raises ModelError for a network that knows no classes, and a scheduler that is none of a consistency model."""
        self.network: nn.Module = pipeline.unet
        self.schedule: Schedule = schedule_of(pipeline.scheduler)
        config: Any = pipeline.unet.config
        if config.num_class_embeds is None:
            raise ModelError("the network has no classes (num_class_embeds is null): nothing tells it what to make")
        self._num_classes: int = config.num_class_embeds
        self.latent_shape: tuple[int, ...] = (config.in_channels, config.sample_size, config.sample_size)
        self._decoded_size = pipeline.config.get("decoded_size", config.sample_size)

    def condition(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the network is given for a row of the data set: its `label`. Raises ConfigError."""
        label = row.get("label")
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < self._num_classes:
            raise ConfigError(
                f"a row has the label {label!r:.100}, and the model knows the classes 0 to {self._num_classes - 1}: "
                "see dataset.source"
            )
        return {"label": label}

    def denoise(self, conditions: Sequence[dict[str, Any]]) -> Denoise:
        """f(x, τ) under these conditions, one for each latent."""
        device = next(self.network.parameters()).device
        labels_M = torch.tensor([condition["label"] for condition in conditions], device=device)

        def denoised(x_MD: Tensor, level_M: Tensor) -> Tensor:
            return consistency(self.network, self.schedule, x_MD.float(), level_M, labels_M)

        return denoised

    def decode(self, clean_MD: Tensor) -> list[Image.Image]:
        """The images, 8 bits a channel, grey or RGB."""
        wide = (self._decoded_size,) * 2
        return [image.resize(wide, Image.Resampling.BICUBIC) for image in to_images(clean_MD)]


def consistency(network: Any, schedule: Schedule, x_MD: Tensor, level_M: Tensor, labels_M: Tensor) -> Tensor:
    """float32[M, D…], f(x, τ) of a network of classes."""
    inputs_MD, time_M = schedule.network_input(x_MD, level_M)
    (output_MD,) = network(inputs_MD.to(network.dtype), time_M, class_labels=labels_M, return_dict=False)
    return schedule.clean(output_MD, x_MD, level_M)
