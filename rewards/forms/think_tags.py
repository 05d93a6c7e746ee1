"""Whether a text thinks between tags first and answers then (DeepSeek-R1's format reward, arXiv 2501.12948, section 2.2.2)."""

from ...broker.errors import ConfigError
from ..reward import begins_with


def _begin(opening: str, closing: str) -> None:
    if not opening or not closing or opening in closing or closing in opening:
        raise ConfigError(
            f"kwargs.opening {opening!r} and kwargs.closing {closing!r} of think_tags cannot be told apart"
        )


@begins_with(_begin)
def think_tags(
    completion: str,
    *,
    opening: str = "<think>",
    closing: str = "</think>",
    opened: bool = False,
    partial: bool = True,
) -> dict[str, float]:
    """¼ for each of: `begins` with the opening tag; has each tag `once`, in order; `thinks`; and `answers` after it.

    White space does not count as thinking or answering, and may stand before the opening tag. With `opened` the prompt has
    opened the thinking already (as the chat templates of reasoning models do) and the completion must not do so again.
    Without `partial` it is all or nothing. What is thought or answered is not judged: give this a small weight beside a
    reward of the answer.
    """
    text = opening + completion if opened else completion.lstrip()
    rest = text.partition(opening)[2]
    thought, closed, said = rest.partition(closing)
    earned = {
        "begins": text.startswith(opening),
        "once": text.count(opening) == text.count(closing) == 1 and bool(closed),
        "thinks": bool(closed) and bool(thought.strip()),
        "answers": bool(closed) and bool(said.strip()),
    }
    if not partial and not all(earned.values()):
        return dict.fromkeys(earned, 0.0)
    return {part: 0.25 * holds for part, holds in earned.items()}
