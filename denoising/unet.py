"""The network of diffusers' own consistency models of classes, in pixels."""

from diffusers import UNet2DModel
from diffusers.loaders import PeftAdapterMixin


class ClassUNet(UNet2DModel, PeftAdapterMixin):  # type: ignore[misc]
    """A UNet2DModel that an adapter can go on, as one can on the UNets of prompts."""
