import pytest

from areal.launch.cluster.room import lacking


@pytest.mark.parametrize(
    ("wanted", "available", "says"),
    [
        ({"CPU": 2}, {"CPU": 2.0}, ""),
        ({"CPU": 0, "GPU": 0}, {}, ""),
        ({"CPU": 3}, {"CPU": 1.0}, "they need 3 CPU (there is 1 left)"),
        (
            {"CPU": 1, "GPU": 0.5, "judge": 2},
            {"CPU": 4, "GPU": 0.25},
            "0.5 GPU (there are 0.25 left), 2 judge (there are 0",
        ),
    ],
)
def test_what_is_missing_is_named(wanted: dict[str, float], available: dict[str, float], says: str) -> None:
    told = lacking(wanted, available, workers=2)
    assert says in told and bool(says) == bool(told)


def test_a_machine_has_cores_for_so_many() -> None:
    assert lacking({}, {}, workers=8, most=8) == ""
    assert lacking({}, {}, workers=9, most=8) == "9 workers on one machine, which has cores for 8"
