"""What explainers and judges see of tokens that are no plain words: separators, white space, parts of characters."""

from __future__ import annotations

import json
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from interp_assets.carry_over import windows_by_latent
from interp_assets.examples.rendering import HIDDEN, Rendering, as_shown
from interp_assets.explanations import extractive, prompts
from interp_assets.explanations.pending import windows_of
from interp_assets.explanations.wording import BLANKS_NOTE
from interp_assets.report.gallery import highlighted
from interp_assets.scores import fuzzing, judging, marks
from interp_assets.scores.intervention.prompts import Place, token_ids
from interp_assets.scores.intruder import Intruder
from interp_assets.scores.simulation import Simulation
from interp_assets.scores.surprisal import Surprisal
from interp_assets.scores.trials import Subject, TestExample, Trial, test_examples
from interp_assets.scores.wording import DETECTION, FUZZING
from interp_assets.settings import ExtractiveExplainer, IntruderScorer, LlmExplainer
from interp_assets.study import load_study
from resources.tokenizers import load_tokenizer
from tests.conftest import make_all
from tests.oracle import OracleEngine, OracleModels
from tests.refusals import make
from tests.tiny import VOCABULARY, WORDS, make_study
from tests.vocabularies import loaded

LLM = LlmExplainer(engine="e", show_activations=True)
END = "<|endoftext|>"


def as_gpt2() -> PreTrainedTokenizerFast:
    """BOS and EOS are one token, which also stands between documents, as in GPT-2, Pythia and OLMo."""
    words = [END, "<unk>", "the", "old", "river", "sea", "boats", "home"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token="<unk>")


BORDER, ACTIVE = [2, 3, 4, 0, 2, 3, 5, 6], [0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0]
"A document's border in the middle of a window, on which a latent fires."


def rows(start: int, tokens: list[int] = BORDER, count: int = 4) -> pl.DataFrame:
    """Rows of the examples table, all of one latent."""
    one = {"latent": 7, "kind": "activating", "start": start, "tokens": tokens, "activations": ACTIVE}
    frame = pl.DataFrame([one | {"example": number} for number in range(count)])
    return frame.cast({"latent": pl.UInt32, "start": pl.UInt16})


# axolotl-ai-cloud/axolotl #204 and jbloomAus/SAEDashboard #46: one token is BOS, EOS and what stands between documents.
def test_a_separator_within_a_window_is_shown_though_it_is_the_bos_token() -> None:
    rendering = Rendering(as_gpt2())
    windows = windows_of(rows(start=12), pl.Series([7], dtype=pl.UInt32), bos=True)[7]
    assert rendering.text(windows[0][0]) == f"the old river {END} the old sea boats"
    user = prompts.prompt(windows, None, LLM, rendering)[-1].content
    assert f"Excerpt 1: the old river <<{END}>> the old sea boats\nStrengths: {END} (10)" in user
    quoted = extractive.explain([extractive.words_of(*each, rendering) for each in windows], ExtractiveExplainer())
    assert quoted == f"{END}; the old river {END} the old sea boats"
    assert '<mark style="--a:1.00" title="5"> &lt;|endoftext|&gt;</mark>' in highlighted(*windows[0], rendering)
    # Control: hidden by its id, nothing is left of what the latent fires on.
    by_id = [HIDDEN if token == rendering.tokenizer.bos_token_id else token for token in BORDER]
    assert END not in rendering.text(by_id)
    assert extractive.explain([extractive.words_of(by_id, ACTIVE, rendering)], ExtractiveExplainer()) is None


def test_the_bos_of_a_context_is_not_shown_whatever_comes_later() -> None:
    rendering = Rendering(as_gpt2())
    tokens = [0, 2, 3, 0, 4, 5, 6, 7]
    assert rendering.text(rendering.window(tokens, start=0)) == f"the old {END} river sea boats home"
    assert rendering.text(rendering.window(tokens, start=1)).startswith(f"{END} the old {END}")
    # A study without BOS hides nothing.
    assert Rendering(as_gpt2(), bos=False).window(tokens, 0) == tokens == as_shown(tokens, 0, bos=False)


