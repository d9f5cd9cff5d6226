"""`mofo sft`: every word goes to trl's parser."""

import pytest

from mofo import cli
from mofo.trainers.trl import command as trl_command


@pytest.mark.parametrize(
    "words",
    [
        ["--model_name_or_path", "m", "--fraction=0.1", "--unknown-flag"],
        ["--help"],
        ["-h"],
        ["--version"],
        ["--output_dir", "o", "--", "x"],
        ["x", "--held_out_rows", "-1e-4"],
        [],
    ],
)
def test_words_arrive_as_they_are(monkeypatch, words):
    seen = []
    monkeypatch.setattr(trl_command, "main", lambda name, argv: seen.append((name, argv)) or 7)
    assert cli.main(["sft", *words]) == 7
    assert seen == [("sft", words)]


def test_interrupted_training_says_how_to_resume(monkeypatch, capsys):
    def interrupt(name, argv):
        raise KeyboardInterrupt("to resume, add --resume_from_checkpoint tuned/checkpoint-4 to the same command")

    monkeypatch.setattr(trl_command, "main", interrupt)
    assert cli.main(["sft"]) == 130
    expected = "mofo sft: interrupted; to resume, add --resume_from_checkpoint tuned/checkpoint-4 to the same command\n"
    assert capsys.readouterr().err == expected
