"""Study files: every mistake is one line that says where it stands and what is allowed."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest

from interp_assets.commands import find_study
from interp_assets.corpus.files import WHAT_IS_READ
from interp_assets.setting_errors import StudyError
from interp_assets.settings import SaeSource
from interp_assets.study import load_study
from resources.sparse_autoencoders.formats import FORMATS, what_makes_one
from tests.changed_study import LEFT_OUT, changed


def refusal(file: Path) -> str:
    """What is said of a study file, without the file's name, which must stand first."""
    with pytest.raises(StudyError) as caught:
        load_study(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


KEYS = "name, storage, subject_model, saes, controls, corpus, proof_of_load, examples, engines, explainers, scorers, alignment, budget, automation"
CORPUS_KEYS = "path, split, column, tokens, context_length, bos, skip_first, separator"
SAE_LIST = "it must be a list of mappings with the keys path, revision, format, hookpoints, label, not empty"
LATENTS = "it must be a whole number, at least 1, or a list of whole numbers, at least 0, not empty, or 'all', or a mapping such as {count: 200, along: alignment}"
LABEL = "it must be letters, digits and any of _ . -, without three dots in a row"
NO_KEY = "stands where a key does; quote it if it is text, fill it in if it is a template"

MISTAKES: list[tuple[dict[str, Any], str]] = [
    # unknown keys
    ({"corpora": {}}, f"corpora: unknown key; there are: {KEYS}"),
    ({"layers": []}, f"layers: unknown key; there are: {KEYS}"),
    ({"corpus.token": 5}, f"corpus.token: unknown key; there are: {CORPUS_KEYS}"),
    ({"examples.test.negative": "random"}, "examples.test.negative: unknown key; there are: activating, non_activating, negatives, neighbour_by"),
    ({"explainers.quotes.engine": "oracle"}, "explainers.quotes.engine: unknown key; there are: kind, words, phrases"),
    (
        {"explainers.llm.temperature": 1},
        "explainers.llm.temperature: unknown key; there are: kind, engine, latents, n_examples, mark_threshold, "
        "show_activations, promoted_tokens, chain_of_thought, instructions, layout, max_tokens",
    ),
    ({"engines.oracle.size": 1}, "engines.oracle.size: unknown key; there are: kind, path, revision, dtype, chat_template, price, device, batch_size"),
    ({"saes.0.place": "x"}, "saes[0].place: unknown key; there are: path, revision, format, hookpoints, label"),
    ({"scorers.guessing": {}}, "scorers.guessing: unknown key; there are: token_embedding, token_fuzzing, embedding, detection, fuzzing, surprisal, simulation, generation, intervention, intruder, example_embedding, reranker"),
    ({"scorers.surprisal.engine": "nobody"}, "scorers.surprisal.engine: 'nobody' is not under engines; there are: oracle"),
    ({"scorers.simulation.activating": 500}, "scorers.simulation.activating: 500 is more than examples.test.activating, 10"),
    ({"alignment": {"pairs": [["embed_tokens", "layers.7"]]}}, "alignment.pairs[0]: no layer 'layers.7'; there are: embed_tokens"),
    # what is missing
    ({"saes": LEFT_OUT}, f"saes: missing; {SAE_LIST}"),
    ({"saes": []}, f"saes: []: {SAE_LIST}"),
    ({"corpus.path": LEFT_OUT}, "corpus.path: missing; it must be text"),
    ({"explainers": {}}, "explainers: {}: it must be a mapping from names to mappings whose kind is 'extractive' or 'llm', not empty"),
    ({"explainers.llm.kind": LEFT_OUT}, "explainers.llm.kind: missing; it must be 'extractive' or 'llm'"),
    # impossible values
    ({"explainers.llm.kind": "oracle"}, "explainers.llm.kind: 'oracle': it must be 'extractive' or 'llm'"),
    ({"corpus.tokens": 0}, "corpus.tokens: 0: it must be a whole number, at least 1"),
    ({"corpus.tokens": 40}, "corpus.tokens: 40 is less than one context of corpus.context_length, 64"),
    ({"corpus.context_length": 7}, "corpus.context_length: 7: it must be a whole number, at least 8, at most 65535"),
    ({"examples.window": 65}, "examples.window: 65 is more than corpus.context_length, 64"),
    ({"examples.latents": 0}, f"examples.latents: 0: {LATENTS}"),
    ({"examples.latents": "most"}, f"examples.latents: 'most': {LATENTS}"),
    ({"examples.latents": [3, -1]}, f"examples.latents: [3, -1]: {LATENTS}"),
    ({"proof_of_load.max_fvu": 0}, "proof_of_load.max_fvu: 0: it must be a number, above 0"),
    ({"explainers.llm.mark_threshold": 1}, "explainers.llm.mark_threshold: 1: it must be a number, at least 0, below 1"),
    (
        {"subject_model.dtype": "int8"},
        "subject_model.dtype: 'int8': it must be one of 'float32', 'bfloat16', 'float16'",
    ),
    ({"subject_model.device": "gpu"}, "subject_model.device: 'gpu': it must be auto, cpu, cuda, cuda:1, ..."),
    ({"scorers.detection.activating": 11}, "scorers.detection.activating: 11 is more than examples.test.activating, 10"),
    ({"name": "a study"}, "name: 'a study': it must be letters, digits and underscores"),
    # wrong types
    ({"corpus.tokens": "1e6"}, "corpus.tokens: '1e6': it must be a whole number, at least 1"),
    ({"corpus.bos": "perhaps"}, "corpus.bos: 'perhaps': it must be true, false, or a token such as <|endoftext|>"),
    ({"corpus.bos": ""}, "corpus.bos: '': it must be true, false, or a token such as <|endoftext|>"),
    ({"corpus.skip_first": -1}, "corpus.skip_first: -1: it must be a whole number, at least 0"),
    ({"corpus.skip_first": 63}, "corpus.skip_first: 63 leaves nothing of corpus.context_length, 64"),
    ({"corpus": 5}, f"corpus: 5: it must be a mapping with the keys {CORPUS_KEYS}"),
    ({"storage": None}, "storage: empty: it must be text"),
    ({"saes": {"path": "saes"}}, f"saes: {{'path': 'saes'}}: {SAE_LIST}"),
    ({"saes.0.hookpoints": "embed_tokens"}, "saes[0].hookpoints: 'embed_tokens': it must be a list of texts, not empty"),
    ({"saes.0.hookpoints": [3]}, "saes[0].hookpoints[0]: 3: it must be text"),
    ({"explainers.quotes": 5}, "explainers.quotes: 5: it must be a mapping whose kind is 'extractive' or 'llm'"),
    ({"engines": {1: {"path": "./model"}}}, "engines: 1: it must be text, since it is a name"),
    ({"corpus": {"path": "corpus.parquet", 1: "x"}}, f"corpus.1: unknown key; there are: {CORPUS_KEYS}"),
    ({"saes.0.label": date(2024, 1, 12)}, f"saes[0].label: 2024-01-12 (a date; quote it where it is text): {LABEL}"),
    # several at once
    ({"corpus.tokens": 0, "corpus.column": 5, "examples.latents": "x"}, "corpus.column: 5: it must be text (and 2 more)"),
    # names that are not defined
    ({"explainers.llm.engine": "gpt"}, "explainers.llm.engine: 'gpt' is not under engines; there are: oracle"),
    ({"engines": {}}, "explainers.llm.engine: 'oracle' is not under engines; there are none"),
    (
        {"scorers.fuzzing.explainers": ["gpt"]},
        "scorers.fuzzing.explainers: 'gpt' is not under explainers; there are: llm, quotes",
    ),
    # names that something else has
    ({"explainers.none": {"kind": "extractive"}}, "explainers.none: the tables call something else 'none'; give it another name"),
    ({"explainers.effect": {"kind": "extractive"}}, "explainers.effect: the tables call something else 'effect'; give it another name"),
    ({"saes.0.label": "wide.random"}, "saes[0].label: 'wide.random' names a control; take a label that is none of them"),
    ({"saes.0.label": "a...b"}, f"saes[0].label: 'a...b': {LABEL}"),
    ({"saes.0.label": "a.."}, f"saes[0].label: 'a..': {LABEL}"),
    # what stands there twice
    ({"alignment": {"pairs": [["embed_tokens", "layers.0"]] * 2}, "saes.0.hookpoints": ["embed_tokens", "layers.0"]}, "alignment.pairs[1]: embed_tokens, layers.0 stand there twice; leave one out"),
    ({"saes.0.hookpoints": ["layers.0", "layers.0"]}, "saes[0].hookpoints: 'layers.0' stands there twice; leave one out"),
    ({"controls": {"random": {"layers": ["embed_tokens", "embed_tokens"]}}}, "controls.random.layers: 'embed_tokens' stands there twice; leave one out"),
    ({"scorers.fuzzing.explainers": ["llm", "llm"]}, "scorers.fuzzing.explainers: 'llm' stands there twice; leave one out"),
    ({"scorers.intervention.target_kl": [1, 1.0]}, "scorers.intervention.target_kl: two are called 1 in the tables; leave one out"),
    ({"scorers.intervention.target_kl": [0.1, 0.10000001]}, "scorers.intervention.target_kl: two are called 0.1 in the tables; leave one out"),
    # SAEs
    ({"saes.0.hookpoints": ["layers.7"]}, "saes[0].hookpoints: no SAE for 'layers.7' in saes; there are: embed_tokens, layers.0"),
    ({"saes": [{"path": "saes"}, {"path": "saes"}]}, "saes: embed_tokens appears twice; give one of the sources a label"),
    ({"saes.0.label": "a/b"}, f"saes[0].label: 'a/b': {LABEL}"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_a_mistake_is_named(complete_file: Path, changes: dict[str, Any], said: str) -> None:
    assert refusal(changed(complete_file, changes)) == said


def test_control_the_unchanged_study_is_fine(complete_file: Path) -> None:
    study = load_study(changed(complete_file, {}))
    assert [layer.key for layer in study.layers] == ["embed_tokens"]
    for label in ("wide", "v1.0-a..b", "wide.", "random.wide"):
        assert load_study(changed(complete_file, {"saes.0.label": label})).layers[0].key == f"embed_tokens@{label}"
    both = {"saes.0.hookpoints": ["embed_tokens", "layers.0"]}
    pairs = [["embed_tokens", "layers.0"], ["layers.0", "embed_tokens"]]
    assert load_study(changed(complete_file, both | {"alignment": {"pairs": pairs}})).alignment is not None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("subject_model.path", "./nowhere", "no such folder ({there}), and not a hub name like owner/model"),
        ("engines.oracle.path", "nowhere", "no such folder ({there}), and not a hub name like owner/model"),
        ("scorers.embedding.model", "../nowhere", "no such folder ({there}), and not a hub name like owner/model"),
        ("corpus.path", "nowhere.parquet", "no such file ({there})"),
        ("corpus.path", "./nowhere", "no such file ({there})"),
        ("corpus.path", "model", f"is a folder that holds no shards of text; what is read: {WHAT_IS_READ}"),
        ("corpus.path", "model/model.safetensors", f"is a .safetensors file; what is read: {WHAT_IS_READ}"),
        ("saes.0.path", "nowhere", "no such folder ({there}), and not a hub name like owner/name"),
        ("saes.0.path", "model", f"{{there}}: no SAE here or below; an SAE is {what_makes_one()}"),
    ],
)  # fmt: skip
def test_missing_files_are_named(complete_file: Path, key: str, value: str, said: str) -> None:
    message = refusal(changed(complete_file, {key: value}))
    there = (complete_file.parent / value).resolve()
    shown = key.replace("saes.0", "saes[0]")
    expected = said.format(there=there)
    assert message in (f"{shown}: {value}: {expected}", f"{shown}: {expected}")


def test_a_hub_name_is_not_looked_up(complete_file: Path) -> None:
    """Control for the above: owner/model may be there tomorrow, and is asked for when it is needed."""
    study = load_study(changed(complete_file, {"subject_model.path": "owner/model", "corpus.path": "owner/texts:en"}))
    assert study.local_folder(study.subject_model.path) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f"it is empty, a study is a mapping of settings; there are: {KEYS}"),
        ("# only a comment\n", f"it is empty, a study is a mapping of settings; there are: {KEYS}"),
        ("- saes\n", f"it is a list, a study is a mapping of settings; there are: {KEYS}"),
        ("saes: [\n", "line 2: not valid YAML (expected the node content, but found '<stream end>')"),
        ("corpus:\n\tpath: x\n", "line 2: not valid YAML (found character '\\t' that cannot start any token)"),
        ("name: a\nsaes: []\nname: b\n", "line 3: not valid YAML (name stands there twice)"),
        ("corpus:\n  tokens: {{ tokens }}\n", f"line 2: not valid YAML (a mapping {NO_KEY})"),
        ("? [a]\n: 1\n", f"line 1: not valid YAML (a list {NO_KEY})"),
        (
            "saes:\n- label: 2024-13-01\n",
            "line 2: not valid YAML ('2024-13-01' is no timestamp; if it is text, quote it)",
        ),
        ("name: 0b_\n", "line 1: not valid YAML ('0b_' is no int; if it is text, quote it)"),
        ("name: !!bool perhaps\n", "line 1: not valid YAML ('perhaps' is no bool; if it is text, quote it)"),
        ("corpus: !!map x\n", "line 1: not valid YAML (expected a mapping node, but found scalar)"),
        (
            "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(12)),
            "not valid YAML (its aliases stand for more than 100,000 values)",
        ),
        ("saes: &a\n- *a\n", "line 2: not valid YAML (*a stands within what it names)"),
        ("corpus: &a\n  <<: *a\n", "line 2: not valid YAML (*a stands within what it names)"),
        ("saes: " + 5000 * "[", "not valid YAML (it is nested too deep)"),
    ],
)
def test_what_is_no_study(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    assert refusal(file) == said


def test_control_an_alias_and_a_merge_are_fine(complete_file: Path) -> None:
    file = complete_file.with_name("alias.yaml")
    own = "budget: &most {tokens: 5, <<: {money: 1}}\n"
    file.write_text(f"{complete_file.read_text()}\n{own}")
    study = load_study(file)
    assert study.budget is not None
    assert (study.budget.tokens, study.budget.money) == (5, 1)
    file.write_text(f"{complete_file.read_text()}\n{own}automation: *most\n")
    assert refusal(file).startswith("automation.money: unknown key")


def test_no_such_file_and_no_text(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == "no such study file"
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    assert "not valid YAML" in refusal(tmp_path / "binary.yaml")


def test_a_single_sae_needs_its_hookpoint(complete_file: Path) -> None:
    """A folder that is one SAE does not say what it reads, unless its name does."""
    shutil.copytree(complete_file.parent / "saes" / "embed_tokens", complete_file.parent / "mine")
    single = {"path": "mine"}
    said = refusal(changed(complete_file, {"saes": [single]}))
    assert said.startswith("saes[0].hookpoints: missing; the files of mine in mine do not say")
    (layer,) = load_study(changed(complete_file, {"saes": [single | {"hookpoints": ["layers.1.mlp"]}]})).layers
    assert (layer.key, layer.location.folder.name) == ("layers.1.mlp", "mine")
    said = refusal(changed(complete_file, {"saes": [single | {"hookpoints": ["a", "b"]}]}))
    assert said == "saes[0].hookpoints: ['a', 'b'] are 2 places for the one SAE in mine"
    for name in ("layers.0", "embed_tokens"):
        (layer,) = load_study(changed(complete_file, {"saes": [{"path": f"saes/{name}"}]})).layers
        assert layer.key == name


def test_what_commands_call_a_study(complete_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `name` stands in the UI and in storage, and need not be its file's."""
    study = load_study(changed(complete_file, {"name": "another"}, "mine.yaml"))
    assert study.called == str(study.file)
    monkeypatch.setenv("INTERP_STUDIES", str(study.file.parent))
    assert study.called == "mine"
    assert find_study(study.called) == study
    other = load_study(study.file.rename(study.file.with_name("other.yml")))
    assert other.called == str(other.file)
    assert find_study(other.called) == other


def test_relative_paths(complete_file: Path, tmp_path: Path) -> None:
    """They start at the folder above `studies`, or at the file's own folder elsewhere; absolute ones stay."""
    root = complete_file.parent
    assert load_study(complete_file).root == root
    (root / "studies").mkdir(exist_ok=True)
    inside = shutil.copy(complete_file, root / "studies" / "with-hyphen.yaml")
    study = load_study(inside)
    assert study.path(study.corpus.path) == root / "corpus.parquet"
    assert study.path(study.storage) == root / "store"
    elsewhere = shutil.copy(complete_file, tmp_path / "study.yaml")
    assert refusal(elsewhere).startswith(f"subject_model.path: ./model: no such folder ({tmp_path / 'model'})")
    absolute = {"storage": str(tmp_path / "tables"), "name": LEFT_OUT}
    study = load_study(changed(complete_file, absolute, "with-hyphen.yaml"))
    assert study.path(study.storage) == tmp_path / "tables"
    assert study.name == "with_hyphen"


def test_every_format_can_be_named() -> None:
    assert get_args(SaeSource.model_fields["format"].annotation) == ("auto", *FORMATS)
