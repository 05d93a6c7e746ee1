"""A dead letter told to people and to programs: what died, where, and why."""

import time
from dataclasses import dataclass

from ...broker.codec import decode_group, decode_prompt
from ...broker.dead import DeadLetter
from ...broker.errors import CodecError
from ...broker.trajectory import DenoisingTrajectory, TokenTrajectory
from ..screen import DASH, Screen, Table, moment, one_line, plural, recent_moment, span, to_json, to_text
from .tally import Record

SOURCES = {"prompts": "prompt", "groups": "group"}
MAX_TRAJECTORIES = 32  # of a group, shown to people; programs get all of them
FIRST_TOKENS = 12
FIRST_BYTES = 64
TRACE = "Traceback (most recent call last)"
LABEL = "  {:<10}"
INDENT = "    "


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter and its lane."""

    lane: str
    letter: DeadLetter

    @property
    def died_at(self) -> float:
        """Unix seconds, from the milliseconds that the entry begins with."""
        return int(self.letter.entry.partition("-")[0]) / 1000


def record_of(found: Found) -> Record:
    """All but what died, in JSON values."""
    letter = found.letter
    return {
        "lane": found.lane,
        "entry": letter.entry,
        "position": letter.position if letter.position >= 0 else None,
        "from": SOURCES.get(letter.source, letter.source),
        "attempts": letter.attempts,
        "worker": letter.worker,
        "time": found.died_at,
        "cause": letter.cause,
    }


def payload_of(found: Found, body: bytes) -> Record:
    """What died, in JSON values, from its bytes; under `error` why they cannot be read."""
    if not body:
        return {"error": "its bytes are gone"}
    try:
        read = _group(body) if found.letter.source == "groups" else _prompt(body)
        to_json(read)
    except (CodecError, RecursionError, TypeError, ValueError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        return {"error": f"{plural(len(body), 'byte')} that cannot be read: {why}", "bytes": body[:FIRST_BYTES].hex()}
    return read


def row_of(found: Found) -> list[str]:
    """The cells of a table: entry, lane, position, from, attempts, worker, when, cause."""
    facts = _facts(found) | {"when": recent_moment(found.died_at)}
    return [found.letter.entry, found.lane, *facts.values(), telling_line(found.letter.cause)]


def telling_line(cause: str) -> str:
    """The line of a cause that tells most: of a traceback the innermost exception, of any other text the first."""
    lines = [line for line in cause.splitlines() if line.strip()]
    if not lines:
        return DASH
    traces = [index for index, line in enumerate(lines) if TRACE in line]
    if not traces:
        return one_line(lines[0])
    told = [line for line in lines[traces[-1] + 1 :] if not line.startswith((" ", "\t"))]
    return one_line(told[0] if told else lines[-1])


def put_letter(screen: Screen, found: Found, died: Record) -> None:
    """Print all there is to know of it."""
    screen.put((found.letter.entry, "bold"), (f"  {found.lane} lane", "dim"))
    for label, text in _facts(found).items():
        since = f" ({span(time.time() - found.died_at)} ago)" if label == "when" and text != DASH else ""
        screen.put((LABEL.format(label), "dim"), text, (since, "dim"))
    screen.put(("  cause", "dim"))
    screen.put(_indented(found.letter.cause.strip() or DASH))
    if "error" in died:
        screen.put((LABEL.format("payload"), "dim"), (died["error"], "yellow"))
        if "bytes" in died:
            screen.put(_indented(f"{died['bytes']}…"))
    elif "row" in died:
        _put_prompt(screen, died)
    else:
        _put_group(screen, died)
    screen.put("")


def _facts(found: Found) -> dict[str, str]:
    letter = found.letter
    return {
        "position": str(letter.position) if letter.position >= 0 else DASH,
        "from": one_line(SOURCES.get(letter.source, letter.source)) or DASH,
        "attempts": str(letter.attempts),
        "worker": one_line(letter.worker) or DASH,
        "when": moment(found.died_at),
    }


def _prompt(body: bytes) -> Record:
    prompt = decode_prompt(body)
    return {
        "prompt_id": prompt.id,
        "group_size": prompt.group_size,
        "min_version": prompt.min_version,
        "row": prompt.row,
    }


def _group(body: bytes) -> Record:
    group = decode_group(body)
    return {
        "prompt_id": group.prompt_id,
        "worker": group.worker,
        "started_at": group.started_at,
        "finished_at": group.finished_at,
        "trajectories": [_trajectory(trajectory) for trajectory in group.trajectories],
    }


def _trajectory(trajectory: TokenTrajectory | DenoisingTrajectory) -> Record:
    about = {
        "reward": float(trajectory.reward),
        "reward_parts": trajectory.reward_parts,
        "length": trajectory.num_actions,
    }
    return about | (_tokens(trajectory) if isinstance(trajectory, TokenTrajectory) else _image(trajectory))


def _tokens(trajectory: TokenTrajectory) -> Record:
    sampled = trajectory.action_mask
    return {
        "prompt_length": len(trajectory.tokens) - trajectory.num_actions,
        "finish_reason": trajectory.finish_reason,
        "versions": sorted({int(version) for version in trajectory.versions[sampled]}),
        "first_tokens": trajectory.tokens[sampled][:FIRST_TOKENS].tolist(),
    }


def _image(trajectory: DenoisingTrajectory) -> Record:
    return {
        "versions": [trajectory.version],
        "seed": trajectory.seed,
        "guidance": trajectory.guidance,
        "condition": trajectory.condition,
        "latents": list(trajectory.latents.shape),
    }


def _put_prompt(screen: Screen, prompt: Record) -> None:
    screen.put((LABEL.format("wanted"), "dim"), f"{prompt['group_size']} samples of version ≥ {prompt['min_version']}")
    screen.put(("  row", "dim"))
    screen.put(_indented(to_text(prompt["row"])))


def _put_group(screen: Screen, group: Record) -> None:
    took = span(group["finished_at"] - group["started_at"])
    known = f"prompt {group['prompt_id']}, made by {group['worker'] or DASH} in {took}"
    screen.put((LABEL.format("group"), "dim"), known)
    trajectories = group["trajectories"]
    last = "first tokens" if "first_tokens" in trajectories[0] else "image"
    shown = trajectories[:MAX_TRAJECTORIES]
    table = Table(screen, INDENT, ">reward", ">length", "finish", "versions", last)
    table.put([INDENT, *_trajectory_row(trajectory)] for trajectory in shown)
    if len(shown) < len(trajectories):
        screen.put((f"{INDENT}and {len(trajectories) - len(shown)} more (--json has them all)", "dim"))


def _trajectory_row(trajectory: Record) -> list[str]:
    versions = trajectory["versions"]
    if "first_tokens" in trajectory:
        tokens = trajectory["first_tokens"]
        last = " ".join(map(str, tokens)) + (" …" if trajectory["length"] > len(tokens) else "")
    else:
        shape = "×".join(map(str, trajectory["latents"]))
        last = f"latents {shape}, seed {trajectory['seed']}, guidance {trajectory['guidance']:g}"
    return [
        f"{trajectory['reward']:.4g}",
        str(trajectory["length"]),
        trajectory.get("finish_reason", DASH),
        " ".join(map(str, versions[:3])) + ("…" if len(versions) > 3 else ""),
        last,
    ]


def _indented(text: str) -> str:
    return "\n".join(INDENT + line for line in text.split("\n"))
