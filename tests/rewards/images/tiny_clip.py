"""A CLIP of a few thousand numbers, drawn at random."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

WIDTH = 12
SIDE = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def save_clip(folder: Path) -> CLIPModel:
    """The model, and what prepares images and texts for it, as the hub has them."""
    torch.manual_seed(0)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 64, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    network = CLIPModel(
        CLIPConfig(
            text_config=layers | text,
            vision_config=layers | {"image_size": SIDE, "patch_size": 8},
            projection_dim=WIDTH,
        )
    ).eval()
    network.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    symbols = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocabulary = {symbol: place for place, symbol in enumerate(symbols)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12)
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)
    return network
