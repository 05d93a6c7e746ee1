"""The wire format: a prompt or a group to bytes and back, without pickle and without copying what is read.

A message is a frame (`frame.py`) of one of three kinds:

    prompt            header: the fields of Prompt
    token group       header: the fields of Group, and the trajectories' other fields as columns
                      arrays: tokens int32[N], logprobs float32[A], spans int32[2, S]
    denoising group   header: likewise
                      arrays: latents, timesteps and behaviour_logprobs of each trajectory in turn, and of a group whose
                      images are to be seen the picture of each

A group of tokens costs 8 bytes for a sampled token (id and log-probability), 4 for a given one, and 8 for each span, a
run of tokens of one trajectory with one version (`spans.py`). One of images costs its latents.

Legend: G trajectories of a group, N tokens in it, A of them actions, S spans.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CodecError
from .frame import DTYPES, Message, Pieces, pack, refusing, unpack
from .spans import prompts_of, read_spans, spans_of
from .trajectory import (
    MAX_GROUP_SIZE,
    NOT_AN_ACTION,
    DenoisingTrajectory,
    Group,
    Prompt,
    TokenTrajectory,
    Trajectory,
    check_tokens,
)

MAX_DEPTH = 64
"""How deep lists and maps may be nested in a prompt's row or an image's condition."""

_PROMPT, _TOKEN_GROUP, _DENOISING_GROUP = 1, 2, 3
_TOKEN_LAYOUT = [(DTYPES["i4"], 1), (DTYPES["f4"], 1), (DTYPES["i4"], 2)]


@refusing("prompt")
def encode_prompt(prompt: Prompt) -> bytes:
    """Bytes of a prompt; raises CodecError if its row holds anything but JSON values."""
    _require_json(prompt.row, f"the row of prompt {prompt.id}")
    header = {"id": prompt.id, "min_version": prompt.min_version, "group_size": prompt.group_size, "row": prompt.row}
    return pack(_PROMPT, header)


@refusing("prompt")
def decode_prompt(message: Message) -> Prompt:
    """The prompt in `message`; raises CodecError on anything else."""
    _, header, arrays = unpack(message, "prompt", (_PROMPT,))
    if arrays:
        raise CodecError("a prompt has no arrays")
    prompt = Prompt(**header)
    _require_json(prompt.row, f"the row of prompt {prompt.id}")
    return prompt


@refusing("group")
def encode_group(group: Group[Any]) -> bytes:
    """Bytes of a group of either kind; raises CodecError if a condition holds anything but JSON values."""
    trajectories = group.trajectories
    if isinstance(trajectories[0], TokenTrajectory):
        kind, columns, arrays = _TOKEN_GROUP, _token_columns(trajectories), _token_arrays(trajectories)
    else:
        kind, columns, arrays = _DENOISING_GROUP, _denoising_columns(trajectories), _denoising_arrays(trajectories)
    header = {
        "prompt_id": group.prompt_id,
        "worker": group.worker,
        "started_at": float(group.started_at),
        "finished_at": float(group.finished_at),
        "columns": columns,
    }
    return pack(kind, header, arrays)


@refusing("group")
def decode_group(message: Message) -> Group[Any]:
    """The group in `message`, of either kind; raises CodecError on anything else.

    Tokens and latents are read-only views of the message.
    """
    kind, header, arrays = unpack(message, "group", (_TOKEN_GROUP, _DENOISING_GROUP))
    columns = _checked_columns(header.pop("columns"))
    trajectories: tuple[Trajectory, ...]
    if kind == _TOKEN_GROUP:
        trajectories = _token_trajectories(arrays, **columns)
    else:
        trajectories = _denoising_trajectories(arrays, **columns)
    return Group(trajectories=trajectories, **header)


def _checked_columns(columns: Any) -> dict[str, list[Any]]:
    if not isinstance(columns, dict) or not all(isinstance(column, list) for column in columns.values()):
        raise CodecError("the columns of a group are no map of lists")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or not 1 <= max(lengths) <= MAX_GROUP_SIZE:
        raise CodecError(f"the columns of a group have lengths {sorted(lengths)!r:.200}")
    return columns


def _reward_columns(trajectories: Sequence[Trajectory]) -> dict[str, list[Any]]:
    return {
        "reward": [float(t.reward) for t in trajectories],
        "reward_parts": [{name: float(part) for name, part in t.reward_parts.items()} for t in trajectories],
    }


def _token_columns(trajectories: Sequence[TokenTrajectory]) -> dict[str, list[Any]]:
    return _reward_columns(trajectories) | {"finish_reason": [t.finish_reason for t in trajectories]}


def _token_arrays(trajectories: Sequence[TokenTrajectory]) -> list[Pieces]:
    spans = spans_of([t.versions for t in trajectories])
    prompts = prompts_of(spans)
    if prompts is None:
        logprobs = [t.behaviour_logprobs[t.action_mask] for t in trajectories]
    else:  # a slice is read many times faster than a mask
        logprobs = [t.behaviour_logprobs[prompt:] for t, prompt in zip(trajectories, prompts, strict=True)]
    return [[t.tokens for t in trajectories], logprobs, [spans]]


def _token_trajectories(
    arrays: list[NDArray[Any]], *, reward: list[Any], reward_parts: list[Any], finish_reason: list[Any]
) -> tuple[TokenTrajectory, ...]:
    if [(array.dtype, array.ndim) for array in arrays] != _TOKEN_LAYOUT:
        raise CodecError("the arrays of a token group are not tokens, logprobs and spans")
    tokens_N, logprobs_A, spans = arrays
    check_tokens(tokens_N, logprobs_A)
    versions_N, places = read_spans(spans, len(tokens_N))
    is_action_N = versions_N != NOT_AN_ACTION
    if len(logprobs_A) != np.count_nonzero(is_action_N):
        raise CodecError(f"{len(logprobs_A)} log-probabilities for {np.count_nonzero(is_action_N)} actions")
    filled_N = np.zeros(len(tokens_N), np.float32)
    filled_N[is_action_N] = logprobs_A
    make, rows = TokenTrajectory.of_checked_arrays, zip(places, reward, reward_parts, finish_reason, strict=True)
    return tuple([make(tokens_N[own], versions_N[own], filled_N[own], *row) for own, *row in rows])


def _denoising_columns(trajectories: Sequence[DenoisingTrajectory]) -> dict[str, list[Any]]:
    conditions = [t.condition for t in trajectories]
    _require_json(conditions, "a condition")
    return _reward_columns(trajectories) | {
        "version": [t.version for t in trajectories],
        "condition": conditions,
        "guidance": [float(t.guidance) for t in trajectories],
        "seed": [t.seed for t in trajectories],
    }


def _denoising_arrays(trajectories: Sequence[DenoisingTrajectory]) -> list[Pieces]:
    shown = [trajectory.picture for trajectory in trajectories]
    if any(picture is None for picture in shown) and any(picture is not None for picture in shown):
        raise CodecError("some images of a group have a picture, and others none")
    rows = [(t.latents, t.timesteps, t.behaviour_logprobs, t.picture) for t in trajectories]
    return [[array] for row in rows for array in row if array is not None]


def _denoising_trajectories(arrays: list[NDArray[Any]], **columns: list[Any]) -> tuple[DenoisingTrajectory, ...]:
    _require_json(columns["condition"], "a condition")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    each = 4 if len(arrays) == 4 * len(rows) else 3
    own = [arrays[first : first + each] for first in range(0, len(arrays), each)]
    made = []
    for (latents, timesteps, logprobs, *picture), row in zip(own, rows, strict=True):
        shown = picture[0] if picture else None
        made.append(DenoisingTrajectory(latents, timesteps, logprobs, **row, picture=shown))
    return tuple(made)


def _require_json(value: Any, what: str) -> None:
    if not _is_json(value, MAX_DEPTH):
        raise CodecError(f"{what} holds more than JSON values, or is nested more than {MAX_DEPTH} deep")


def _is_json(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_json(inner, depth - 1) for key, inner in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_json(inner, depth - 1) for inner in value)
    return value is None or isinstance(value, str | bool | int | float)
