"""What it means when a call to Redis fails: whether it may pass, and what to change if it does not."""

import re
import ssl
from dataclasses import dataclass

import redis
from redis import exceptions
from redis.sentinel import MasterNotFoundError

from .address import PASSWORD_VARIABLE, SSL_FILES, USERNAME_VARIABLE

OLDEST_VERSION = (6, 2)
OLDEST = ".".join(map(str, OLDEST_VERSION))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call failed, in words that show nothing secret."""

    text: str
    passes: bool
    """Whether it is worth trying again."""
    elsewhere: bool = False
    """Whether another server may be the master by now, so that connections must be made anew."""


REFUSALS = {
    "LOADING": Refusal("it is still loading its data", passes=True),
    "OOM": Refusal("Redis is full: raise its maxmemory (nothing is evicted, so that nothing is lost)", passes=True),
    "MISCONF": Refusal("it cannot write its data to disk: see its log, and the space left on its disk", passes=True),
    "BUSY": Refusal("it is busy with another client's script", passes=True),
    "READONLY": Refusal(
        "it is a read-only replica: name its master in broker.url, or its sentinels (redis+sentinel://…)",
        passes=True,
        elsewhere=True,
    ),
    "MASTERDOWN": Refusal("it is a replica that has lost its master", passes=True, elsewhere=True),
    "NOREPLICAS": Refusal("it has fewer replicas than its min-replicas-to-write", passes=True),
    "CLUSTERDOWN": Refusal("its cluster is down, or does not cover the run's keys", passes=True),
    "TRYAGAIN": Refusal("its cluster is moving the run's keys", passes=True),
    "MOVED": Refusal(
        "it is a node of a cluster and another node has the run's keys: name that one in broker.url", passes=False
    ),
    "AUTH": Refusal(
        "it does not accept the user name or the password: set them in broker.url, "
        f"or in the environment as {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}",
        passes=False,
    ),
    "NOPERM": Refusal("its ACL does not permit this user that command or the run's keys (areal:*)", passes=False),
    "UNKNOWN": Refusal(f"it does not know a command: Redis {OLDEST} or newer is needed", passes=False),
}

CODES: dict[type[redis.RedisError], str] = {
    exceptions.BusyLoadingError: "LOADING",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.TryAgainError: "TRYAGAIN",
    exceptions.MovedError: "MOVED",
    exceptions.AuthenticationError: "AUTH",
    exceptions.AuthenticationWrongNumberOfArgsError: "AUTH",
    exceptions.NoPermissionError: "NOPERM",
}
"""The codes that redis-py takes off a message to make a class of it."""

TOLD = re.compile(r"(?:^|caused error: |[ (]-)(OOM|MISCONF|BUSY|READONLY|MASTERDOWN|NOREPLICAS|NOPERM)\b")
"""A code where redis-py leaves it: first in the message, or within it where a script failed or a pipeline's command."""

CERTIFICATE = f"ssl_certfile and ssl_keyfile (in broker.url, or {SSL_FILES['ssl_certfile']} and _KEYFILE)"
AUTHORITY = f"ssl_ca_certs (in broker.url, or {SSL_FILES['ssl_ca_certs']})"
NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def explain(error: redis.RedisError) -> Refusal | None:
    """Why a call failed; None for what its caller must know better, such as the answers of our scripts."""
    if isinstance(error, MasterNotFoundError):
        wanted = ": set sentinel_username and sentinel_password in broker.url" if "Authentication" in str(error) else ""
        return Refusal(f"no sentinel names a master that is up{wanted}", passes=True, elsewhere=True)
    if code := _code(error):
        return REFUSALS[code]
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return _explain_tls(error) or Refusal(str(error), passes=True)
    if isinstance(error, redis.InvalidResponse):
        return Refusal("what answers there does not speak Redis's protocol; TLS needs rediss://", passes=False)
    return None


def _code(error: redis.RedisError) -> str | None:
    for kind, code in CODES.items():
        if isinstance(error, kind):
            return code
    if not isinstance(error, redis.ResponseError):
        return None
    text = str(error)
    if text.startswith("unknown command"):  # it goes on with the arguments, a password perhaps
        return "UNKNOWN"
    if "user executing the script can't" in text:
        return "NOPERM"
    told = TOLD.search(text)
    return told[1] if told else None


def _explain_tls(error: BaseException) -> Refusal | None:
    """What to set where the connection failed on TLS; None where it did not, or where the server just went away."""
    if "handshake" in str(error.__context__):
        return Refusal("the TLS handshake was not answered: does it speak TLS? else say redis://", passes=True)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None or isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return None
    reason = cause.reason or str(cause)
    if isinstance(cause, ssl.SSLCertVerificationError):
        wanted = f"set {AUTHORITY} to the file of who signed it, and name the host as the certificate does"
        return Refusal(f"its certificate is not accepted ({cause.verify_message}): {wanted}", passes=False)
    if "ALERT" in reason:
        return Refusal(f"it does not accept this side's certificate ({reason}): set {CERTIFICATE}", passes=False)
    if reason in NOT_TLS:
        return Refusal(f"it does not speak TLS ({reason}): say redis:// in broker.url, not rediss://", passes=False)
    return Refusal(f"TLS failed ({reason}): look at {AUTHORITY}, {CERTIFICATE}", passes=False)
