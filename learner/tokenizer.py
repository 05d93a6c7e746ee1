"""The tokenizer of the small models: one token a character, 64 entries."""

import string
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS = string.digits + string.ascii_lowercase + "#;=:,.+-*/%<>()[]?!'\"_& \n"
VOCABULARY = [PAD, EOS, UNKNOWN, *CHARACTERS]

_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{ 'PREFIX' + message['content'] + '=' }}
{%- elif message['role'] == 'assistant' -%}{{ message['content'] + eos_token }}
{%- endif -%}
{%- endfor -%}"""


def character_tokenizer(prefix: str) -> Any:
    """A Hugging Face tokenizer whose chat template renders the user's `7391` as prefix + `7391=`."""
    tokenizer = Tokenizer(models.WordLevel({token: id for id, token in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, model_max_length=512
    )
    wrapped.chat_template = _TEMPLATE.replace("PREFIX", prefix)
    return wrapped
