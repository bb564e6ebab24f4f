"""Chat templates rendered by minijinja against transformers' Jinja, on templates of the kinds that models ship."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from onnxgpt.runtime.chat import ChatTemplate
from onnxgpt.runtime.errors import PromptError

TOKENIZER = Path(__file__).parents[2] / "models" / "fairytale" / "checkpoint" / "tokenizer.json"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are helpful.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
INSTRUCT = """{{ bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + message.content.strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' ~ message['content'] | trim ~ eos_token }}
    {%- endif %}
{%- endfor %}
"""
NAMESPACED = """{%- set ns = namespace(system='') -%}
{%- for m in messages if m.role == 'system' -%}{%- set ns.system = m.content.split('\n')[-1] -%}{%- endfor -%}
<<{{ ns.system }}>>
{% for m in messages %}
{% if m.role != 'system' %}
{{ m.role|upper }}: {{ m.content|tojson }} {{ m.get('name', 'nobody') }} {{ m.content[:3] }} {{ m.keys()|list|length }}
{% endif %}
{% endfor %}"""
TURNS = [
    {"role": "user", "content": '  What\'s <this> & "that"? café 公主 '},
    {"role": "assistant", "content": " A tale. "},
    {"role": "user", "content": "Again!\nLouder."},
]


@pytest.mark.parametrize("template", [CHATML, INSTRUCT, NAMESPACED])
@pytest.mark.parametrize("turns", [TURNS[:1], TURNS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_equals_transformers(template, turns, add_generation_prompt):
    judge = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), chat_template=template, **TOKENS)
    theirs = judge.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    ours = ChatTemplate(template, TOKENS).render(turns, add_generation_prompt=add_generation_prompt)
    assert ours == theirs


def test_the_template_s_own_refusal_is_told():
    with pytest.raises(PromptError, match="Conversation roles must alternate"):
        ChatTemplate(INSTRUCT, TOKENS).render(TURNS[1:])


def test_a_broken_template_is_told():
    with pytest.raises(PromptError, match="refuses these messages"):
        ChatTemplate("{% for %}", TOKENS).render(TURNS)


def test_templates_run_no_code():
    with pytest.raises(PromptError):
        ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}", TOKENS).render(TURNS)


def test_a_model_without_template_is_no_chat_model(fairytale):
    with pytest.raises(PromptError, match="has no chat template"):
        fairytale.chat_prompt("Hello")
