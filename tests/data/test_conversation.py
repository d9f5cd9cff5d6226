"""Conversations as tokens: what is learned of them, and with which templates and tokenizers."""

import pytest
from tokenizers import processors

from mofo.data.tokens import IGNORED, encode, encode_rows, find_row
from mofo.errors import UserError
from reference.tiny_llama import make_tokenizer


def said(role, content):
    return {"role": role, "content": content}


CHAT = [
    said("system", "be brief"),
    said("user", "1+1?"),
    said("assistant", "2"),
    said("user", "more?"),
    said("assistant", "3"),
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
AGENT = [
    said("user", "1+1?"),
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    said("tool", "2"),
    said("assistant", "It is 2."),
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
AGENT_TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}</s>{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% else %}{{ m['content'] }}{% endif %}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "{%- generation %}{{ m['content'] }}</s>{% endgeneration %}{% else %}{{ m['content'] }}</s>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LAST_TURN_DIFFERS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if loop.last and m['role'] == 'assistant' %}<think>{% endif %}"
    "{{ m['content'] }}</s>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def stretches(example, tokenizer, *, learned=True):
    """The text of each stretch of tokens that is learned, or that is not."""
    found, before = [], None
    for token, label in zip(example["input_ids"], example["labels"], strict=True):
        now = label != IGNORED
        if now == learned:
            found = found if before == now else [*found, []]
            found[-1].append(token)
        before = now
    return [tokenizer.decode(ids) for ids in found]


@pytest.mark.parametrize("template", [None, MARKED_TEMPLATE, LAST_TURN_DIFFERS])
def test_all_turns_of_the_assistant_are_learned_or_the_last(tokenizer, template):
    tokenizer.chat_template = template or tokenizer.chat_template
    think = "<think>" if template == LAST_TURN_DIFFERS else ""
    example = encode({"messages": CHAT}, tokenizer, 1000)
    assert stretches(example, tokenizer) == ["2</s>", f"{think}3</s>"]
    whole = tokenizer.apply_chat_template(CHAT, tokenize=True)["input_ids"]
    assert example["input_ids"] == whole[: len(example["input_ids"])]
    assert tokenizer.decode(whole[len(example["input_ids"]) :]).strip() == ""
    last = encode({"messages": CHAT}, tokenizer, 1000, turns="last")
    assert stretches(last, tokenizer) == [f"{think}3</s>"]
    assert last["input_ids"] == example["input_ids"]
    assert tokenizer.decode(example["prompt_ids"]).endswith("<|assistant|>")
    assert example["prompt_ids"] == example["input_ids"][: len(example["prompt_ids"])]
    assert example["answer"] == "3"


@pytest.mark.parametrize("template", [None, MARKED_TEMPLATE])
def test_conversation_that_the_assistant_begins_is_learned_whole(tokenizer, template):
    tokenizer.chat_template = template or tokenizer.chat_template
    messages = [said("assistant", "Hello!"), said("user", "1+1?"), said("assistant", "2")]
    assert stretches(encode({"messages": messages}, tokenizer, 1000), tokenizer) == ["Hello!</s>", "2</s>"]


def test_prompt_of_several_turns_is_not_learned(tokenizer):
    row = {"prompt": CHAT[:4], "completion": CHAT[4:]}
    assert stretches(encode(row, tokenizer, 1000), tokenizer) == ["3</s>"]
    row = {"prompt": CHAT[:2], "completion": CHAT[2:]}
    assert stretches(encode(row, tokenizer, 1000), tokenizer) == ["2</s>", "3</s>"]


def test_tools_their_calls_and_results_are_given_to_the_template(tokenizer):
    tokenizer.chat_template = AGENT_TEMPLATE
    row = {"messages": AGENT, "tools": TOOLS}
    example = encode(row, tokenizer, 1000)
    whole = tokenizer.apply_chat_template(AGENT, tools=TOOLS, tokenize=True)["input_ids"]
    assert example["input_ids"] == whole[:-1]  # without the line break at the end
    assert [text[:9] for text in stretches(example, tokenizer)] == ['[{"type":', "It is 2.<"]
    call = encode({"messages": AGENT[:2]}, tokenizer, 1000)
    assert '"name": "add"' in call["answer"]
    assert "</s>" not in call["answer"]


@pytest.mark.parametrize(
    ("row", "message"),
    [({"messages": AGENT}, "leaves out tool_calls"), ({"messages": CHAT, "tools": TOOLS}, "leaves out tools")],
)
def test_template_that_leaves_out_tools_is_refused(tokenizer, row, message):
    with pytest.raises(UserError, match=rf"rows, row 1: the chat template {message}"):
        encode_rows([row], tokenizer, 1000, place=find_row({"rows": [row]}))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('System role not supported') }}", "refuses the conversation: System role not supported"),
        ("{{ messages[0].nothing.more }}", "refuses the conversation"),
        ("{% for %}", "refuses the conversation"),
        ("{% if messages | length == 5 %}x{% endif %}", "writes nothing of what comes before"),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", "rewrites turn 3"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "--turns last"),
        (None, "has no chat template, which a conversation needs"),
    ],
)
def test_template_that_cannot_write_a_row_is_refused_with_its_number(tokenizer, template, message):
    tokenizer.chat_template = template
    rows = [{"text": "x"}, {"messages": CHAT}]
    with pytest.raises(UserError, match=rf"data\.jsonl, row 2: .*{message}"):
        encode_rows(rows, tokenizer, 1000, place=find_row({"data.jsonl": rows}))


