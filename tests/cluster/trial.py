"""A training run across the containers, and what is done to them while it goes on."""

import json
import time
from dataclasses import dataclass
from typing import Any

from areal.launch.records.rundir import METRICS, SUMMARY, read_metrics, read_summary
from areal.launch.records.tally import Record

from .mini import NODES, Driver, MiniCluster
from .podman import CommandFailed
from .stages import Stages, await_

CONFIG, RUN = "configs/rlcm_digits_compress.yaml", "mini"
SETTINGS = (f"run={RUN}", "rollout.workers=2", "evaluation.every_steps=0", "checkpoint.every_steps=5")
ENDLESS = 1_000_000
"""Steps of a run that ends when it is told to."""

MORE_STEPS = 5
"""So many take more groups than can have been on their way before, (η + 1)·B: what was struck works again, or is done without."""

CODE = "docker-compose.code.yml"
WALLS = "from areal.rewards.programs.sandbox.sandbox import find_walls; print('walls:', find_walls('any').kind)"

UNWANTED = {8265: "the dashboard", 10001: "Ray Client"}
"""Ports of servers of Ray's that nothing here wants."""

DOCTOR_TIMEOUT_S, START_TIMEOUT_S, RECOVERY_TIMEOUT_S = 150.0, 300.0, 240.0
DRAIN_TIMEOUT_S, FINISH_TIMEOUT_S = 120.0, 300.0


@dataclass(frozen=True)
class Outcome:
    """How the two invocations of the run ended, and what it came to."""

    drained: int
    finished: int
    wanted_steps: int
    summary: Record


