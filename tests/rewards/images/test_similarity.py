from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from areal.broker.errors import ConfigError
from areal.rewards.images.similarity import bert, recalls, word_recall

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "that", "sleeps", "reads", "books"]


@pytest.mark.parametrize(
    ("said", "wanted", "recall"),
    [
        ("A cat reads a book.", "a cat that reads a book", 5 / 6),
        ("a dog", "a cat", 0.5),
        ("the the the", "the cat", 0.5),
        ("", "a cat", 0.0),
        ("anything", "", 0.0),
    ],
)
def test_the_share_of_words(said: str, wanted: str, recall: float) -> None:
    assert word_recall(said, wanted) == pytest.approx(recall)
    assert recalls([said], [wanted], by="words") == [word_recall(said, wanted)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab={word: place for place, word in enumerate(WORDS)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    return folder


def slowly(network: BertModel, said: str, wanted: str) -> float:
    """BERTScore's recall, one cosine at a time; [CLS] and [SEP] may be matched, and need no match."""

    def embedded(text: str) -> list[torch.Tensor]:
        ids = torch.tensor([[2, *(WORDS.index(word) for word in text.split()), 3]])
        with torch.no_grad():
            return list(network(ids).last_hidden_state[0])

    candidates = embedded(said)
    best = [
        max(float(torch.cosine_similarity(token, other, dim=0)) for other in candidates)
        for token in embedded(wanted)[1:-1]
    ]
    return sum(best) / len(best)


def test_bertscore_recall_is_the_mean_of_the_best_cosines(model: Path) -> None:
    said = ["a dog reads", "a cat that sleeps", "books"]
    wanted = ["a cat that reads books", "a cat that sleeps", "a cat"]
    network = BertModel.from_pretrained(model).eval()
    slow = [slowly(network, *pair) for pair in zip(said, wanted, strict=True)]
    found = recalls(said, wanted, by=str(model))
    assert found == pytest.approx(slow, abs=1e-5)
    assert found[1] == pytest.approx(1.0, abs=1e-6) and found[0] < 1 - 1e-4


def test_a_model_that_is_nowhere_is_told() -> None:
    with pytest.raises(ConfigError, match=r"'/no/model' \(kwargs.similarity\) cannot be loaded: .* or words"):
        bert("/no/model")
