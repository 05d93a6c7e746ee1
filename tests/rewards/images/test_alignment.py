import asyncio
import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from areal.broker.errors import ConfigError, RewardError
from areal.rewards.config import RewardsConfig
from areal.rewards.images.alignment import alignment
from areal.rewards.pool import RewardPool
from areal.rewards.reward import prepare

from ..server import Server, serving

IMAGES = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
PROMPTS = ["red square", "lime cat", "green dog"]
MODEL = "sees-colours"


def colour_of(request: dict[str, Any]) -> str:
    (message,) = request["messages"]
    picture, question = message["content"]
    head, _, body = picture["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64" and "what is happening" in question["text"]
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    assert image.format == "JPEG" and image.size == (24, 16)
    return ("red", "lime", "blue")[max(range(3), key=lambda channel: image.getpixel((0, 0))[channel])]  # type: ignore[index]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(MODEL, lambda request: f"The image contains {colour_of(request)} square") as server:
        yield server


def rewarded(url: str, **kwargs: Any) -> list[float]:
    given = {"url": url, "model": MODEL, "similarity": "words"} | kwargs
    return asyncio.run(alignment(IMAGES, PROMPTS, **given))


def test_a_description_is_compared_with_the_prompt(server: Server) -> None:
    """Of the five words of `The image contains lime cat` the description has all but one."""
    assert rewarded(server.url) == pytest.approx([1.0, 0.8, 0.6])
    assert {request["temperature"] for request in server.asked} == {0.0} and len(server.asked) == 3
    assert rewarded(server.url, reference="{prompt}") == pytest.approx([1.0, 0.5, 0.0])


def test_the_key_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    rewarded(server.url)
    assert server.keys == {"Bearer secret"}


def test_a_request_that_fails_is_made_again(server: Server) -> None:
    server.failures = [(503, {})] * 2
    assert rewarded(server.url) == pytest.approx([1.0, 0.8, 0.6])
    server.failures = [(503, {})] * 100
    with pytest.raises(RewardError, match=r"did not answer as wanted: .*busy"):
        rewarded(server.url, retries=0)


def test_an_answer_without_text_is_an_error(server: Server) -> None:
    server.says = lambda request: None
    with pytest.raises(RewardError, match="it answered with no text"):
        rewarded(server.url)


def test_a_server_that_is_missing_is_told_as_the_run_starts(server: Server) -> None:
    def begin(url: str, model: str) -> None:
        prepare("alignment", alignment, {"url": url, "model": model, "similarity": "words"}).begin()

    begin(server.url, MODEL)
    with pytest.raises(ConfigError, match=rf"does not serve 'llava' \(kwargs.model\) but {MODEL}"):
        begin(server.url, "llava")
    with pytest.raises(
        ConfigError, match=r"no server with the API of OpenAI answers at .*/v1 \(kwargs.url\).*Start it first"
    ):
        begin("http://127.0.0.1:9/v1", MODEL)


def test_a_pool_asks_the_server_for_a_whole_group(server: Server) -> None:
    kwargs = {"url": server.url, "model": MODEL, "similarity": "words"}
    config = RewardsConfig.model_validate({"functions": [{"name": "alignment", "kwargs": kwargs}]})

    async def work() -> list[float]:
        pool = RewardPool(config)
        await pool.start()
        try:
            return [score.total for score in await pool.score_images("red square", IMAGES, {"prompt": "red square"})]
        finally:
            await pool.stop()

    assert asyncio.run(work()) == pytest.approx([1.0, 0.8, 0.8])