@dataclass(frozen=True)
class Trial:
    """The cluster, which is up, and the book that is kept of what is done."""

    cluster: MiniCluster
    stages: Stages

    def run(self) -> Outcome:
        """Train; kill, cut off and restart parts meanwhile; drain; resume and finish."""
        self._ask_the_doctor()
        driver = self.cluster.drive("run", CONFIG, *SETTINGS, f"learner.steps={ENDLESS}")
        with self.stages.stage("start a run"):
            self._await_steps(driver, 3, START_TIMEOUT_S)
            self.stages.note("start a run", ", ".join(f"{name} on {host}" for name, host in self._hosts().items()))
        self._require_secrets()
        self._require_walls()
        killed, cut_off = [host for name, host in self._hosts().items() if name.startswith("rollout")]
        self._kill_a_container(driver, killed)
        self._cut_a_link(driver, cut_off)
        self._kill_redis(driver)
        drained = self._drain(driver)
        wanted = self._steps() + 3
        return Outcome(drained, self._finish(wanted), wanted, read_summary(self.cluster.file(f"{RUN}/{SUMMARY}")))

    def _ask_the_doctor(self) -> None:
        """That the command sees the cluster, and nothing wrong with it."""
        with self.stages.stage("ask areal doctor"):
            asked = self.cluster.drive("doctor", CONFIG, *SETTINGS)
            assert asked.ended(DOCTOR_TIMEOUT_S) == 0, asked.said
            assert f"nodes with {len(NODES)} CPUs" in asked.said, asked.said

    def _kill_a_container(self, driver: Driver, host: str) -> None:
        worker, stage = self._worker_on(host), "kill a rollout container"
        with self.stages.stage(stage):
            begun, before = time.monotonic(), self._steps()
            self.cluster.kill(host)
            self._await_steps(driver, before + MORE_STEPS, RECOVERY_TIMEOUT_S)
            went_on_s = time.monotonic() - begun
            await_(f"{host} is restarted", lambda: self.cluster.is_up(host), timeout_s=RECOVERY_TIMEOUT_S)
            await_(
                f"a new {worker['name']} answers the roll-call",
                lambda: self._is_new(driver, worker),
                timeout_s=RECOVERY_TIMEOUT_S,
            )
            back_s = time.monotonic() - begun
        self.stages.note(
            stage, f"{MORE_STEPS} more steps within {went_on_s:.1f} s, its worker back after {back_s:.1f} s"
        )

    def _cut_a_link(self, driver: Driver, host: str) -> None:
        worker, stage = self._worker_on(host), "take a node's link down and up"
        with self.stages.stage(stage):
            before = self._steps()
            self.cluster.link(host, "down")
            down = time.monotonic()
            await_(f"{worker['name']} is missed", lambda: self._is_missed(driver, worker), timeout_s=RECOVERY_TIMEOUT_S)
            missed_s, went_on = time.monotonic() - down, self._steps()
            self._await_steps(driver, went_on + 1, RECOVERY_TIMEOUT_S)
            assert self._is_missed(driver, worker), f"{worker['name']} is heard although its link is down"
            went_on = self._steps() - before
            self.cluster.link(host, "up")
            begun = time.monotonic()
            await_(
                f"{worker['name']} is heard again", lambda: self._is_heard(driver, worker), timeout_s=RECOVERY_TIMEOUT_S
            )
            back_s = time.monotonic() - begun
            self._await_steps(driver, self._steps() + MORE_STEPS, RECOVERY_TIMEOUT_S)
        self.stages.note(
            stage,
            f"worker missed after {missed_s:.1f} s, {went_on} steps without it, heard {back_s:.1f} s after it was up",
        )

    def _kill_redis(self, driver: Driver) -> None:
        stage = "kill redis, which restarts on its AOF"
        with self.stages.stage(stage):
            begun, before = time.monotonic(), self.cluster.inspect(self.cluster.container("redis"))["State"]["Pid"]
            self.cluster.kill("redis")
            await_("redis is restarted", lambda: self._has_new_redis(before), timeout_s=RECOVERY_TIMEOUT_S)
            self._await_steps(driver, self._steps() + MORE_STEPS, RECOVERY_TIMEOUT_S)
        self.stages.note(stage, f"{MORE_STEPS} more steps after {time.monotonic() - begun:.1f} s")

    def _drain(self, driver: Driver) -> int:
        with self.stages.stage("drain the run"):
            driver.require_alive()
            driver.drain()
            code = driver.ended(DRAIN_TIMEOUT_S)
        self.stages.note("drain the run", f"at step {self._steps()}, exit code {code}")
        return code

    def _finish(self, steps: int) -> int:
        with self.stages.stage("resume and finish"):
            driver = self.cluster.drive("run", CONFIG, *SETTINGS, f"learner.steps={steps}")
            code = driver.ended(FINISH_TIMEOUT_S)
        self.stages.note("resume and finish", f"{steps} steps, exit code {code}")
        return code

    def _require_secrets(self) -> None:
        """That Redis wants its password and Ray its token, and that no port is published or open without need."""
        stage = "ask without password and token"
        with self.stages.stage(stage):
            assert "NOAUTH" in self.cluster.exec("redis", "redis-cli", "ping")
            ask = ["ray", "health-check", "--address", "ray-head:6379"]
            self.cluster.exec("learner", *ask)
            assert "AuthenticationError" in self._failing("learner", "env", "RAY_AUTH_TOKEN=not-the-token", *ask)
            for container in self.cluster.inspect_all():
                published = [port for port, hosts in container["NetworkSettings"]["Ports"].items() if hosts]
                assert not published, f"{container['Name']} publishes {published}"
            served = [UNWANTED[port] for port in self.cluster.listens("ray-head") & UNWANTED.keys()]
            assert not served, f"the head serves {served}"
        self.stages.note(stage, "refused; no port is published")

    def _require_walls(self) -> None:
        """That the reward `code` has its sandbox under the options of docker-compose.code.yml."""
        stage = "put up the walls of a sandbox"
        with self.stages.stage(stage):
            said = self.cluster.once(CODE, "rollout-0", "python", "-c", WALLS).strip()
            assert said.startswith("walls: "), said
        self.stages.note(stage, said)

    def _failing(self, service: str, *command: str) -> str:
        """What a command says that must not succeed."""
        try:
            return f"no error, but {self.cluster.exec(service, *command)}"
        except CommandFailed as error:
            return error.said

    # Looking

    def _await_steps(self, driver: Driver, steps: int, timeout_s: float) -> None:
        def look() -> bool:
            driver.require_alive()
            return self._steps() >= steps

        await_(f"step {steps}", look, timeout_s=timeout_s)

    def _steps(self) -> int:
        """The steps that the run has taken."""
        records = read_metrics(self.cluster.file(f"{RUN}/{METRICS}"))
        return max((record["step"] for record in records if record["kind"] == "step"), default=0)

    def _roll(self) -> list[dict[str, Any]]:
        """Who is at work for the run, as `areal runs` on a node tells; nobody while Redis is away."""
        try:
            said = self.cluster.exec("ray-head", "areal", "runs", RUN, "--json")
        except CommandFailed:
            return []
        roll: list[dict[str, Any]] = json.loads(said)["roll"]
        return roll

    def _hosts(self) -> dict[str, str]:
        """Where each role runs."""
        return {member["name"]: member["host"] for member in self._roll()}

    def _worker_on(self, host: str) -> dict[str, Any]:
        return next(member for member in self._roll() if member["host"] == host)

    def _is_new(self, driver: Driver, before: dict[str, Any]) -> bool:
        """Whether a role of that name has been started since, and is heard."""
        driver.require_alive()
        roll = [member for member in self._roll() if member["name"] == before["name"]]
        return any(member["started_at"] > before["started_at"] and not member["silent"] for member in roll)

    def _is_heard(self, driver: Driver, before: dict[str, Any]) -> bool:
        driver.require_alive()
        return any(member["name"] == before["name"] and not member["silent"] for member in self._roll())

    def _is_missed(self, driver: Driver, before: dict[str, Any]) -> bool:
        """Whether a role is on the roll and has not been heard for a while."""
        driver.require_alive()
        return any(member["name"] == before["name"] and member["silent"] for member in self._roll())

    def _has_new_redis(self, before: int) -> bool:
        state = self.cluster.inspect(self.cluster.container("redis"))["State"]
        return bool(state["Running"]) and state["Pid"] != before
