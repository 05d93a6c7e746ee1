"""The ways to a server: TLS, Unix sockets, ACL users, sentinels that name another master, and one node of a cluster."""

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from areal.broker.bulletin import Bulletin
from areal.broker.chunks import RedisChunks
from areal.broker.client import Client, connect
from areal.broker.config import BrokerConfig
from areal.broker.dead import DeadLetters
from areal.broker.errors import BrokerError, BrokerUnavailable, ConfigError
from areal.broker.lane import Lane
from areal.broker.rollcall import Member, RollCall
from areal.broker.tickets import Tickets
from areal.broker.transport import SharedDirectory
from areal.broker.weights import WeightStore

from .conftest import Proxy, RawRedis, SpawnRedis
from .samples import group, prompts

CONFIG = BrokerConfig(lease_s=0.1, max_attempts=1)
FAILOVER_S = 15.0

StartProxy = Callable[..., Proxy]


def use(client: Client, run: str, directory: Path) -> None:
    """Every operation of the protocol, once at least."""
    use_lane(client, run)
    bulletin, roll = Bulletin(client, run), RollCall(client, run, silent_after_s=60)
    bulletin.keep_order("drain")
    bulletin.report({"kind": "event", "time": 0})
    assert bulletin.ordered() == "drain" and bulletin.last() != "0"
    assert len(bulletin.read("0", timeout_s=0.01)[0]) == 1
    roll.beat(Member("a", "rollout", "host", 1, 0, 0, 0))
    assert [heard.member.name for heard in roll.heard()] == ["a"]
    roll.leave("a")
    for version, transport in ((1, SharedDirectory(directory)), (2, RedisChunks(client, run))):
        store = WeightStore(client, run, transport)
        published = store.publish(version, write, epoch=bulletin.lead())
        assert store.wait(0, timeout_s=0.1) == store.latest() == published
        assert (store.fetch(published) / "a.safetensors").read_bytes() == b"weights"


def use_lane(client: Client, run: str) -> None:
    lane, tickets = Lane(client, run, "train"), Tickets(client, run, "train", CONFIG)
    letters = DeadLetters(client, run, "train")
    epoch = Bulletin(client, run).lead()
    assert lane.issue(prompts(0, 7), after=0, epoch=epoch) == 7
    leases = tickets.lease("a", count=4, timeout_s=1)
    assert tickets.renew("a", leases) == set()
    assert [tickets.complete(lease, group(lease.prompt.id)) for lease in leases[:2]] == [True, True]
    assert not tickets.fail("a", leases[2], "failed")
    tickets.release("a", leases[3])
    time.sleep(0.55)  # the next one to ask looks for what has been released
    assert [lease.entry for lease in tickets.lease("b", count=1, timeout_s=1)] == [leases[3].entry]
    tickets.lease("b", count=3, timeout_s=1)
    time.sleep(0.55)
    assert tickets.lease("c", count=9, timeout_s=0) == []  # those leases have expired, and were the last try
    deliveries, _ = lane.take("0", count=4, timeout_s=1)
    assert lane.reject(deliveries[0].receipt, "rejected", worker="w", epoch=epoch)
    assert lane.acknowledge([deliveries[1].receipt], epoch=epoch) == 1
    dead = letters.list()
    assert letters.get(dead[0].entry) == dead[0] and letters.payload(dead[-1])
    assert (letters.retry(dead[:1]), letters.drop(dead[1:])) == (1, len(dead) - 1)
    assert lane.listing().again == lane.resume(5, waiting=lane.depth().again, epoch=epoch) == 1
    assert lane.reissue(prompts(1, 1), epoch=epoch) == 1
    assert lane.positions() == set(range(7)) and lane.depth().issued == 7


def write(folder: Path) -> None:
    (folder / "a.safetensors").write_bytes(b"weights")


# TLS


