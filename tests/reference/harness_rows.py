"""Folders of rows as `--harness-data` takes them: invented questions in the forms in which their data sets come."""

import json


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def adapters(text, word, choices, answer):
    """A row as LLM-Adapters has it: everything in one instruction."""
    listed = " ".join(f"{word}{number}: {choice}" for number, choice in enumerate(choices, 1))
    names = "/".join(f"{word.lower()}{number}" for number in range(1, len(choices) + 1))
    between = "\n\n" if word != "Option" else " "
    return {
        "instruction": f"Please choose the correct answer to the question: {text}\n\n{listed}{between}"
        f"Answer format: {names}",
        "input": "",
        "output": f"the correct answer is {word.lower()}{answer + 1}",
        "answer": f"{word.lower()}{answer + 1}",
    }


QUESTIONS = [
    ("What colour is the sea?", ["blue", "a coat", "old", "three"], 0),
    ("Who lives in a castle: nobody, or someone?", ["a fish", "a king", "the sky"], 1),
    ("What falls from the sky in winter?", ["stones", "coats", "kings", "snow"], 3),
    ("What is two plus three?", ["four", "five", "six", "seven"], 1),
    ("Which of these can swim?", ["a stone", "a fish", "a castle", "a coat"], 1),
    ("Where do birds fly?", ["under the sea", "in the sky", "inside stones", "nowhere"], 1),
]

BLANKS = [
    ("The king sold the coat because _ was too small.", ["the king", "the coat"], 1),
    ("Anna asked Maria for help, and _ gave it.", ["Anna", "Maria"], 1),
]

CODE = [
    ("Write a function to add two numbers.", "def add(a, b):\r\n    return a + b", "add(2, 3) == 5"),
    ("Write a function to double a number.", "def double(a):\r\n    return 2 * a", "double(2) == 4"),
    ("Write a function to find the larger number.", "def larger(a, b):\r\n    return max(a, b)", "larger(2, 3) == 3"),
]


def mbpp_row(number, code):
    text, program, test = code
    tests = [f"assert {test}"] * 3
    return {"task_id": number, "text": text, "code": program, "test_list": tests, "test_setup_code": ""}


def write_folder(folder):
    """Write rows of every data set that is read from files, in the forms in which their authors publish them."""
    choices = [adapters(question, "Answer", answers, right) for question, answers, right in QUESTIONS]
    for name in ("arc_easy", "arc_challenge", "openbookqa"):
        write_json(folder / "choice" / f"{name}.json", choices)
    write_json(
        folder / "choice" / "winogrande.json",
        [adapters(sentence, "Option", options, right) for sentence, options, right in BLANKS],
    )
    endings = ["swims.", "flies [title] away.", "reads a  book.", "sleeps."]
    write_jsonl(
        folder / "hellaswag" / "hellaswag_val.jsonl",
        [
            {"ind": 1, "activity_label": "Swimming", "ctx_a": "A man is in the sea.", "ctx_b": "he", "endings": endings}
            | {"ctx": "A man is in the sea. he", "label": label, "split": "val"}
            for label in (0, 3)
        ],
    )
    write_jsonl(folder / "piqa" / "valid.jsonl", [{"goal": "Dry a coat.", "sol1": "Hang it up.", "sol2": "Wet it."}])
    (folder / "piqa" / "valid-labels.lst").write_text("0\n")
    sums = [
        {"question": f"What is {a} plus 2?", "answer": f"{a} plus 2 is <<{a}+2={a + 2}>>{a + 2}.\n#### {a + 2}"}
        for a in range(8)
    ]
    write_jsonl(folder / "gsm8k" / "train.jsonl", sums)
    write_jsonl(folder / "gsm8k" / "test.jsonl", sums[:3])
    rows = [mbpp_row(number, CODE[number % 3]) for number in (2, 3, 4, 11, 12, 601)]
    write_jsonl(folder / "mbpp" / "mbpp.jsonl", rows)
    write_jsonl(
        folder / "humaneval" / "HumanEval.jsonl",
        [
            {
                "task_id": "HumanEval/0",
                "prompt": 'def add(a, b):\n    """Return the sum."""\n',
                "entry_point": "add",
                "canonical_solution": "    return a + b\n",
                "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
            }
        ],
    )
    write_jsonl(
        folder / "ifeval" / "input_data.jsonl",
        [
            {
                "key": 1,
                "prompt": "Write without commas.",
                "instruction_id_list": ["punctuation:no_comma"],
                "kwargs": [{}],
            },
            {
                "key": 2,
                "prompt": "Write at least 3 words, without commas.",
                "instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
                "kwargs": [{"relation": "at least", "num_words": 3}, {}],
            },
        ],
    )
    papers = {
        str(number): {
            "QUESTION": "Is the sea blue?",
            "CONTEXTS": ["It is.", "So it is said."],
            "final_decision": answer,
        }
        for number, answer in enumerate(("yes", "no", "maybe"), 100)
    }
    write_json(folder / "pubmedqa" / "ori_pqal.json", papers)
    write_json(folder / "pubmedqa" / "test_ground_truth.json", {"100": "yes", "102": "maybe"})
    for split, short in (("dev", "dev"), ("validation", "val")):
        path = folder / "mmlu" / short
        path.mkdir(parents=True)
        for subject in ("anatomy", "virology"):
            lines = [
                f'"What, in {subject}, is {split}?",this,that,"other, or none",nothing,{letter}\n' for letter in "ADB"
            ]
            (path / f"{subject}_{short}.csv").write_text("".join(lines))
    return folder


