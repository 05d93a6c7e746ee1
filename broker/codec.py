"""The wire format: a prompt or a group to bytes and back, without pickle and without copying what is read.

A message is a frame (`frame.py`) of one of three kinds:

    prompt            header: the fields of Prompt
    token group       header: the fields of Group, and the trajectories' other fields as columns
                      arrays: lengths int32[G], tokens int32[N], logprobs float32[A], spans int32[S, 2]
    denoising group   header: likewise
                      arrays: latents, timesteps and behaviour_logprobs of each trajectory in turn

A group of tokens costs 8 bytes for a sampled token (id and log-probability), 4 for a given one, and 8 for each span, a
run of tokens of one trajectory with one version: (version, length). One of images costs its latents.

Legend: G trajectories of a group, N tokens in it, A of them actions, S spans.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import CodecError
from .frame import DTYPES, Message, Pieces, pack, refusing, unpack
from .spans import read_spans, spans_of
from .trajectory import (
    MAX_GROUP_SIZE,
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
_TOKEN_LAYOUT = [(DTYPES["i4"], 1), (DTYPES["i4"], 1), (DTYPES["f4"], 1), (DTYPES["i4"], 2)]


def encode_prompt(prompt: Prompt) -> bytes:
    """Bytes of a prompt; raises CodecError if its row holds anything but JSON values."""
    _require_json(prompt.row, f"the row of prompt {prompt.id}")
    header = {"id": prompt.id, "min_version": prompt.min_version, "group_size": prompt.group_size, "row": prompt.row}
    with refusing("prompt"):
        return pack(_PROMPT, header)


def decode_prompt(message: Message) -> Prompt:
    """The prompt in `message`; raises CodecError on anything else."""
    with refusing("prompt"):
        _, header, arrays = unpack(message, "prompt", (_PROMPT,))
        if arrays:
            raise CodecError("a prompt has no arrays")
        prompt = Prompt(**header)
        _require_json(prompt.row, f"the row of prompt {prompt.id}")
        return prompt


def encode_group(group: Group[Any]) -> bytes:
    """Bytes of a group of either kind; raises CodecError if a condition holds anything but JSON values."""
    trajectories = group.trajectories
    with refusing("group"):
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


def decode_group(message: Message) -> Group[Any]:
    """The group in `message`, of either kind; raises CodecError on anything else.

    Tokens and latents are read-only views of the message.
    """
    with refusing("group"):
        kind, header, arrays = unpack(message, "group", (_TOKEN_GROUP, _DENOISING_GROUP))
        rows = _rows(header.pop("columns"))
        trajectories: tuple[Trajectory, ...]
        if kind == _TOKEN_GROUP:
            trajectories = _token_trajectories(rows, arrays)
        else:
            trajectories = _denoising_trajectories(rows, arrays)
        return Group(trajectories=trajectories, **header)


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The columns of a group as the fields of each trajectory."""
    if not isinstance(columns, dict) or not all(isinstance(column, list) for column in columns.values()):
        raise CodecError("the columns of a group are no map of lists")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or not 1 <= max(lengths) <= MAX_GROUP_SIZE:
        raise CodecError(f"the columns of a group have lengths {sorted(lengths)!r:.200}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _reward_columns(trajectories: Sequence[Trajectory]) -> dict[str, list[Any]]:
    return {
        "reward": [float(t.reward) for t in trajectories],
        "reward_parts": [{name: float(part) for name, part in t.reward_parts.items()} for t in trajectories],
    }


def _token_columns(trajectories: Sequence[TokenTrajectory]) -> dict[str, list[Any]]:
    return _reward_columns(trajectories) | {"finish_reason": [t.finish_reason for t in trajectories]}


def _token_arrays(trajectories: Sequence[TokenTrajectory]) -> list[Pieces]:
    lengths_G = np.array([len(t.tokens) for t in trajectories], np.int32)
    spans = spans_of(np.concatenate([t.versions for t in trajectories]), lengths_G)
    actions = zip(trajectories, spans.actions(), strict=True)
    return [
        [lengths_G],
        [t.tokens for t in trajectories],
        [t.behaviour_logprobs[where] for t, where in actions],
        [np.stack([spans.versions_S, spans.lengths_S], axis=1)],
    ]


def _token_trajectories(rows: list[dict[str, Any]], arrays: list[NDArray[Any]]) -> tuple[TokenTrajectory, ...]:
    if [(array.dtype, array.ndim) for array in arrays] != _TOKEN_LAYOUT:
        raise CodecError("the arrays of a token group are not lengths, tokens, logprobs and spans")
    lengths_G, tokens_N, logprobs_A, span_array = arrays
    if len(lengths_G) != len(rows) or lengths_G.min() < 1 or lengths_G.sum(dtype=np.int64) != len(tokens_N):
        raise CodecError(f"the lengths of {len(rows)} trajectories do not add up to {len(tokens_N)} tokens")
    spans = read_spans(span_array, lengths_G)
    num_actions_G = spans.num_actions()
    if num_actions_G.min() < 1 or num_actions_G.sum() != len(logprobs_A):
        raise CodecError(f"{len(logprobs_A)} log-probabilities for {num_actions_G.tolist()!r:.200} actions")
    check_tokens(tokens_N, logprobs_A)
    versions_N, filled_N = spans.versions(), np.zeros(len(tokens_N), np.float32)
    trajectories, token, logprob = [], 0, 0
    columns = (rows, lengths_G.tolist(), num_actions_G.tolist(), spans.actions())
    for row, length, num_actions, where in zip(*columns, strict=True):
        own = slice(token, token + length)
        filled_N[own][where] = logprobs_A[logprob : logprob + num_actions]
        trajectories.append(TokenTrajectory.of_checked_arrays(tokens_N[own], versions_N[own], filled_N[own], **row))
        token, logprob = token + length, logprob + num_actions
    return tuple(trajectories)


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
    return [[array] for t in trajectories for array in (t.latents, t.timesteps, t.behaviour_logprobs)]


def _denoising_trajectories(rows: list[dict[str, Any]], arrays: list[NDArray[Any]]) -> tuple[DenoisingTrajectory, ...]:
    if len(arrays) != 3 * len(rows):
        raise CodecError(f"{len(arrays)} arrays for {len(rows)} trajectories, not 3 each")
    _require_json([row["condition"] for row in rows], "a condition")
    triples = zip(arrays[::3], arrays[1::3], arrays[2::3], strict=True)
    return tuple(DenoisingTrajectory(*triple, **row) for triple, row in zip(triples, rows, strict=True))


def _require_json(value: Any, what: str) -> None:
    if not _is_json(value, MAX_DEPTH):
        raise CodecError(f"{what} holds more than JSON values, or is nested more than {MAX_DEPTH} deep")


def _is_json(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_json(inner, depth - 1) for key, inner in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_json(inner, depth - 1) for inner in value)
    return value is None or isinstance(value, str | bool | int | float)