@dataclass(frozen=True)
class Certificates:
    authority: Path
    certificate: Path
    key: Path

    def context(self, *, of_clients: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if of_clients:
            context.load_verify_locations(self.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and a certificate of 127.0.0.1 that it has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for arguments in (
        f"req -x509 {new_key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        f"req {new_key} -keyout one.key -out one.csr -subj /CN=one",
        "x509 -req -in one.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out one.pem",
    ):
        subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)
    return Certificates(folder / "ca.pem", folder / "one.pem", folder / "one.key")


def test_tls_carries_everything_and_heals(
    spawn: SpawnRedis, proxy: StartProxy, certificates: Certificates, run: str, tmp_path: Path
) -> None:
    server = spawn("appendonly yes", "requirepass secret")
    between = proxy(server.port, certificates.context())
    client = connect(f"rediss://:secret@127.0.0.1:{between.port}/0?ssl_ca_certs={certificates.authority}")
    use(client, run, tmp_path / "weights")
    large = bytes(3 * 2**20)
    client.set("large", large)
    between.cut()
    assert client.get("large") == large
    between.replies_to_drop = 1
    assert client.pipeline().set("a", 1).get("a").execute() == [True, b"1"]
    client.close()


def test_a_client_shows_its_certificate_as_the_environment_says(
    spawn: SpawnRedis, proxy: StartProxy, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = spawn("appendonly yes")
    between = proxy(server.port, certificates.context(of_clients=True))
    url = f"rediss://127.0.0.1:{between.port}/0"
    monkeypatch.setenv("AREAL_REDIS_SSL_CA_CERTS", str(certificates.authority))
    began = time.monotonic()
    with pytest.raises(
        BrokerError, match=r"this side's certificate .*set ssl_certfile and ssl_keyfile .*AREAL_REDIS_SSL"
    ):
        connect(url, timeout_s=10.0)
    assert time.monotonic() - began < 5
    monkeypatch.setenv("AREAL_REDIS_SSL_CERTFILE", str(certificates.certificate))
    monkeypatch.setenv("AREAL_REDIS_SSL_KEYFILE", str(certificates.key))
    connect(url, timeout_s=10.0).close()


def test_what_is_wrong_with_tls_is_told_at_once(
    spawn: SpawnRedis, proxy: StartProxy, certificates: Certificates, tmp_path: Path
) -> None:
    server = spawn("appendonly yes")
    between = proxy(server.port, certificates.context())
    (tmp_path / "not.pem").write_text("no certificate")
    trusted = f"ssl_ca_certs={certificates.authority}"
    began = time.monotonic()
    for url, kind, says in (
        (
            f"rediss://:secret@127.0.0.1:{between.port}",
            BrokerError,
            r"not accepted .*set ssl_ca_certs .*AREAL_REDIS_SSL",
        ),
        (f"rediss://:secret@localhost:{between.port}?{trusted}", BrokerError, "name the host as the certificate does"),
        (
            f"rediss://:secret@127.0.0.1:{between.port}?ssl_ca_certs={tmp_path}/not.pem",
            BrokerError,
            "look at ssl_ca_certs",
        ),
        (f"rediss://:secret@127.0.0.1:{between.port}?ssl_ca_certs={tmp_path}/nowhere", ConfigError, "there is no file"),
    ):
        with pytest.raises(kind, match=says) as caught:
            connect(url, timeout_s=20.0)
        assert not isinstance(caught.value, BrokerUnavailable)
        assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 10
    connect(f"rediss://127.0.0.1:{between.port}?ssl_cert_reqs=none").close()


def test_a_server_without_tls_and_a_client_without_it_are_told_apart(
    spawn: SpawnRedis, proxy: StartProxy, certificates: Certificates
) -> None:
    server = spawn("appendonly yes")
    between = proxy(server.port, certificates.context())
    with pytest.raises(BrokerError, match=r"does it speak TLS\?"):
        connect(f"rediss://127.0.0.1:{server.port}", timeout_s=0.5)
    with pytest.raises(BrokerUnavailable):
        connect(f"redis://127.0.0.1:{between.port}", timeout_s=0.5)


# Unix sockets and users


def test_a_unix_socket_carries_everything_and_heals(spawn: SpawnRedis, run: str, tmp_path: Path) -> None:
    path = tmp_path / "redis@socket"
    server = spawn("appendonly yes", "appendfsync always", f"unixsocket {path}", "requirepass secret")
    url = f"unix://:secret@{str(path).replace('@', '%40')}"
    client = connect(url, timeout_s=5.0)
    use(client, run, tmp_path / "weights")
    server.kill()
    with pytest.raises(BrokerUnavailable, match=rf"^redis at {path} did not answer PING") as caught:
        connect(url, timeout_s=0.2)
    assert "secret" not in str(caught.value)
    server.start()
    assert Lane(client, run, "train").depth().issued == 7
    client.close()


DOCUMENTED = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
RIGHTS = DOCUMENTED.partition("ACL SETUSER areal on >password ")[2].partition("\n")[0]


def test_a_user_needs_the_rights_that_are_documented(
    spawn: SpawnRedis, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = spawn("appendonly yes", "requirepass secret")
    with connect(server.url.replace("//", "//:secret@")) as admin:
        admin.execute_command("ACL", "SETUSER", "learner-7", "on", ">pass-7", *RIGHTS.split())
        admin.execute_command("ACL", "SETUSER", "reader-7", "on", ">pass-7", "~areal:*", "+@read", "+@connection")
    monkeypatch.setenv("AREAL_REDIS_PASSWORD", "pass-7")
    monkeypatch.setenv("AREAL_REDIS_USERNAME", "learner-7")
    client = connect(server.url)
    use(client, run, tmp_path / "weights")
    for call in (
        lambda: client.set("elsewhere", 1),
        client.flushall,
        lambda: client.pipeline().set("elsewhere", 1).execute(),
        lambda: client.pipeline(transaction=False).set("elsewhere", 1).execute(),
        lambda: client.eval("return redis.call('FLUSHALL')", 0),
        lambda: Bulletin(connect(server.url.replace("//", "//reader-7@")), run).keep_order("run"),
    ):
        with pytest.raises(BrokerError, match="ACL does not permit") as caught:
            call()
        assert "-7" not in str(caught.value)
    client.close()


# Sentinels


@pytest.mark.slow
def test_the_client_follows_a_failover(spawn: SpawnRedis, run: str) -> None:
    secret = ("requirepass secret", "masterauth secret")
    master = spawn("appendonly yes", *secret)
    replica = spawn("appendonly yes", f"replicaof 127.0.0.1 {master.port}", *secret)
    with connect(replica.url.replace("//", "//:secret@")) as watcher:
        await_that(lambda: watcher.info("replication")["master_link_status"] == "up")
    sentinel = sentinel_of(spawn, master)
    url = f"redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:{sentinel.port}/mymaster/0"
    client = connect(url, timeout_s=FAILOVER_S)
    await_that(lambda: "slave0" in redis_info(sentinel))
    lane, epoch = Lane(client, run, "train"), Bulletin(client, run).lead()
    assert lane.issue(prompts(0, 1), after=0, epoch=epoch) == 1
    client.wait(1, 1000)
    answers: list[object] = []
    busy = threading.Thread(target=lambda: answers.append(client.pipeline().set("a", 1).get("a").execute()))
    master.kill()
    busy.start()
    assert lane.issue(prompts(1, 1), after=1, epoch=epoch) == 2
    busy.join(FAILOVER_S)
    assert answers == [[True, b"1"]]
    assert client.info("server")["tcp_port"] == replica.port
    sentinel.kill()
    assert lane.depth().prompts == 2  # its connections need no sentinel
    with pytest.raises(
        BrokerUnavailable, match=r"^redis at mymaster \(sentinels .*no sentinel names a master"
    ) as caught:
        connect(url, timeout_s=0.5)
    assert "secret" not in str(caught.value)
    client.close()


def test_a_master_that_no_sentinel_knows_is_named(spawn: SpawnRedis) -> None:
    sentinel = sentinel_of(spawn, spawn("appendonly yes"), "requirepass theirs")
    for user, says in (
        ("", "sentinel_password"),
        ("?sentinel_password=theirs", "no sentinel names a master that is up$"),
    ):
        with pytest.raises(BrokerUnavailable, match=says) as caught:
            connect(f"redis+sentinel://:secret@127.0.0.1:{sentinel.port}/other/0{user}", timeout_s=0.3)
        assert "secret" not in str(caught.value) and "theirs" not in str(caught.value)
    connect(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster?sentinel_password=theirs").close()


def sentinel_of(spawn: SpawnRedis, master: RawRedis, *settings: str) -> RawRedis:
    return spawn(
        *settings,
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 1",
        "sentinel auth-pass mymaster secret",
        "sentinel down-after-milliseconds mymaster 300",
        "sentinel failover-timeout mymaster 2000",
        sentinel=True,
    )


def redis_info(sentinel: RawRedis) -> str:
    with redis.Redis(port=sentinel.port) as client:
        return " ".join(f"slave{index}" for index, _ in enumerate(client.sentinel_slaves("mymaster")))


def await_that(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Clusters


def test_all_keys_of_a_run_are_in_one_slot(spawn: SpawnRedis, run: str, tmp_path: Path) -> None:
    """The node serves the run's slot alone: it refuses any other key, in a script too, and scripts across slots."""
    server = spawn("appendonly yes", "cluster-enabled yes", "cluster-require-full-coverage no")
    client = connect(server.url, timeout_s=2.0)
    client.execute_command("CLUSTER", "ADDSLOTS", client.execute_command("CLUSTER", "KEYSLOT", f"{{{run}}}"))
    await_that(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
    use(client, run, tmp_path / "weights")
    with pytest.raises(redis.ResponseError, match="same slot"):
        client.eval("return 1", 2, f"{{{run}}}", "other")
    with pytest.raises(redis.ResponseError, match="non local key"):
        client.eval("return redis.call('GET', 'other')", 0)
    client.close()