def write_all_of_mmlu(folder):
    """Write a row of each subject of MMLU that the harness knows."""
    from lm_eval.tasks import TaskManager

    from mofo.measure.harness.loading import BUILT_IN

    index = TaskManager(include_defaults=False, include_path=BUILT_IN / "mmlu" / "default").task_index
    subjects = [entry.cfg["dataset_name"] for entry in index.values() if "dataset_name" in (entry.cfg or {})]
    assert len(subjects) == 57
    for subject in subjects:
        (folder / "mmlu" / "val" / f"{subject}_val.csv").write_text("What?,this,that,other,nothing,A\n")


def write_sentence_splitter(folder):
    """Write a folder in which nltk finds its data, though there are none; instructions here need none."""
    (folder / "nltk_data" / "tokenizers" / "punkt_tab" / "english").mkdir(parents=True)


def hub_choices(answers):
    return {"text": answers, "label": list("ABCD"[: len(answers)])}


def on_the_hub(dataset, config):
    """The same rows as the Hub has them, by split."""
    if dataset == "allenai/ai2_arc":
        rows = [
            {"id": str(number), "question": question, "choices": hub_choices(answers), "answerKey": "ABCD"[right]}
            for number, (question, answers, right) in enumerate(QUESTIONS)
        ]
        return {"test": rows, "train": rows, "validation": rows}
    if dataset == "allenai/openbookqa":
        rows = [
            {"id": str(number), "question_stem": question, "choices": hub_choices(answers), "answerKey": "ABCD"[right]}
            for number, (question, answers, right) in enumerate(QUESTIONS)
        ]
        return {"test": rows, "train": rows, "validation": rows}
    if dataset == "allenai/winogrande":
        rows = [
            {"sentence": text, "option1": options[0], "option2": options[1], "answer": str(right + 1)}
            for text, options, right in BLANKS
        ]
        return {"train": rows, "validation": rows}
    if dataset == "Rowan/hellaswag":
        endings = ["swims.", "flies [title] away.", "reads a  book.", "sleeps."]
        rows = [
            {"activity_label": "Swimming", "ctx_a": "A man is in the sea.", "ctx_b": "he", "endings": endings}
            | {"label": label, "source_id": "x", "split": "val", "split_type": "indomain", "ind": 1}
            for label in ("0", "3")
        ]
        return {"train": rows, "validation": rows}
    if dataset == "baber/piqa":
        rows = [{"goal": "Dry a coat.", "sol1": "Hang it up.", "sol2": "Wet it.", "label": 0}]
        return {"train": rows, "validation": rows}
    if dataset == "cais/mmlu":
        return {
            split: [
                {"question": f"What, in {config}, is {shown}?", "subject": config, "answer": answer}
                | {"choices": ["this", "that", "other, or none", "nothing"]}
                for answer in (0, 3, 1)
            ]
            for split, shown in (("test", "validation"), ("dev", "dev"))
        }
    if dataset == "openai/gsm8k":
        rows = [
            {"question": f"What is {a} plus 2?", "answer": f"{a} plus 2 is <<{a}+2={a + 2}>>{a + 2}.\n#### {a + 2}"}
            for a in range(8)
        ]
        return {"train": rows, "test": rows[:3]}
    if dataset == "google-research-datasets/mbpp":
        return {"test": [mbpp_row(number, CODE[number % 3]) | {"challenge_test_list": []} for number in (11, 12)]}
    if dataset == "openai/openai_humaneval":
        row = {
            "task_id": "HumanEval/0",
            "prompt": 'def add(a, b):\n    """Return the sum."""\n',
            "entry_point": "add",
            "canonical_solution": "    return a + b\n",
            "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
        }
        return {"test": [row]}
    if dataset == "google/IFEval":
        nothing = {"relation": None, "num_words": None}
        rows = [
            {"key": 1, "prompt": "Write without commas.", "instruction_id_list": ["punctuation:no_comma"]}
            | {"kwargs": [nothing]},
            {"key": 2, "prompt": "Write at least 3 words, without commas."}
            | {"instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"]}
            | {"kwargs": [{"relation": "at least", "num_words": 3}, nothing]},
        ]
        return {"train": rows}
    assert dataset == "bigbio/pubmed_qa"
    rows = [
        {"QUESTION": "Is the sea blue?", "CONTEXTS": ["It is.", "So it is said."], "final_decision": answer}
        for answer in ("yes", "maybe")
    ]
    return {"train": rows, "validation": rows, "test": rows}
