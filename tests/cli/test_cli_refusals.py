"""What the verbs refuse before they read anything, and how the command answers without a verb."""

import pytest

from makers import call
from viscera.cli.command import VERBS, main, refused


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_without_a_verb_the_command_tells_all_of_them(words, capsys):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said for verb in VERBS)


def test_the_command_tells_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("viscera 0.")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("prepare store --data nnunet=set --recipe viscera2d-16 --jobs -1", "--jobs and --seed must not be negative, got -1 and 0"),
        ("synth set --cases 0", "--cases must be at least 1"),
        ("synth set --shape 15 64 64", "--shape at least 16"),
        ("synth set --jobs -2", "--jobs and --seed must not be negative, got -2 and 0"),
        ("synth set --seed -2", "must not be negative"),
        ("evaluate a b c d --versus e", "--versus needs one folder per pair, got 1"),
        ("evaluate T P --split test", "--split test needs a data set as LAYOUT=DIR, not 'T'"),
        ("demo --cases 4", "--cases must be at least 5"),
        ("demo --epochs 0", "--epochs at least 1"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_and_nothing_is_written(command, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = call(command)
    assert code == 2
    assert message in " ".join(said.split())
    assert not list(tmp_path.iterdir())


def test_what_the_system_refuses_is_told_with_file_and_cause(tmp_path):
    said = refused(PermissionError(13, "Permission denied", str(tmp_path / "out.nii.gz")))
    assert "out.nii.gz" in said
    assert "Permission denied" in said


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_torchrun_begins_only_what_shares_its_work(verb, capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([verb, "here"]) == 2
    assert "torchrun began 2 processes, which would all do the same" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0


def test_the_module_is_the_command(capsys, monkeypatch):
    import runpy
    import sys

    monkeypatch.setattr(sys, "argv", ["viscera", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("viscera.cli", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("viscera 0.")
