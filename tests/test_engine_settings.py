"""Engines as a study names them: what decides their replies, what they need, what they add to prompts."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from interp_assets import cli
from interp_assets.freshness import Freshness
from interp_assets.models import check_package
from interp_assets.plan import plan
from interp_assets.running import run_study
from interp_assets.study import load_study
from resources.errors import NotNow, UnusableInput, install_command
from resources.language_models.prompts import Prompts, total, ways_on
from resources.language_models.protocol import Message
from resources.tokenizers import load_tokenizer, prompt_texts
from tests.changed_study import changed

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}{% if not thinking %}ka {% endif %}"


def with_engine(file: Path, **settings: Any) -> Any:
    return load_study(changed(file, {"engines.oracle": {"path": "./model"} | settings}, "engine.yaml"))


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))


@pytest.mark.usefixtures("no_vllm")
def test_a_missing_package_is_told_before_any_work(tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = with_engine(tiny_file, kind="vllm")
    said = f"engines.oracle: kind vllm needs the vllm package: {install_command('vllm')}; or ask a server"
    with pytest.raises(NotNow, match=f"^{re.escape(said)}"):
        run_study(study, None, None)
    assert "make " not in capsys.readouterr().out
    with pytest.raises(NotNow, match=f"^{re.escape(said)}"):
        check_package("oracle", study.engines["oracle"])
    check_package("oracle", with_engine(tiny_file).engines["oracle"])


def test_a_vllm_engine_is_as_well_known_as_its_files(tiny_file: Path) -> None:
    def identity(**settings: Any) -> Any:
        return Freshness(with_engine(tiny_file, **settings)).engine_identity("oracle")

    transformers, vllm = identity(), identity(kind="vllm")
    assert transformers["files"] == vllm["files"]
    assert set(transformers) == {"kind", "revision", "dtype", "code", "files"}
    assert set(vllm) == {*transformers, "max_model_len"}
    thinking = {"enable_thinking": False}
    for kind in ("transformers", "vllm"):
        plain = identity(kind=kind)
        assert identity(kind=kind, chat_template=thinking) == plain | {"chat_template": thinking}
        assert identity(kind=kind, chat_template={}) == plain


def test_the_plan_counts_tokens_with_the_model_s_tokenizer(tiny_file: Path, tiny_tables: Any) -> None:
    works = [
        next(each.work for each in plan(with_engine(tiny_file, **settings)) if each.state.asset == "explanations")
        for settings in ({"revision": "other"}, {"kind": "vllm"})
    ]
    assert works[0] == works[1]
    assert works[1].exact and works[1].prompt_tokens


def test_arguments_of_the_chat_template(tiny_file: Path) -> None:
    tokenizer = load_tokenizer(tiny_file.parent / "model")
    tokenizer.chat_template = TEMPLATE
    messages = (Message("user", "lo mi"),)
    plain, thinking = Prompts(tokenizer), Prompts(tokenizer, {"thinking": True})
    assert plain.of_messages(messages) == [*thinking.of_messages(messages), *plain.ids("ka")]
    assert prompt_texts(tokenizer, [messages], {"thinking": True}) == ["lo mi "]


REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }} {% endfor %}"
)


def test_a_chat_template_without_a_system_role_gets_its_text_from_the_user(tiny_file: Path) -> None:
    tokenizer = load_tokenizer(tiny_file.parent / "model")
    tokenizer.chat_template = REFUSES_SYSTEM
    system, user, more = Message("system", "kaba"), Message("user", "lode"), Message("assistant", "mifi")
    assert prompt_texts(tokenizer, [(system, user, more), (user,), (system,)]) == [
        "[user] kaba\n\nlode [assistant] mifi ",
        "[user] lode ",
        "[user] kaba ",
    ]
    prompts = Prompts(tokenizer)
    shared = prompts.of_instructions((system, user))
    assert shared == prompts.ids("[user] kaba"), "what prompts share is still found"
    tokenizer.chat_template = TEMPLATE
    assert prompt_texts(tokenizer, [(system, user)]) == ["kaba lode ka "], "control"


def test_a_chat_template_that_takes_no_prompt_is_told_in_its_words(tiny_file: Path) -> None:
    tokenizer = load_tokenizer(tiny_file.parent / "model")
    for template in ("{{ raise_exception('Only tools, please') }}", "{% if %} Only tools, please"):
        tokenizer.chat_template = template
        for messages in ((Message("user", "lo"),), (Message("system", "ka"), Message("user", "lo"))):
            with pytest.raises(
                UnusableInput, match=rf"^{tokenizer.name_or_path}: its chat template takes no messages of "
            ):
                prompt_texts(tokenizer, [messages])
    with pytest.raises(UnusableInput, match=r"of system, user \(Expected an expression"):
        prompt_texts(tokenizer, [messages])


def test_plan_and_doctor_with_a_model_without_a_system_role(
    tiny_file: Path, tiny_tables: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny_file.parent / "model", tmp_path / "model")
    (model / "chat_template.jinja").write_text(REFUSES_SYSTEM)
    study = with_engine(tiny_file, path=str(model))
    assert any(each.work.prompt_tokens for each in plan(study) if each.work)
    assert cli.main(["doctor", str(study.file)]) == 0, capsys.readouterr()
    (model / "chat_template.jinja").write_text("{{ raise_exception('Only tools, please') }}")
    for command in ("plan", "doctor"):
        assert cli.main([command, str(study.file)]) in (1, 2)
        told = capsys.readouterr()
        assert (
            "its chat template takes no messages of system, user, assistant (Only tools, please); name"
            in told.out + told.err
        )


def test_choices_of_several_tokens_share_their_beginnings() -> None:
    choices = [[1], [2, 3], [2, 3, 4], [2, 5]]
    ways = ways_on(choices)
    assert ways == {(): [1, 2], (2,): [3, 5], (2, 3): [4]}
    table = {way: {token: -float(token) for token in tokens} for way, tokens in ways.items()}
    assert [total(table, choice) for choice in choices] == [-1.0, -5.0, -9.0, -7.0]