def test_text_that_no_tokenizer_takes_is_refused_with_its_number(tokenizer):
    rows = [{"text": "\ud800"}]
    with pytest.raises(UserError, match="data, row 1"):
        encode_rows(rows, tokenizer, 1000, place=find_row({"data": rows}))


@pytest.mark.parametrize(
    ("row", "learned"),
    [
        ({"text": "a</s>b"}, "a</s>b</s>"),
        ({"text": "a</s>"}, "a</s>"),
        ({"prompt": "a</s>b", "completion": "c</s>d"}, "c</s>d</s>"),
        ({"prompt": "a", "completion": "c</s>"}, "c</s>"),
        ({"question": "a</s>b", "answer": "c</s>d"}, "c</s>d</s>"),
        ({"messages": [said("user", "a"), said("assistant", "c</s>\nd")]}, "c</s>\nd</s>"),
    ],
)
@pytest.mark.parametrize("close", ["</s>", "</s>\n", ""])
def test_text_is_not_cut_at_an_end_that_it_contains(tokenizer, row, learned, close):
    tokenizer.chat_template = tokenizer.chat_template.replace("</s>", close)
    example = encode(row, tokenizer, 1000)
    assert stretches(example, tokenizer) == [learned]


def add_around(tokenizer, *, start=False, end=False):
    """Have the tokenizer put tokens around each text."""
    template = ["<s>"] * start + ["$A"] + ["</s>"] * end
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(template), special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "hello"}, "<s>hello</s>"),
        ({"text": "<s>hello</s>"}, "<s>hello</s>"),
        ({"prompt": "hel", "completion": "lo"}, "<s>hello</s>"),
        ({"prompt": "<s>hel", "completion": "lo</s>"}, "<s>hello</s>"),
        ({"question": "a", "answer": "b"}, "<|user|>a</s><|assistant|>b</s>"),
    ],
)
def test_start_and_end_that_the_tokenizer_adds_are_there_once(tokenizer, row, text, end):
    add_around(tokenizer, start=True, end=end)
    assert tokenizer.decode(encode(row, tokenizer, 1000)["input_ids"]) == text


def test_tokenizer_without_an_end_adds_none(tokenizer):
    tokenizer.eos_token = None
    assert tokenizer.decode(encode({"text": "hello"}, tokenizer, 1000)["input_ids"]) == "hello"
    example = encode({"messages": CHAT}, tokenizer, 1000)
    assert stretches(example, tokenizer) == ["2</s>", "3</s>"]


def test_end_that_also_pads_is_learned(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    assert stretches(encode({"messages": CHAT}, tokenizer, 1000), tokenizer) == ["2</s>", "3</s>"]


@pytest.mark.parametrize(
    ("row", "ids"),
    [
        ({"question": "2+2?", "answer": "4"}, "<|user|>2+2?</s><|assistant|>|4</s>"),
        ({"prompt": "2+2=", "completion": "4"}, "2+2=|4</s>"),
        (
            {"prompt": [said("user", "2+2?")], "completion": [said("assistant", "4")]},
            "<|user|>2+2?</s><|assistant|>|4</s>",
        ),
        ({"messages": [said("user", "hi"), said("assistant", "hello")]}, "<|user|>hi</s><|assistant|>|hello</s>"),
        ({"messages": [said("system", "s"), *CHAT[1:3]]}, "<|system|>s</s><|user|>1+1?</s><|assistant|>|2</s>"),
        ({"text": "what is two"}, "|what is two</s>"),
    ],
)
def test_rows_are_the_same_tokens_as_in_committed_runs(tokenizer, row, ids):
    """Prompt and completion are tokenised separately, and the completion alone is learned."""
    prompt, completion = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ids.rsplit("|", 1))
    for turns in ("all", "last"):
        example = encode(row, tokenizer, 1000, turns=turns)
        assert example["prompt_ids"] == prompt
        assert example["input_ids"] == prompt + completion
        assert example["labels"] == [IGNORED] * len(prompt) + completion
