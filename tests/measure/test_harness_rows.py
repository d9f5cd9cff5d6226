"""Tasks on rows from files against the harness's own tasks on the same rows as the Hub has them."""

import json
import sys
import types

import datasets
import pytest
from lm_eval.tasks import TaskManager

from mofo.errors import UserError
from mofo.measure.harness.loading import BUILT_IN, load_tasks
from mofo.measure.harness.probe import HarnessProbe
from mofo.measure.probe import Options
from reference import harness_rows

FOLDERS = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "openbookqa": "openbookqa",
    "winogrande": "winogrande",
    "hellaswag": "hellaswag",
    "piqa": "piqa",
    "mmlu_anatomy": "mmlu/default",
    "gsm8k": "gsm8k",
    "mbpp": "mbpp",
    "humaneval": "humaneval",
    "ifeval": "ifeval",
    "pubmedqa": "pubmedqa",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = harness_rows.write_folder(tmp_path_factory.mktemp("rows"))
    harness_rows.write_sentence_splitter(folder)
    return folder


def harness_task(name, monkeypatch):
    """The harness's own task; its metric of code, which it would fetch and run on import, is left out."""

    def load_dataset(path, name=None, **_):
        splits = harness_rows.on_the_hub(path, "anatomy" if path == "cais/mmlu" else name)
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})

    nothing = types.SimpleNamespace(compute=lambda **_: ({}, {}))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setitem(sys.modules, "evaluate", types.SimpleNamespace(load=lambda _: nothing))
    (task,) = TaskManager(include_defaults=False, include_path=BUILT_IN / FOLDERS[name]).load([name])["tasks"].values()
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(1234)
    return task


def asked(task):
    """What a task asks a model, and what it expects: everything that decides its numbers."""
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    requests = [(request.arguments, request.idx, request.request_type, request.repeats) for request in task.instances]
    targets = [task.doc_to_target(row) for row in task.eval_docs]
    choices = [task.doc_to_choice(row) for row in task.eval_docs] if task.config.doc_to_choice else []
    return requests, targets, choices


@pytest.mark.parametrize("name", FOLDERS)
def test_task_on_files_asks_what_the_harness_asks(name, folder, monkeypatch):
    if name == "ifeval":
        load_tasks(name, Options(folder))  # tells nltk where its data are
    theirs = harness_task(name, monkeypatch)
    monkeypatch.undo()
    if name == "mbpp":  # shows the same three problems always, which the harness has copied
        rows = [json.loads(line) for line in (folder / "mbpp" / "mbpp.jsonl").read_text().splitlines()]
        examples = {row["task_id"]: row for row in theirs.fewshot_docs()}
        rows = [
            row | {key: examples.get(row["task_id"], row)[key] for key in ("text", "code", "test_list")} for row in rows
        ]
        harness_rows.write_jsonl(folder / "mbpp" / "mbpp.jsonl", rows)
    (leaf,) = load_tasks(name, Options(folder, allow_code_execution=True)).leaves
    ours = leaf.task
    assert asked(ours) == asked(theirs)
    if name not in ("mbpp", "humaneval"):  # whose metrics run code, in a process of our own
        assert list(ours.aggregation()) == list(theirs.aggregation())
        assert ours.higher_is_better() == theirs.higher_is_better()
    rows = zip(ours.eval_docs, theirs.eval_docs, strict=True)
    if ours.OUTPUT_TYPE == "multiple_choice":
        for a, b in rows:
            results = [(-float(number), False) for number in range(len(ours.doc_to_choice(a)))]
            assert ours.process_results(a, results) == theirs.process_results(b, results)
    elif name == "ifeval":
        for text in ("one two three four", "one, two", ""):
            assert all(ours.process_results(a, [text]) == theirs.process_results(b, [text]) for a, b in rows)


def test_missing_split_is_stood_in_for_and_named(folder):
    (leaf,) = load_tasks("mmlu_anatomy", Options(folder)).leaves
    assert leaf.stands_in == "validation"
    (leaf,) = load_tasks("arc_easy", Options(folder)).leaves
    assert leaf.stands_in is None


def test_tag_is_all_of_its_tasks(folder):
    loaded = load_tasks("ai2_arc", Options(folder))
    assert [leaf.task.task_name for leaf in loaded.leaves] == ["arc_challenge", "arc_easy"]
    assert loaded.by_size


def test_copy_from_the_hub_serves_for_any_task(tmp_path):
    copy = tmp_path / "openai" / "gsm8k" / "main"
    copy.mkdir(parents=True)
    for split, rows in harness_rows.on_the_hub("openai/gsm8k", "main").items():
        datasets.Dataset.from_list(rows).to_parquet(str(copy / f"{split}-00000-of-00001.parquet"))
    readme = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n"
    (copy.parent / "README.md").write_text(f"{readme}  - split: test\n    path: main/test-*\n---\n")
    (leaf,) = load_tasks("gsm8k", Options(tmp_path)).leaves
    assert len(leaf.task.eval_docs) == 3


def test_rows_that_are_missing_are_named_with_the_way_to_fetch_them(tmp_path):
    with pytest.raises(UserError, match=r"no rows of arc_easy.*hf download --repo-type dataset allenai/ai2_arc"):
        load_tasks("arc_easy", Options(tmp_path))
    harness_rows.write_jsonl(tmp_path / "gsm8k" / "test.jsonl", [{"question": "a", "answer": "#### 1"}])
    with pytest.raises(UserError, match="has not the train split of gsm8k"):
        load_tasks("gsm8k", Options(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("choice/arc_easy.json", "{", "cannot be read"),
        (
            "choice/arc_easy.json",
            json.dumps([{"instruction": "Please: what?", "answer": "answer1"}]),
            "row 1 is not one",
        ),
        ("arc_easy/test.jsonl", '{"question": "a"}\n', "are not what it expects"),
        ("mmlu/val/anatomy_val.csv", "What?,a,b,c,A\n", "row 1 is not one of MMLU"),
        ("pubmedqa/ori_pqal.json", "{}", r"test_ground_truth\.json is missing"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, name, content, message):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(content)
    task = {"mmlu": "mmlu_anatomy", "pubmedqa": "pubmedqa"}.get(name.partition("/")[0], "arc_easy")
    with pytest.raises(UserError, match=message):
        load_tasks(task, Options(tmp_path))


def test_ifeval_without_a_sentence_splitter_says_how_to_get_it(folder, tmp_path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UserError, match=r"nltk\.downloader .* punkt_tab"):
        load_tasks("ifeval", Options(tmp_path))


def test_generated_code_runs_only_when_allowed(folder):
    for name in ("humaneval", "humaneval_pass10", "mbpp"):
        with pytest.raises(UserError, match=f"{name} runs code that the model writes: allow it with --allow-code"):
            HarnessProbe.check(name, Options(folder))
        HarnessProbe.check(name, Options(folder, allow_code_execution=True))


@pytest.mark.full
def test_unknown_task_is_refused_with_the_closest(folder):
    with pytest.raises(UserError, match=r"no task 'mmlu_anatom' \(did you mean mmlu_anatomy"):
        HarnessProbe.check("mmlu_anatom", Options(folder))


def test_limit_that_is_no_number_is_refused(folder):
    for argument, message in (("arc_easy@0", "is '0', expected"), ("arc_easy@x", "is 'x'"), ("@5", "needs a task")):
        with pytest.raises(UserError, match=message):
            HarnessProbe.check(argument, Options(folder))
