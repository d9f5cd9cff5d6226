"""Probes of the harness against the harness itself, on a random model and invented rows."""

import copy
import math
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from mofo.errors import UserError
from mofo.measure import make_probes, probe_states
from mofo.measure.harness.loading import load_tasks
from mofo.measure.harness.model import ModelInMemory
from mofo.measure.harness.suites import SUITES, Average
from mofo.measure.kinds import KINDS, check_probe_specs
from mofo.measure.measured import Measured
from mofo.measure.probe import Options
from mofo.measure.progress import watched
from reference import harness_rows, tiny_llama


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """Cut answers of the random model, which never end, after 16 tokens; the harness's default too."""

    def cut(settings, default):
        found = normalize_gen_kwargs(settings, default)
        return found | {"max_gen_toks": min(16, found["max_gen_toks"])}

    monkeypatch.setattr("mofo.measure.harness.model.normalize_gen_kwargs", cut)
    monkeypatch.setattr(HFLM, "max_gen_toks", 16)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return Options(harness_rows.write_folder(tmp_path_factory.mktemp("rows")), allow_code_execution=True)


@pytest.fixture(scope="module")
def model(tokenizer):
    """A model with room for the examples before a question."""
    return tiny_llama.make_model(tokenizer, max_position_embeddings=1024, initializer_range=0.2).eval()


@pytest.fixture(scope="module")
def probes(model, tokenizer, options):
    def make(*specs, **how):
        return make_probes(specs, base=model, tokenizer=tokenizer, **({"options": options} | how))

    return make


def requests(kind, arguments):
    metadata = ("task", 0, 1)
    return [Instance(kind, {}, pair, number, metadata=metadata) for number, pair in enumerate(arguments)]


LIKELIHOODS = [
    ("What is blue?", " the sky"),
    ("What is blue?", " a"),
    ("What is blue?", " the old king and the sea"),
    ("Who is old? ", "the king"),
    ("", "the sea"),
    ("the sea " * 200, " is blue"),  # longer than the model's context
]


def test_log_likelihoods_equal_the_harness(model, tokenizer):
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    ours = ModelInMemory(model, tokenizer)
    expected = theirs.loglikelihood(requests("loglikelihood", LIKELIHOODS), disable_tqdm=True)
    found = ours.loglikelihood(requests("loglikelihood", LIKELIHOODS))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-4)


def test_continuation_is_greedy_where_each_of_its_tokens_is(model, tokenizer):
    prompt = "what is two"
    (text,) = ModelInMemory(model, tokenizer).generate_until(
        requests("generate_until", [(prompt, {"until": [], "max_gen_toks": 6})])
    )
    ids = tokenizer(prompt).input_ids
    with torch.no_grad():
        following = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6)[0, len(ids) :].tolist()
    encoded = [(None, ids, following), (None, ids, [*following[:-1], (following[-1] + 1) % 200])]
    assert [greedy for _, greedy in ModelInMemory(model, tokenizer)._loglikelihood_tokens(encoded)] == [True, False]
    assert text == tokenizer.decode(following, skip_special_tokens=True)


def test_rolling_log_likelihoods_equal_the_harness(model, tokenizer):
    texts = [("the old king and the sea",), ("a " * 700,)]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    expected = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
    found = ModelInMemory(model, tokenizer).loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    assert found == pytest.approx(expected, rel=1e-4)


def test_generated_text_equals_the_harness_and_stops_where_the_task_says(model, tokenizer):
    contexts = ["what is two", "Question: who is old?\nAnswer:", "the sea"]
    free = {"until": [], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    whole = ModelInMemory(model, tokenizer).generate_until(requests("generate_until", [(c, free) for c in contexts]))
    stop = next(text[4:6] for text in whole if len(text) > 6)
    settings = free | {"until": [stop]}
    arguments = [(context, settings) for context in contexts]
    found = ModelInMemory(model, tokenizer).generate_until(requests("generate_until", arguments))
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    assert found == theirs.generate_until(requests("generate_until", arguments), disable_tqdm=True)
    assert found == [text.split(stop)[0] for text in whole]


def test_samples_differ_among_each_other_and_not_from_call_to_call(model, tokenizer):
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 0.8}
    wanted = [("what is two", settings)] * 3
    state = torch.get_rng_state()
    first, again = (ModelInMemory(model, tokenizer).generate_until(requests("generate_until", wanted)) for _ in "ab")
    other = ModelInMemory(model, tokenizer, seed=1).generate_until(requests("generate_until", wanted))
    assert first == again != other
    assert len(set(first)) > 1
    assert torch.equal(state, torch.get_rng_state())


