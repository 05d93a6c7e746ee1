"""Whether an image shows what its prompt says, as somebody else describes it: a vision-language model on a server.

    image ─JPEG─▶ server: "What is happening?" ─description─▶ recall of "The image contains PROMPT" in it ─▶ reward

The task of DDPO (arXiv 2305.13301, section 5) and RLCM (arXiv 2404.03673). The server speaks the API of OpenAI, as vLLM's
does; pictures reach it as JPEG within JSON.
"""

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..models.endpoint import Conversation, Endpoint
from ..reward import begins_with
from .similarity import WORDS, bert, recalls

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "alignment"
QUESTION = "Answer concisely: what is happening in this image?"
REFERENCE = "The image contains {prompt}"
DEBERTA = "microsoft/deberta-xlarge-mnli"
JPEG_QUALITY = 80
MAX_TOKENS = 64
TIMEOUT_S = 600.0


def _begin(url: str, model: str, similarity: str) -> None:
    """Raises ConfigError where the server or the model of texts is missing."""
    if similarity != WORDS:
        bert(similarity)
    Endpoint(NAME, url, model).require_served()


@begins_with(_begin)
async def alignment(
    images: "Sequence[Image]",
    prompts: Sequence[str],
    *,
    url: str,
    model: str,
    similarity: str = DEBERTA,
    question: str = QUESTION,
    reference: str = REFERENCE,
    retries: int = 3,
) -> list[float]:
    """How much of each prompt the description of its image says, from 0 to 1.

    `url` is the server's (http://host:8000/v1), `model` what it serves; a key is read from $OPENAI_API_KEY. `similarity` is
    the folder or hub id of the model that compares texts by BERTScore's recall, or words, which needs none. `retries` is
    how often a request that fails is made again, ever later.
    """
    endpoint = Endpoint(
        NAME, url, model, concurrency=len(images), retries=retries, timeout_s=TIMEOUT_S, max_tokens=MAX_TOKENS
    )
    described = [reply.text for reply in await endpoint.ask([_question(image, question) for image in images])]
    wanted = [reference.format(prompt=prompt) for prompt in prompts]
    return await asyncio.to_thread(recalls, described, wanted, similarity)


def _question(image: "Image", question: str) -> Conversation:
    content = [{"type": "image_url", "image_url": {"url": _as_url(image)}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def _as_url(image: "Image") -> str:
    written = io.BytesIO()
    image.convert("RGB").save(written, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
