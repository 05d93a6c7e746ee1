"""What is taken for a secret by its name, and what is not."""

from typing import Any

import pytest

from areal.launch.secret import SECRET, is_secret_file, secret_keys

SECRETS = ["HF_TOKEN", "token.json", "api-key", "apiKey", "AWS_SECRET_ACCESS_KEY", "db_password", "private_key"]


@pytest.mark.parametrize("name", SECRETS)
def test_names_of_secrets(name: str) -> None:
    assert SECRET.search(name)


@pytest.mark.parametrize("name", ["tokenizer", "tokens.py", "max_tokens", "tokenisation", "keys", "monkey", "pattern"])
def test_names_of_other_things(name: str) -> None:
    assert not SECRET.search(name)


def test_a_module_about_tokens_is_no_secret() -> None:
    assert is_secret_file("hf_token.txt") and is_secret_file("api_key.py") and not is_secret_file("token_utils.py")


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ({"api_key": "sk-1234"}, ["kwargs.api_key"]),
        ({"of": "judge", "kwargs": {"api_key": "sk-1"}}, ["kwargs.kwargs.api_key"]),
        ({"asked": [{"password": "x"}, {"password": "y"}]}, ["kwargs.asked.0.password", "kwargs.asked.1.password"]),
        ({"credentials": {"user": "me", "ids": ["a"]}}, ["kwargs.credentials.user", "kwargs.credentials.ids.0"]),
        ({"max_tokens": 5, "max_token": 5, "hf_token": True, "token": None, "password": ""}, []),
        ({"api_key": "OPENAI_API_KEY", "end_token": "<|end|>", "stop_token": "</s>"}, []),
        ({"pattern": "sk-1234"}, []),
        ({"answer_token": "####", "think_token": "Let me think about it."}, []),
        ({"hub_token": "hf_abcdefghijklmnopqrstuvwxyz"}, ["kwargs.hub_token"]),
    ],
)
def test_texts_under_such_names_are_found_however_deep(value: dict[str, Any], keys: list[str]) -> None:
    assert list(secret_keys(value, "kwargs")) == keys