def test_model_is_left_in_its_mode_and_its_tokenizer_as_it_was(model, tokenizer, probes):
    (probe,) = probes("harness:arc_easy")
    side = tokenizer.padding_side
    model.train()
    probe.measure(model)
    assert model.training
    assert tokenizer.padding_side == side
    model.eval()


@pytest.mark.parametrize("task", ["arc_easy", "winogrande", "hellaswag", "gsm8k", "pubmedqa", "mmlu_anatomy"])
def test_probe_has_the_numbers_of_the_harness(task, model, tokenizer, options, probes):
    (leaf,) = load_tasks(task, options).leaves
    leaf.task.set_fewshot_seed(1234)
    theirs = evaluate(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4), {"tasks": {task: leaf.task}})
    expected = {key: value for key, value in theirs["results"][task].items() if "," in key}
    (probe,) = probes(f"harness:{task}")
    numbers, answers = probe.ask(model)
    for key, value in expected.items():
        metric, _, name = key.partition(",")
        own = numbers.get(metric.removesuffix("_stderr"), numbers.get(f"{name} {metric.removesuffix('_stderr')}"))
        error = own.error if own.error is not None else "N/A"
        assert (error if metric.endswith("_stderr") else float(own)) == pytest.approx(value)
    assert len(answers) == len(leaf.task.eval_docs)
    point = Measured({}, {task: numbers}).point(None)
    assert all(metric.of(point) is not None for metric in probe.metrics)
    assert len(probe.metrics) == len(numbers)
    assert [metric.headline for metric in probe.metrics] == [True, *[False] * (len(numbers) - 1)]


def test_probe_asks_every_model_the_same(model, tuned_wide, probes):
    (probe,) = probes("harness:gsm8k")
    before, again, after = (probe.ask(m)[1] for m in (model, model, tuned_wide))
    assert before == again
    assert [answer.question for answer in before] == [answer.question for answer in after]
    assert before != after


@pytest.fixture(scope="module")
def tuned_wide(model):
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return tuned


def test_limit_draws_the_same_questions_of_each_task(model, probes):
    (few,), (all_of_them,) = probes("harness:ai2_arc@4"), probes("harness:ai2_arc")
    _, drawn = few.ask(model)
    _, asked = all_of_them.ask(model)
    assert (len(drawn), len(asked)) == (8, 12)
    assert all(answer in asked for answer in drawn)
    assert probes("harness:ai2_arc@4")[0].ask(model)[1] == drawn
    assert "on 8 questions of ai2_arc from 2 tasks, at most 4 of each" in few.metrics[0].description


def test_probe_names_are_those_of_their_tasks(probes):
    assert [probe.name for probe in probes("harness:arc_easy@2", "harness:winogrande")] == ["arc_easy", "winogrande"]
    with pytest.raises(UserError, match="Two probes would be named `arc_easy`"):
        check_probe_specs(["harness:arc_easy", "harness:arc_easy@2"])


def test_probe_of_other_questions_than_the_base_was_asked_is_refused(probes):
    first = probes("harness:arc_easy@4")
    states = probe_states(first)
    assert probes("harness:arc_easy@4", states=states)[0].state() == states["arc_easy"]
    with pytest.raises(UserError, match="questions of the probe arc_easy are others"):
        probes("harness:arc_easy@5", states=states)


