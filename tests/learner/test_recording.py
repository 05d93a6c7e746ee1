from pathlib import Path

import numpy as np
import pytest

from areal.broker.errors import CodecError, Fenced
from areal.learner.recording import Lesson, Recording

from .lessons import RESUMED_AT, lesson


def add(recording: Recording, *lessons: Lesson) -> None:
    for each in lessons:
        recording.add(each, permit=lambda: None)
    recording.wait()


def same(left: Lesson, right: Lesson) -> bool:
    """Whether they are equal, tokens and all."""
    plain = [(each.step, each.version, each.resumes, [g.prompt_id for g in each.groups]) for each in (left, right)]
    pairs = zip(
        (trajectory for group in left.groups for trajectory in group.trajectories),
        (trajectory for group in right.groups for trajectory in group.trajectories),
        strict=True,
    )
    arrays = ("tokens", "versions", "behaviour_logprobs")
    return plain[0] == plain[1] and all(
        (a.reward, a.reward_parts, a.finish_reason) == (b.reward, b.reward_parts, b.finish_reason)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
        for a, b in pairs
    )


def test_what_is_recorded_is_read(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "groups")
    assert recording.steps() == []
    add(recording, *map(lesson, (1, 2, RESUMED_AT)))
    again = Recording(tmp_path / "groups")
    assert again.steps() == [1, 2, RESUMED_AT]
    assert all(same(again.read(step), lesson(step)) for step in again.steps())
    assert sorted(path.name for path in (tmp_path / "groups").iterdir()) == [
        "step-00000001.groups",
        "step-00000002.groups",
        "step-00000009.groups",
    ]


def test_a_step_that_is_taken_again_replaces_its_file_and_those_after_it_are_forgotten(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    add(recording, *map(lesson, (1, 2, 3, 4)))
    recording.forget(after=2)
    assert recording.steps() == [1, 2]
    other = Lesson(2, 7, [(5, 4)], lesson(3).groups)
    add(recording, other)
    assert recording.steps() == [1, 2] and same(recording.read(2), other)


def test_a_learner_that_was_frozen_spoils_nothing(tmp_path: Path) -> None:
    """It thaws with its file open when another has recorded the same step, and may not name its own."""
    frozen, other = Recording(tmp_path), Lesson(2, 7, [(5, 4)], lesson(3).groups)

    def thaw() -> None:
        add(Recording(tmp_path), other)
        with frozen._aside.open("ab") as file:
            file.write(b"and so on")
        raise Fenced("epoch 6 is over")

    frozen.add(lesson(2), permit=thaw)
    with pytest.raises(Fenced):
        frozen.wait()
    assert same(frozen.read(2), other)
    frozen.forget(after=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002.groups"]


def test_what_is_not_permitted_is_not_recorded(tmp_path: Path) -> None:
    def refuse() -> None:
        raise Fenced("epoch 6 is over")

    recording = Recording(tmp_path)
    add(recording, lesson(1))
    recording.add(Lesson(1, 7, [], lesson(2).groups), permit=refuse)
    with pytest.raises(Fenced):
        recording.add(lesson(2), permit=lambda: None)
    assert recording.steps() == [1] and same(recording.read(1), lesson(1))


def test_every_cut_is_refused_by_name(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    add(recording, lesson(1))
    path = tmp_path / "step-00000001.groups"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CodecError, match=r"the recording .*step-00000001\.groups is damaged: it "):
            recording.read(1)


def test_every_flipped_byte_is_refused_by_name(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    add(recording, lesson(1))
    path = tmp_path / "step-00000001.groups"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        with pytest.raises(CodecError, match=r"the recording .*step-00000001\.groups is damaged: "):
            recording.read(1)


def test_a_missing_and_a_misnamed_file_are_refused_by_name(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    add(recording, lesson(1))
    with pytest.raises(CodecError, match=r"step-00000002\.groups cannot be read: .*No such file"):
        recording.read(2)
    (tmp_path / "step-00000001.groups").rename(tmp_path / "step-00000002.groups")
    with pytest.raises(CodecError, match=r"step-00000002\.groups is of step 1"):
        recording.read(2)
