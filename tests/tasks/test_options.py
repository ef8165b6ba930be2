"""What a command and its configs say, before a parser takes them."""

import os
from pathlib import Path

import pytest
import yaml
from helpers import one_sentence

from tasks.options import load_config, verbatim

NAMES = [
    "null",
    "Null",
    "~",
    "#x",
    "1e5",
    "1.5",
    os.fsdecode(b"caf\xe9"),
    "a: b",
    "-1",
    "true",
    "[a]",
    "{a: 1}",
    "plain",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_the_same_in_an_argument_and_in_a_config_whatever_yaml_would_make_of_it(name):
    spaced, joined = verbatim(["fit", "--data.root", name]), verbatim(["fit", f"--data.root={name}"])
    assert joined == ["fit", f"--data.root={spaced[2]}"]
    assert Path(spaced[2]) == Path(name)
    for written in (spaced[2], name):
        config = load_config(yaml.safe_dump({"data": {"root": written, "version": "1e5"}, "ckpt_path": name}))
        assert config["data"]["root"] == spaced[2]
        assert config["ckpt_path"] == spaced[2]
        reloaded = yaml.safe_load(yaml.safe_dump(config))
        assert reloaded["data"]["root"] == spaced[2]


@pytest.mark.parametrize("option", ["data.unlabelled", "data.pairs", "model.cache", "trainer.default_root_dir"])
def test_every_option_that_is_a_path_is_taken_so(option):
    assert verbatim(["fit", f"--{option}", "#x"]) == ["fit", f"--{option}", "./#x"]
    group, _, name = option.partition(".")
    assert load_config(yaml.safe_dump({group: {name: "null"}})) == {group: {name: "./null"}}


@pytest.mark.parametrize("text", ["trainer: &t {callbacks: *t}", f"trainer: {'[' * 3000}{']' * 3000}"])
def test_a_config_without_an_end_is_refused(text):
    with one_sentence("nested too deeply"):
        load_config(text)


def test_what_is_no_path_stays_what_yaml_makes_of_it():
    assert verbatim(["fit", "--model.teacher", "null", "--model.lr", "1e-3"]) == [
        *("fit", "--model.teacher", "null", "--model.lr", "1e-3")
    ]
    assert load_config("data: {root: null}\nmodel: {lr: 1e-3}\n") == {"data": {"root": None}, "model": {"lr": 0.001}}
    assert load_config("data: {root: 1e5}\n") == {"data": {"root": "./1e5"}}
