"""The current date that chat templates show: it belongs to the run, so that its prompts stay the same."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agentopt_local.chat import ChatRequest, Message
from agentopt_local.models.scripted import ScriptedChatModel
from agentopt_local.run.reader import read_day
from benchmarks.scripted import brain, config_in
from ray_jobs import session
from ray_jobs.config import RunConfig
from ray_jobs.open_models import Models
from ray_jobs.runs import new_run
from serving.facts import EngineFacts
from serving.transcript import Transcripts
from tests.tools.tiny_models import make_tokenizer

ROWS = "{%- for message in messages %}{{- message.role + ': ' + message.content + '\n' }}{% endfor %}"
CLOCK = "{{- strftime_now('%Y-%m-%d') + '\n' }}" + ROWS
ASKS_FIRST = (
    "{%- if not date_string is defined %}{% if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}{{- 'Today Date: ' + date_string + '\n' }}" + ROWS
)
CONSTANT = (
    "{%- if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{- date_string + '\n' }}"
    + ROWS
)
DAY = date(2025, 3, 9)


@pytest.mark.parametrize(
    ("template", "shown"),
    [(CLOCK, "2025-03-09\n"), (ASKS_FIRST, "Today Date: 09 Mar 2025\n"), (CONSTANT, "26 Jul 2024\n")],
)
def test_a_template_shows_the_day_it_is_given(template: str, shown: str) -> None:
    transcripts = Transcripts(make_tokenizer(template), day=DAY)
    prompt = transcripts.prompt(ChatRequest(messages=(Message(role="user", content="hi"),)), 1000)
    assert transcripts.tokenizer.decode(prompt.ids).startswith(shown)


def test_without_a_day_it_is_today_and_stays_that() -> None:
    before = date.today()
    transcripts = Transcripts(make_tokenizer(CLOCK))
    assert before <= transcripts.family.template.day <= date.today()
    assert EngineFacts(dtype="float32", step_tokens=1, day=DAY).model_dump(mode="json")["day"] == "2025-03-09"


def test_a_resumed_run_has_the_day_of_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days: list[date | None] = []

    async def open_models(config: RunConfig, stack: AsyncExitStack, progress: Any, *, day: date | None) -> Models:
        days.append(day)
        return Models.of(ScriptedChatModel(brain))

    monkeypatch.setattr(session, "open_models", open_models)
    config = config_in(tmp_path)
    run_dir = new_run(config)

    async def run() -> None:
        async with session.open_session(config, run_dir):
            pass

    for meta in (
        None,
        {"started": "2025-03-10T00:00:01+0000", "engine": {"day": "2025-03-09"}},
        {"started": "2025-03-09T23:00:00+0000", "engine": None},
    ):
        if meta is not None:
            run_dir.write_meta(meta)
        asyncio.run(run())
    run_dir.close()
    assert days == [None, DAY, DAY]


@pytest.mark.parametrize("text", ["{}", "[]", '{"started": 7, "engine": []}', '{"started": "soon"}'])
def test_a_run_without_a_day_has_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps(json.loads(text)), encoding="utf-8")
    assert read_day(tmp_path) is None
    assert read_day(tmp_path / "missing") is None
