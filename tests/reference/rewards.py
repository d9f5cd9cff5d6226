"""A reward that a tiny random model can get."""


def digits(completions, **_):
    """Return the share of digits in each completion."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in texts]
