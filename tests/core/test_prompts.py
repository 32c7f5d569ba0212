"""Prompts: text with placeholders that must all be filled."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from agentopt_local import prompts

NAMES = sorted(path.stem for path in prompts.FOLDER.glob("*.md"))


def identifiers(name: str) -> set[str]:
    return set(prompts.template(name).get_identifiers())


def test_there_are_prompts_with_names_to_fill() -> None:
    assert {"agent_system", "optimizer", "repair", "write_source", "example_arguments"} <= set(NAMES)
    assert identifiers("optimizer") == {*("types", "packages", "one_text", "functions", "failures", "transcripts")}


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_fills(name: str) -> None:
    assert prompts.template(name).is_valid()
    values = {each: f"<<{each}>>" for each in identifiers(name)}
    text = prompts.fill(name, **values)
    assert all(value in text for value in values.values())
    assert text == text.strip()
    assert not re.search(r"\$\w", text.replace("$$", "")), "a name that was not filled"


@pytest.mark.parametrize("name", [name for name in NAMES if identifiers(name)])
def test_a_missing_name_is_an_error(name: str) -> None:
    wanted = sorted(identifiers(name))
    for missing in wanted:
        with pytest.raises(KeyError, match=missing):
            prompts.fill(name, **{each: "" for each in wanted if each != missing})


def test_what_is_filled_in_is_not_filled_again() -> None:
    values = dict.fromkeys(identifiers("optimizer"), "costs $functions, $5 and $$")
    assert prompts.fill("optimizer", **values).count("costs $functions, $5 and $$") == 6


def test_a_prompt_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        prompts.fill("no_such_prompt")


def test_hashes_are_those_of_the_files() -> None:
    hashes = prompts.hashes()
    assert sorted(hashes) == NAMES
    assert hashes == prompts.hashes()
    for name, found in hashes.items():
        content = (Path(prompts.__file__).parent / f"{name}.md").read_bytes()
        assert found == hashlib.sha256(content).hexdigest()[:16]
    assert len(set(hashes.values())) == len(NAMES)


def test_no_prompt_of_the_agent_or_the_optimizer_says_whose_problems_they_are() -> None:
    for name in NAMES:
        text = prompts.template(name).template.lower()
        assert "reasoning_gym" not in text
        assert "test split" not in text