def test_right_answer_has_its_log_probability_among_the_choices(model, tokenizer, probes):
    numbers, answers = probes("harness:arc_easy")[0].ask(model)
    right = 0.0
    for (question, choices, correct), answer in zip(harness_rows.QUESTIONS, answers, strict=True):
        prompt = f"Question: {question}\nAnswer:"
        arguments = [(prompt, f" {choice}") for choice in choices]
        scores = ModelInMemory(model, tokenizer).loglikelihood(requests("loglikelihood", arguments))
        per_byte = torch.tensor([score / len(choice) for (score, _), choice in zip(scores, choices, strict=True)])
        right += float(per_byte.log_softmax(0)[correct])
        assert answer.question == prompt
        assert answer.expected == choices[correct]
        assert answer.given == choices[int(per_byte.argmax())]
        assert answer.scores["acc_norm"] == (answer.given == answer.expected)
    assert numbers["log_probability"] == pytest.approx(right / len(answers), rel=1e-5)


def test_suite_averages_as_the_paper_does(model, probes, monkeypatch):
    inner = Average("commonsense", "commonsense", ("hellaswag", "arc_challenge", "arc_easy"))
    suite = Average("average", "general", (inner, "mmlu_anatomy", "humaneval_pass10"))
    monkeypatch.setitem(SUITES, "general", suite)
    monkeypatch.setattr("mofo.measure.harness.code.passes", lambda program: "candidate" in program)
    (probe,) = probes("general")
    numbers, answers = probe.ask(model)
    common = [numbers[f"{task} acc_norm"] for task in ("hellaswag", "arc_challenge", "arc_easy")]
    assert numbers["commonsense"] == pytest.approx(sum(common) / 3)
    parts = [numbers["commonsense"], numbers["mmlu_anatomy acc"], numbers["humaneval_pass10 pass@10"]]
    assert parts[2] == 1
    assert numbers["average"] == pytest.approx(sum(parts) / 3)
    assert [metric.name for metric in probe.metrics if metric.headline] == ["average"]
    assert probe.metrics[0].label == "general"
    assert {metric.name for metric in probe.metrics} == set(numbers)
    assert sum(len(answer.scores) > 0 for answer in answers) == len(answers) == 2 + 6 + 6 + 3 + 1
    units = Measured.from_units(Measured({}, {"general": numbers}).units).forgotten["general"]
    assert units["average"] == numbers["average"]
    assert units["average"].error == numbers["average"].error


def test_suites_are_probes_by_their_names(model, tokenizer, options):
    without_code = Options(options.harness_data)
    assert set(SUITES) < set(KINDS)
    (probe,) = make_probes(["math@2"], base=model, tokenizer=tokenizer, options=without_code)
    assert probe.name == "math"
    assert len(probe.ask(model)[1]) == 2
    assert [metric.label for metric in probe.metrics if metric.headline] == ["gsm8k"]
    with pytest.raises(UserError, match="allow it with --allow-code-execution"):
        check_probe_specs(["code"], without_code)
    with pytest.raises(UserError, match="limit of harness:math@x is 'x'"):
        check_probe_specs(["math@x"], without_code)


def test_progress_is_reported_until_all_questions_are_done(model, probes):
    seen = []
    with watched(lambda *report: seen.append(report), every=0):
        probes("harness:arc_easy")[0].measure(model)
        probes("harness:gsm8k@2")[0].measure(model)
    assert ("arc_easy", 6, 6) in seen
    assert seen[-1] == ("gsm8k", 2, 2)
    assert [done for what, done, _ in seen if what == "arc_easy"] == sorted(d for w, d, _ in seen if w == "arc_easy")


def test_mean_of_instructions_weighs_instructions(model, tmp_path, probes):
    folder = harness_rows.write_folder(tmp_path / "rows")
    harness_rows.write_sentence_splitter(folder)
    (probe,) = probes("harness:ifeval", options=Options(folder))
    numbers, answers = probe.ask(model)
    assert numbers["inst_level_strict_acc"].counts == [1, 2]
    expected = sum(answer.scores["inst_level_strict_acc"] for answer in answers) / 3
    assert math.isclose(numbers["inst_level_strict_acc"], expected)
    assert probe.metrics[0].name == "prompt_level_strict_acc"
