from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, DDIMScheduler, LCMScheduler, UNet2DModel

from areal.broker.errors import ConfigError, ModelError
from areal.denoising.classes import ClassModel, ClassPipeline
from areal.denoising.mlp import ConsistencyMlp

from .test_mlp import moved


def pipeline(scheduler: Any = None, **options: Any) -> ClassPipeline:
    return ClassPipeline(moved(in_channels=1), scheduler or LCMScheduler(prediction_type="v_prediction"), **options)


def tiny_unet(classes: int | None = 3, *, attention: bool = False) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D" if attention else "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )


def test_a_pipeline_is_saved_and_loaded_as_diffusers_does_it(tmp_path: Path) -> None:
    made = pipeline(decoded_size=16)
    made.save_pretrained(tmp_path)
    again = ClassPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert isinstance(again.unet, ConsistencyMlp) and isinstance(again.scheduler, LCMScheduler)
    images, others = made([0, 1, 2, 1]), again([0, 1, 2, 1])
    assert [image.size for image in images] == [(16, 16)] * 4 and len({image.tobytes() for image in images}) == 4
    assert [image.tobytes() for image in images] == [image.tobytes() for image in others]


def test_a_unet_of_classes_in_pixels_will_do(tmp_path: Path) -> None:
    made = ClassPipeline(tiny_unet(), CMStochasticIterativeScheduler(), decoded_size=8)
    (image,) = made([2], num_inference_steps=2)
    assert image.mode == "RGB" and image.size == (8, 8)


def test_what_is_white_and_black_comes_out_so() -> None:
    model = ClassModel(pipeline(decoded_size=4))
    clean = torch.tensor([-3.0, -1.0, 0.0, 1.0]).reshape(4, 1, 1, 1).expand(4, 1, 4, 4)
    assert [np.asarray(image).mean() for image in model.decode(clean)] == [0, 0, 128, 255]


@pytest.mark.parametrize("label", [None, 3, -1, "2", True, 1.0])
def test_an_unknown_class_is_refused(label: Any) -> None:
    with pytest.raises(ConfigError, match=r"and the model knows the classes 0 to 2"):
        ClassModel(pipeline()).condition({"label": label})


def test_what_is_no_consistency_model_of_classes_is_refused() -> None:
    with pytest.raises(ModelError, match="is a DDIMScheduler"):
        ClassModel(pipeline(DDIMScheduler()))
    with pytest.raises(ModelError, match="num_class_embeds is null"):
        ClassModel(ClassPipeline(tiny_unet(None), LCMScheduler()))
