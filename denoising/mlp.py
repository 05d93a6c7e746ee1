"""A network for small images of known classes, as diffusers saves and loads models.

    pixels ─▶ in ─▶ block ─▶ … ─▶ out ─▶ pixels        each block: x + gate·mlp(scale·norm(x) + shift)
                      ▲ scale, shift, gate
        time, class ──┘                                (adaLN-zero: Peebles & Xie, arXiv 2212.09748)

Legend: M images, D pixels of one, W the width of the network.
"""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

TIME_CHANNELS = 64


class ConsistencyMlp(ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """Called as diffusers' UNet2DModel is; LoRA finds its linear layers by their names, as in a UNet."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, sample_size: int = 8, in_channels: int = 1, num_class_embeds: int = 10, width: int = 256, depth: int = 3
    ) -> None:
        super().__init__()
        pixels = in_channels * sample_size**2
        self.time_features = Timesteps(TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(TIME_CHANNELS, width)
        self.class_embedding = nn.Embedding(num_class_embeds, width)
        self.proj_in = nn.Linear(pixels, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, pixels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """What the network says of latents [M, C, H, W] at times [M], of classes int64[M]."""
        time_MW = self.time_embedding(self.time_features(timestep.expand(len(sample))).to(sample.dtype))
        condition_MW = nn.functional.silu(time_MW + self.class_embedding(class_labels))
        x_MW = self.proj_in(sample.flatten(1))
        for block in self.blocks:
            x_MW = block(x_MW, condition_MW)
        output = self.proj_out(self.norm_out(x_MW)).reshape(sample.shape)
        return UNet2DOutput(sample=output) if return_dict else (output,)


class Block(nn.Module):
    """A residual block that begins by changing nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.linear_1 = nn.Linear(width, width)
        self.linear_2 = nn.Linear(width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_MW: Tensor, condition_MW: Tensor) -> Tensor:
        scale_MW, shift_MW, gate_MW = self.modulation(condition_MW).chunk(3, dim=1)
        hidden_MW = self.norm(x_MW) * (1 + scale_MW) + shift_MW
        output: Tensor = x_MW + gate_MW * self.linear_2(nn.functional.silu(self.linear_1(hidden_MW)))
        return output
