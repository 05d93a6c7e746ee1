"""URLs and the environment, and that nothing secret is shown of them."""

from pathlib import Path

import pytest

from areal.broker.address import Address, redacted, with_credentials, without_secrets
from areal.broker.config import BrokerConfig
from areal.broker.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:7000/0", "host:7000"),
        ("redis://host", "host:6379"),
        ("redis://:se%2Fcret%40x@host/2", "host:6379"),
        ("rediss://secret:secret@host/0?ssl_check_hostname=no&ssl_password=secret", "host:6379"),
        ("unix://user:secret@/run/redis.sock?db=1", "/run/redis.sock"),
        ("unix:///run/redis.sock?password=secret", "/run/redis.sock"),
        (
            "redis+sentinel://user:secret@one:1,two/mymaster/3?sentinel_password=secret",
            "mymaster (sentinels one:1,two:26379)",
        ),
        ("redis+sentinel://[::1]:5,two/m", "m (sentinels ::1:5,two:26379)"),
    ],
)
def test_a_url_is_shown_without_what_is_secret(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert "secret" not in repr(Address.of(url))
    assert "secret" not in BrokerConfig(url=url).model_dump_json()


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@somewhere",
        "redis://:secret@host:port/0",
        "redis://host:secret/0",
        "redis://:one@secret/two@host/0",
        "redis://:one/secret@host/0",
        "redis://one?secret@host/0",
        "redis://one#secret@host/0",
        "redis://host/secret",
        "redis://[secret/0",
        "redis+sentinel://user:secret@host:1/",
        "redis+sentinel://user:secret@host:1,/mymaster",
        "redis+sentinel://user:secret@host:1,two:port/mymaster",
        "secret",
        "",
    ],
)
def test_a_url_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"broker\.url is not of the form redis://") as caught:
        redacted(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:secret@host/0?socket_timeout=3", "the setting 'socket_timeout'; known here: client_name, db"),
        ("redis://:secret@host/0?ssl_ca_certs=ca.pem", "for TLS say rediss://"),
        ("rediss://:secret@host/0?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs .*AREAL_REDIS_SSL_CA_CERTS.*no file"),
        ("rediss://:secret@host/0?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
    ],
)
def test_a_setting_that_cannot_be_is_named(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Address.of(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        ("redis://host/0", "me", "s@c/t"),
        ("redis://you@host/0", "you", "s@c/t"),
        ("redis://you:own@host/0", "you", "own"),
        ("redis://:own@host/0", None, "own"),
        ("unix:///socket?password=own", None, "own"),
        ("unix:///socket", "me", "s@c/t"),
        ("redis+sentinel://one,two/mymaster", "me", "s@c/t"),
        ("redis://y%40u@host/0", "y@u", "s@c/t"),
    ],
)
def test_user_and_password_come_from_the_environment_where_the_url_has_none(
    monkeypatch: pytest.MonkeyPatch, url: str, username: str | None, password: str
) -> None:
    monkeypatch.setenv("AREAL_REDIS_USERNAME", "me")
    monkeypatch.setenv("AREAL_REDIS_PASSWORD", "s@c/t")
    options = Address.of(url).options
    assert (options.get("username"), options["password"]) == (username, password)
    monkeypatch.delenv("AREAL_REDIS_PASSWORD")
    monkeypatch.delenv("AREAL_REDIS_USERNAME")
    assert with_credentials(url) == url


def test_files_of_tls_come_from_the_environment_where_the_url_names_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one.pem", "two.pem"):
        (tmp_path / name).touch()
    monkeypatch.setenv("AREAL_REDIS_SSL_CA_CERTS", str(tmp_path / "one.pem"))
    monkeypatch.setenv("AREAL_REDIS_SSL_CERTFILE", str(tmp_path / "one.pem"))
    options = Address.of(f"rediss://host/0?ssl_certfile={tmp_path / 'two.pem'}").options
    assert options["ssl_ca_certs"] == str(tmp_path / "one.pem")
    assert options["ssl_certfile"] == str(tmp_path / "two.pem")
    assert "ssl_ca_certs" not in Address.of("redis://host/0").options


def test_sentinels_share_the_settings_of_tls_but_not_the_password() -> None:
    address = Address.of("rediss+sentinel://:own@one,two:5/my%20master/3?sentinel_password=theirs&ssl_cert_reqs=none")
    assert address.sentinels == (("one", 26379), ("two", 5))
    assert address.service == "my master"
    assert (address.options["password"], address.options["db"]) == ("own", 3)
    assert address.sentinel_options == {"password": "theirs", "ssl": True, "ssl_cert_reqs": "none"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@host:7000/0", "redis://***@host:7000/0"),
        ("redis://:one@secret/two@host/0", "redis://***@host/0"),
        ("redis://host/0?password=one@secret&db=1", "redis://host/0?password=***&db=1"),
        ("rediss://host/0?ssl_password=secret", "rediss://host/0?ssl_password=***"),
        (
            "redis+sentinel://a:secret@b,c/m?sentinel_username=secret",
            "redis+sentinel://***@b,c/m?sentinel_username=***",
        ),
        ("redis://host:7000/0", "redis://host:7000/0"),
    ],
)
def test_a_configuration_is_written_down_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
    assert BrokerConfig(url=url).model_dump(mode="json")["url"] == shown
    assert BrokerConfig(url=url).url == url
    assert BrokerConfig.model_validate(BrokerConfig().model_dump(mode="json")).url is None
