import pytest

from reference.workbench import tiny_model  # noqa: F401

FORMS = {
    "messages": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    "prompt": {"prompt": "2+2=", "completion": "4"},
    "question": {"question": "2+2?", "answer": "4"},
    "text": {"text": "four is two and two"},
}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request):
    """A row of each form."""
    return request.param