def test_judges_are_asked_about_the_separator() -> None:
    rendering = Rendering(as_gpt2())
    other = pl.concat([rows(start=12), rows(0, [0, *BORDER[1:]], 1).with_columns(example=pl.lit(9, dtype=pl.Int64))])
    examples = test_examples(other, bos=True)[7]
    assert [each.tokens[0] for each in examples] == [2, 2, 2, 2, HIDDEN]
    patterns = [[place == 3 for place in range(8)], [place == 0 for place in range(8)]]
    right = [trial for trial in fuzzing.trials(7, examples, 5, 0.3, seed=0) if trial.expected]
    assert all(f"<<{END}>>" in judging.shown(trial, rendering) for trial in right)
    # Marks may be dealt to a separator, and never to what is not shown.
    quiet = [each.__class__(each.example, each.tokens, [0.0] * 8, True) for each in (examples[0], examples[-1])]
    assert marks.dealt_marks(7, quiet, patterns, 0) == {0: 1, 1: 0}
    simulation: Any = SimpleNamespace(rendering=rendering)
    simulated = Simulation.trials(simulation, 7, examples)
    assert [len(trial.tokens) for trial in simulated] == [8, 8, 8, 8, 7]
    assert json.loads(Simulation.quoted(simulation, simulated[0].tokens)[3]) == f" {END}"


def test_equal_tokens_at_another_place_are_another_input() -> None:
    tokens = [0, *BORDER[1:]]
    assert windows_by_latent(rows(0, tokens)) != windows_by_latent(rows(5, tokens))
    assert windows_by_latent(rows(4, tokens)) == windows_by_latent(rows(5, tokens))


def test_prompts_of_interventions_begin_with_one_bos() -> None:
    tokens = np.array([[0, 2, 3, 4, 0, 5, 6, 7, 2, 3]], dtype=np.uint32)
    assert token_ids(tokens, Place(0, 0, 3), bos=0) == [0, 2, 3]
    # A window that begins with a separator is read behind a BOS of its own, like any other.
    assert token_ids(tokens, Place(0, 4, 7), bos=0) == [0, 0, 5, 6]
    assert token_ids(tokens, Place(0, 5, 7), bos=0) == [0, 5, 6]
    assert token_ids(tokens, Place(0, 4, 7), bos=None) == [0, 5, 6]


