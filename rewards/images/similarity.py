"""How much of a reference a text says, from 0 to 1.

Legend: P pairs of texts, R tokens of a reference, C tokens of a candidate, E dimensions of their embeddings.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from ...broker.errors import ConfigError

WORDS = "words"
LAYERS = {"microsoft/deberta-xlarge-mnli": 40, "microsoft/deberta-large-mnli": 18, "roberta-large": 17}
"""Which layer's embeddings agree best with people, as BERTScore's authors measured it (github.com/Tiiiger/bert_score)."""


def recalls(candidates: Sequence[str], references: Sequence[str], by: str) -> list[float]:
    """float[P], of the reference in the candidate: word_recall, or bert_recall by the model of that folder or hub id."""
    if by == WORDS:
        return [word_recall(*pair) for pair in zip(candidates, references, strict=True)]
    return bert_recalls(candidates, references, by)


def word_recall(candidate: str, reference: str) -> float:
    """The share of the reference's words that the candidate has: ROUGE-1 recall (Lin, 2004)."""
    wanted, found = (Counter(re.findall(r"\w+", text.lower())) for text in (reference, candidate))
    return (wanted & found).total() / max(1, wanted.total())


def bert_recalls(candidates: Sequence[str], references: Sequence[str], model: str) -> list[float]:
    """BERTScore's recall (Zhang et al., arXiv 1904.09675, section 3): mean over reference tokens of the best cosine.

    As in the authors' code, tokens that the tokenizer adds count as candidates' tokens and not as references'.
    """
    import torch

    network, tokenizer = bert(model)
    embedded: list[Any] = [_embedded(list(texts), network, tokenizer, model) for texts in (candidates, references)]
    (candidate_PCE, own_PC, _), (reference_PRE, _, counts_PR) = embedded
    cosine_PRC = torch.einsum("pre,pce->prc", reference_PRE, candidate_PCE).masked_fill(~own_PC[:, None, :], -1.0)
    best_PR = cosine_PRC.amax(dim=2) * counts_PR
    return [float(recall) for recall in best_PR.sum(1) / counts_PR.sum(1).clamp(min=1)]


@cache
def bert(model: str) -> Any:
    """The network and its tokenizer; raises ConfigError where there are none."""
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return AutoModel.from_pretrained(model).eval().to(device), AutoTokenizer.from_pretrained(model)
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(
            f"the model of texts {model!r} (kwargs.similarity) cannot be loaded: take a folder in Hugging Face format, a hub "
            f"id that can be reached, or {WORDS}: {str(error).strip().partition(chr(10))[0]}"
        ) from error


def _embedded(texts: list[str], network: Any, tokenizer: Any, model: str) -> Any:
    """float32[P, C, E] of length 1 each, bool[P, C] of tokens that are there, bool[P, C] of those that are the text's."""
    import torch

    inputs = tokenizer(texts, padding=True, truncation=True, return_special_tokens_mask=True, return_tensors="pt")
    added_PC = inputs.pop("special_tokens_mask").bool().to(network.device)
    inputs = inputs.to(network.device)
    with torch.inference_mode():
        layers = network(**inputs, output_hidden_states=True).hidden_states
    found_PCE = torch.nn.functional.normalize(layers[LAYERS.get(model, -1)].float(), dim=-1)
    there_PC = inputs["attention_mask"].bool()
    return found_PCE, there_PC, there_PC & ~added_PC
