"""Where Redis is: the URL of the configuration, what the environment adds to it, and what of it may be shown."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from redis.connection import Connection, parse_url
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from .errors import ConfigError

USERNAME_VARIABLE, PASSWORD_VARIABLE = "AREAL_REDIS_USERNAME", "AREAL_REDIS_PASSWORD"
SSL_FILES = {
    name: f"AREAL_REDIS_{name.upper()}" for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
}  # setting → the variable that may say it instead
SSL_SETTINGS = {*SSL_FILES, "ssl_ca_path", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"}
SENTINEL_SETTINGS = {"sentinel_username", "sentinel_password"}
SETTINGS = {"db", "username", "password", "client_name", "max_connections"}
SENTINEL_PORT = 26379
SENTINEL_CONNECTIONS: dict[str, type[Connection]] = {
    "redis+sentinel": SentinelManagedConnection,
    "rediss+sentinel": SentinelManagedSSLConnection,
}

FORMS = (
    "broker.url is not of the form redis://[user:password@]host:port/0, rediss://… (TLS), unix://…/socket or "
    "redis+sentinel://[user:password@]host:26379,host:26379/name/0, "
    "with /, ?, # and @ in a user's name or password written as %2F, %3F, %23 and %40"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A server, or the master that sentinels name; `options` are those of redis-py's connections."""

    shown: str
    options: dict[str, Any] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def spoken_to(self) -> tuple[str, int] | None:
        """Host and port of the server, or of the first sentinel; None on a Unix socket."""
        if self.sentinels:
            return self.sentinels[0]
        return (
            (self.options.get("host", "localhost"), self.options.get("port", 6379))
            if "path" not in self.options
            else None
        )

    @classmethod
    def of(cls, url: str) -> "Address":
        """The address that a URL and the environment give. Raises ConfigError, which shows nothing secret."""
        try:
            url = with_credentials(url)
            parts = urlsplit(url)
            if parts.scheme in SENTINEL_CONNECTIONS:
                return _by_sentinels(parts)
            options = parse_url(url)
            _check(parts, options)
        except ValueError:
            raise ConfigError(FORMS) from None
        if parts.scheme == "unix":
            return cls(options.get("path", ""), options)
        return cls(f"{options.get('host', 'localhost')}:{options.get('port', 6379)}", options)


def with_credentials(url: str) -> str:
    """The URL with user and password, from the environment where it has none. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        hidden = "@" in parts.path + parts.query or parts.fragment  # most likely of a password
        if hidden or parts.scheme not in ("redis", "rediss", "unix", *SENTINEL_CONNECTIONS):
            raise ValueError
    except ValueError:
        raise ConfigError(FORMS) from None
    password = parts.password or query.get("password", [""])[0]
    username = parts.username or query.get("username", [""])[0]
    new_password = "" if password else os.environ.get(PASSWORD_VARIABLE, "")
    new_username = "" if password or username else os.environ.get(USERNAME_VARIABLE, "")
    if not new_password and not new_username:
        return url
    user = quote(unquote(username) or new_username, safe="")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{quote(new_password, safe='')}@{host}").geturl()


def redacted(url: str) -> str:
    """Where the URL leads, without user and password. Raises ConfigError."""
    return Address.of(url).shown


def without_secrets(url: str) -> str:
    """The URL, valid or not, with stars for what may be a user or a password."""
    return re.sub(r"//.*@", "//***@", re.sub(r"(?i)(username|password)=[^&]*", r"\1=***", url))


def _by_sentinels(parts: SplitResult) -> Address:
    """The address of redis+sentinel://[user:password@]host:port,host:port/name/db. Raises ValueError."""
    user, at, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    scheme = parts.scheme.partition("+")[0]
    options = parse_url(f"{scheme}://{user}{at}localhost/{db}?{parts.query}")
    _check(parts._replace(path=f"/{db}"), options)
    sentinels = []
    for host in hosts.split(","):
        one = urlsplit(f"//{host}")
        if not one.hostname or not service:
            raise ValueError
        sentinels.append((one.hostname, one.port or SENTINEL_PORT))
    del options["host"]
    own = {name.partition("_")[2]: options.pop(name) for name in SENTINEL_SETTINGS & options.keys()}
    if scheme == "rediss":
        own |= {"ssl": True} | {name: value for name, value in options.items() if name in SSL_SETTINGS}
    options["connection_class"] = SENTINEL_CONNECTIONS[parts.scheme]
    shown = f"{service} (sentinels {','.join(f'{host}:{port}' for host, port in sentinels)})"
    return Address(shown, options, tuple(sentinels), unquote(service), own)


def _check(parts: SplitResult, options: dict[str, Any]) -> None:
    """Fill in the files of TLS from the environment. Raises ConfigError or ValueError for what cannot be meant."""
    tls = parts.scheme.startswith("rediss")
    known = SETTINGS | (SSL_SETTINGS if tls else set()) | (SENTINEL_SETTINGS if "+" in parts.scheme else set())
    for name in sorted(parse_qs(parts.query).keys() - known):
        hint = "; for TLS say rediss://" if name in SSL_SETTINGS else ""
        raise ConfigError(f"broker.url has the setting {name!r}; known here: {', '.join(sorted(known))}{hint}")
    if parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError
    if not tls:
        return
    if options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ConfigError("ssl_cert_reqs in broker.url is one of none, optional and required")
    for name, variable in SSL_FILES.items():
        path = options.get(name) or os.environ.get(variable)
        if path and not Path(path).is_file():
            raise ConfigError(f"{name} (in broker.url, or {variable}) is {path!r}, where there is no file")
        if path:
            options[name] = path