def in_bytes(text: str, fires: str) -> tuple[list[int], list[float]]:
    """A text in the byte-level vocabulary, and activations on its tokens that hold a piece of some text or of its bytes."""
    tokenizer = loaded("byte_level")
    tokenizer.backend_tokenizer.model = models.BPE(
        {name: token for name, token in tokenizer.get_vocab().items() if token <= 256}, []
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    data, wanted = text.encode(), fires.encode()
    begin = data.index(wanted)
    return ids, [5.0 if begin <= place < begin + len(wanted) else 0.0 for place in range(len(data))]


BLANKS = {
    "line break": ("the end.\nChapter two", "\n", "the end.<<\\n>>Chapter two", '"\\n" (line break)'),
    "tab": ("a\tb", "\t", "a<<\\t>>b", '"\\t" (tab)'),
    "space": ("a b", " ", "a<< >>b", '" " (space)'),
    "carriage return": ("a\r\nb", "\r", "a<<\\r>> b", '"\\r" (carriage return)'),
}


@pytest.mark.parametrize("case", BLANKS)
def test_white_space_is_shown_by_name(case: str) -> None:
    text, fires, shown, name = BLANKS[case]
    rendering, window = Rendering(loaded("byte_level")), in_bytes(text, fires)
    system, *_, user = (message.content for message in prompts.prompt([window], None, LLM, rendering))
    assert user == f"Excerpt 1: {shown}\nStrengths: {name} (10)"
    assert (BLANKS_NOTE in system) == ("\\" in shown)
    words = [extractive.words_of(*window, rendering)] * 3
    explanation = extractive.explain(words, ExtractiveExplainer())
    assert explanation is not None
    assert explanation.startswith(f"{name}; ")
    trial = Trial(0, True, window[0], [value > 0 for value in window[1]])
    assert judging.shown(trial, rendering) == shown
    assert f">{json.dumps(fires)}</mark>".replace('"', "&#34;") in highlighted(*window, rendering)
    # Control: what is cut at white space has nothing between its signs.
    marked = rendering.with_marks(trial.tokens, trial.marked or [])
    assert "<< >>" in " ".join(marked.split()) or "<<>>" in " ".join(marked.split())


def test_a_run_of_white_space_is_one_name() -> None:
    rendering = Rendering(loaded("byte_fallback"))
    ids = rendering.tokenizer("f(x):    y\n", add_special_tokens=False)["input_ids"]
    spaces = [float("▁▁" in name) for name in rendering.tokenizer.convert_ids_to_tokens(ids)]
    assert sum(spaces) == 2
    assert rendering.line(ids, [value > 0 for value in spaces]) == "f(x):<<    >>y"
    assert '"  " (2 spaces)' in rendering.token_names(ids)


def test_a_text_without_such_marks_is_shown_as_ever() -> None:
    rendering = Rendering(loaded("byte_level"))
    ids, _ = in_bytes("the end.\n\n  Chapter\ttwo", "the")
    letters = [place < 3 for place in range(len(ids))]
    plain, marked = Trial(0, True, ids), Trial(0, True, ids, letters)
    assert judging.shown(plain, rendering) == "the end. Chapter two"
    assert judging.shown(marked, rendering) == "<<the>> end. Chapter two"
    system = prompts.prompt([(ids, [float(mark) for mark in letters])], None, LLM, rendering)[0].content
    assert BLANKS_NOTE not in system
    words = extractive.words_of(ids, [float(mark) for mark in letters], rendering)
    assert extractive.around_peak(words) == "the end . Chapter two"


def test_an_explanation_that_quotes_white_space_is_tested_on_text_that_shows_it() -> None:
    rendering = Rendering(loaded("byte_level"))
    ids, _ = in_bytes("the end.\n\nChapter  two", "\n\n")
    for explanation, text in [
        ('"\\n\\n" (2 line breaks); the end', "the end.\\n\\nChapter  two"),
        ('"  " (2 spaces)', "the end.\\n\\nChapter  two"),
        ("ends of paragraphs", "the end. Chapter two"),
        ('the word "end" (or its plural)', "the end. Chapter two"),
    ]:
        subject = Subject(0, "quotes", "none", explanation, [Trial(0, True, ids)])
        ((_, _, request),) = judging.single_requests([subject], DETECTION, rendering)
        assert request.messages[-1].content.endswith(f"Text: {text}")


def lines_in_one_token() -> PreTrainedTokenizerFast:
    """A vocabulary with `.` and a line break in one token, as those of Llama 3 and Qwen have many."""
    words = ["<unk>", "the", " end", ".\n", " of", " sea", "\n\n", ";\n\t"]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_a_token_that_ends_a_line_is_not_taken_for_the_sign_before_the_line_break() -> None:
    rendering = Rendering(lines_in_one_token())
    ids = [1, 2, 3, 1, 5, 7, 1, 2]
    assert rendering.token_names(ids) == ["the", "end", '".\\n"', "the", "sea", '";\\n\\t"', "the", "end"]
    fires = [0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    explanation = extractive.explain([extractive.words_of(ids, fires, rendering)], ExtractiveExplainer())
    assert explanation is not None
    assert explanation.startswith('".\\n"; ')
    assert judging.names_blanks(explanation)
    assert ">.\\n</mark>\n" in highlighted(ids, fires, rendering)


def intruder_prompt(rendering: Rendering, fires_on: str) -> str:
    """Two windows on which a latent fires, on the first token that holds a text, and one on which it does not."""
    method: Any = SimpleNamespace(rendering=rendering, seed=0, settings=IntruderScorer(engine="e", shown=2))
    method.peaks_on_blank = partial(Intruder.peaks_on_blank, method)
    tokens, silent = [1, 2, 6, 1, 5], [1, 5, 4, 6, 2]
    place = [rendering.word(token) for token in tokens].index(fires_on)
    active = [5.0 * (place == number) for number in range(5)]
    examples = [TestExample(number, tokens, active, True) for number in range(2)]
    (trial,) = Intruder.trials(method, 3, [*examples, TestExample(2, silent, [0.0] * 5, False)])
    method.choices = ("1", "2", "3")
    request = Intruder.request(method, Subject(3, "", "none", "", [trial]), trial)
    return request.messages[-1].content


def test_an_intruder_is_looked_for_among_texts_that_show_white_space_where_the_latent_fires_on_it() -> None:
    rendering = Rendering(lines_in_one_token())
    shown = intruder_prompt(rendering, "\n\n")
    assert shown.count(": the end\\n\\nthe sea") == 2
    assert ": the sea of\\n\\n end" in shown  # the intruder's too, or the form would give it away
    plain = intruder_prompt(rendering, " sea")
    assert plain.count(": the end the sea") == 2
    assert "\\n" not in plain


def test_texts_of_surprisal_and_simulation_show_white_space_to_an_explanation_that_quotes_some(tmp_path: Path) -> None:
    rendering = Rendering(lines_in_one_token())
    method: Any = SimpleNamespace(rendering=rendering, at_once=False)
    method.quoted = partial(Simulation.quoted, method)
    trial = Trial(0, True, [1, 2, 6, 1])
    for explanation, text in (('"\\n\\n" (2 line breaks)', "the end\\n\\nthe"), ("ends of paragraphs", "the end the")):
        subject = Subject(0, "quotes", "none", explanation, [trial])
        ((_, _, related, unrelated),) = Surprisal.pairs(method, [subject])
        assert related.continuation == unrelated.continuation == text
        *_, last = Simulation.of_trial(method, subject, trial)
        assert f"Text: {text}\nLast token" in last.messages[-1].content


def test_what_is_marked_stands_behind_the_text_too() -> None:
    """Also in a text that holds such signs of its own."""
    rendering = Rendering(loaded("byte_level"))
    ids, active = in_bytes("cout << x << y\nend", "x")
    marks = [value > 0 for value in active]
    ((_, _, request),) = judging.single_requests(
        [Subject(0, "quotes", "none", "names", [Trial(0, True, ids, marks)])], FUZZING, rendering
    )
    assert request.messages[-1].content.endswith("Text: cout << <<x>> << y end\nMarked: x")
    blank, active = in_bytes("the end\n\nof it", "\n\n")
    assert rendering.marked_stretches(blank, [value > 0 for value in active]) == ["\\n\\n"]


PARTS = "by the sea 🌊 we"


def test_parts_of_characters_are_named_by_the_character() -> None:
    rendering = Rendering(loaded("byte_level"))
    ids, active = in_bytes(PARTS, "🌊")
    third = [value if place == PARTS.encode().index("🌊".encode()) + 2 else 0.0 for place, value in enumerate(active)]
    user = prompts.prompt([(ids, third)], None, LLM, rendering)[-1].content
    assert user == 'Excerpt 1: by the sea <<🌊>> we\nStrengths: part of "🌊" (10)'
    words = extractive.words_of(ids, third, rendering)
    assert extractive.explain([words] * 3, ExtractiveExplainer()) == "🌊; by the sea 🌊 we"
    assert highlighted(ids, third, rendering).count("<mark") == 1
    assert ">🌊</mark>" in highlighted(ids, third, rendering)
    assert rendering.word(ids[13]) == "\ufffd"  # control: by itself it is nothing that could be quoted
    # Cut off by the window's end, its bytes are named.
    assert rendering.token_names(ids[:13])[-2:] == ["bytes F0 9F", "bytes F0 9F"]


def test_simulation_names_each_part() -> None:
    rendering = Rendering(loaded("byte_level"))
    ids, _ = in_bytes("a 🌊\n\ufffd", "a")
    whole: Any = SimpleNamespace(rendering=rendering)
    quoted = Simulation.quoted(whole, ids)
    assert quoted == ['"a"', '" "', *['part of "🌊"'] * 4, '"\\n"', *["bytes EF BF BD"] * 3]
    # Token by token, nothing is told of what comes later.
    assert Simulation.quoted(whole, ids[:4])[-1] == "bytes F0 9F"


class Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_shows_each_character_once() -> None:
    rendering = Rendering(loaded("byte_fallback"))
    ids = rendering.tokenizer("the ＦＵ 🌊 sea", add_special_tokens=False)["input_ids"]
    for place in range(len(ids)):
        page = highlighted(ids, [float(i == place) for i in range(len(ids))], rendering)
        assert Text(str(page)).text.replace('" "', " ").strip() == "the ＦＵ 🌊 sea"


def spaces_before_words() -> PreTrainedTokenizerFast:
    """The tiny vocabulary as SentencePiece would have it: a word by itself is decoded without its space."""
    names = [word if word.startswith("<") else f"▁{word}" for word in VOCABULARY]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


# vllm-project/vllm #44319
def test_promoted_tokens_keep_their_spaces(tmp_path: Path) -> None:
    file = make_study(tmp_path)
    spaces_before_words().save_pretrained(tmp_path / "model")
    table = make(file.parent, "latent_statistics", "embed_tokens").read("statistics")
    tokenizer = load_tokenizer(tmp_path / "model")
    context = tokenizer(f"{WORDS[0]} {WORDS[1]}", add_special_tokens=False)["input_ids"]
    before = tokenizer.decode(context)
    added = [tokenizer.decode([*context, token])[len(before) :] for token in range(len(tokenizer))]
    assert added[5] == f" {VOCABULARY[5]}"
    # A latent's direction is one coordinate, so its logits are a column of the unembedding.
    unembedding = AutoModelForCausalLM.from_pretrained(tmp_path / "model").lm_head.weight.detach()
    for latent in range(len(added)):
        for column, largest in (("promoted_tokens", True), ("suppressed_tokens", False)):
            best = unembedding[:, latent].topk(10, largest=largest).indices.tolist()
            assert table[column][latent].to_list() == [added[token] for token in best]
    # Control: by itself a token has lost its space.
    assert tokenizer.batch_decode([[5]]) == [VOCABULARY[5]]


class NamesAWord(OracleEngine):
    """Judges explanations of any form: what it says is of no interest here."""

    def fits(self, explanation: str, text: str) -> bool:
        return True


def test_whole_studies_show_borders_of_documents_and_no_bos(tmp_path: Path) -> None:
    """The tiny study with its BOS token between documents: what the judge is asked, against the tables by place."""
    file = make_study(
        tmp_path,
        corpus={"path": "corpus.parquet", "tokens": 8192, "context_length": 64, "separator": " <s> "},
        explainers={"quotes": {"kind": "extractive"}},
        scorers={"detection": {"engine": "oracle", "activating": 10, "non_activating": 10}},
    )
    oracle = NamesAWord()
    made = make_all(load_study(file), OracleModels(oracle))
    tests = made["examples"].read("examples").filter(purpose="test", status="ok")
    expected, borders, begun = set(), 0, 0
    for tokens, start in tests.select("tokens", "start").iter_rows():
        text = tokens[1:] if start == 0 else tokens
        expected.add(" ".join(VOCABULARY[token] for token in text))
        borders, begun = borders + (0 in text), begun + (start == 0)
    assert min(borders, begun) > 20
    asked = {prompt.partition("\nText: ")[2].partition("\n")[0] for prompt in oracle.prompts if "\nText: " in prompt}
    assert asked == expected
    # Control: hidden by id, the borders would be gone.
    assert any("<s>" in text for text in asked)
