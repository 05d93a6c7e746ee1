import threading
from collections.abc import Iterator

from areal.broker.errors import BrokerError
from areal.launch.doctor.finding import Check, Finding, carry_out, ok, problem, warning


def test_findings_come_in_the_order_of_the_checks_which_run_beside_each_other() -> None:
    met = threading.Barrier(2, timeout=10)

    def look(name: str) -> Iterator[Finding]:
        met.wait()
        yield ok(name, "seen")
        yield warning(name, "seen too", "mend it")

    found = list(carry_out([Check(name, lambda name=name: look(name)) for name in ("a", "b")]))  # type: ignore[misc]
    assert found == [finding for name in "ab" for finding in (ok(name, "seen"), warning(name, "seen too", "mend it"))]


def test_an_error_is_a_finding_and_what_was_found_before_it_stays() -> None:
    def refuses() -> Iterator[Finding]:
        yield ok("a", "seen")
        raise BrokerError("redis at host refused PING")

    def fails() -> Iterator[Finding]:
        yield from ()
        raise ValueError("odd")

    def exits() -> Iterator[Finding]:
        yield from ()
        raise SystemExit(3)

    first, refused, failed, exited = carry_out([Check("a", refuses), Check("b", fails), Check("c", exits)])
    assert (first, refused) == (ok("a", "seen"), problem("a", "redis at host refused PING", ""))
    assert failed.level == "problem" and "ValueError: odd" in failed.seen and failed.remedy
    assert exited.level == "problem" and "SystemExit: 3" in exited.seen


def test_a_check_that_hangs_is_a_finding_at_its_deadline() -> None:
    release = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("a", "seen")
        release.wait(60)

    found = list(carry_out([Check("a", hangs, deadline_s=0.05), Check("b", lambda: [ok("b", "well")])]))
    release.set()
    assert [finding.level for finding in found] == ["ok", "problem", "ok"]
    assert "not found out within 0.05 s" in found[1].seen
