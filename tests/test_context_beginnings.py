"""How contexts begin and how long they may be: BOS by name, tokens that are skipped, attention sinks, positions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from interp_assets.activations import harvest
from interp_assets.activations.attention_sinks import attention_sink
from interp_assets.asset import Asset
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.corpus.positions import beyond_positions
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.running import Runner
from interp_assets.settings import Corpus
from interp_assets.study import Study, load_study
from resources.control_tokens import bos_id
from resources.errors import UnusableInput
from resources.loaded_models import LoadedModels
from resources.partition_files import Partition
from tests.changed_study import changed
from tests.families import SMALL
from tests.refusals import make, refused
from tests.tiny import HIDDEN, VOCABULARY, make_corpus, make_tokenizer, write_study

PLACE, LENGTH, POSITIONS = "h.0", 32, 40
SINK = 60.0
"Added along the first dimension at the first position of each context."


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a GPT-2 whose first learned position is far from the others, and of an SAE that reads all dimensions."""
    root = tmp_path_factory.mktemp("beginnings")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=HIDDEN,
        n_layer=1,
        n_head=4,
        n_positions=POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wte.weight.copy_(5 * torch.eye(len(VOCABULARY), HIDDEN))
        model.transformer.wpe.weight[0, 0] += SINK
    model.save_pretrained(root / "model")
    tokenizer = make_tokenizer(VOCABULARY)
    tokenizer.bos_token, tokenizer.eos_token = None, "<s>"  # as tokenizers have it that know the end of texts alone
    tokenizer.save_pretrained(root / "model")
    make_corpus(root / "corpus.parquet")
    both = torch.cat([torch.eye(HIDDEN), -torch.eye(HIDDEN)])
    folder = root / "saes" / PLACE
    folder.mkdir(parents=True)
    weights = {"encoder.weight": both, "encoder.bias": torch.zeros(len(both)), "W_dec": both.clone()}
    save_file(weights | {"b_dec": torch.zeros(HIDDEN)}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(
        json.dumps({"d_in": HIDDEN, "num_latents": len(both), "k": HIDDEN, "activation": "topk"})
    )
    write_study(
        root / "study.yaml",
        saes=[{"path": "saes", "hookpoints": [PLACE]}],
        corpus={"path": "corpus.parquet", "tokens": 2048, "context_length": LENGTH, "separator": " ", "bos": False},
        proof_of_load={"tokens": 512, "compare_layers": False},
        explainers={"extractive": {"kind": "extractive"}},
        engines={},
        scorers={},
    )
    return root


def cache(root: Path, **changes: object) -> tuple[Partition, pl.DataFrame]:
    changed(root / "study.yaml", {f"corpus.{name}": value for name, value in changes.items()}, "study.yaml")
    made = make(root, "activation_cache", PLACE)
    return made, made.read("activations").sort("latent", "context", "position")


# decoderesearch/SAELens #333: what SAEs do on the first token is none of what they were trained for.
def test_what_latents_do_on_the_first_tokens_is_dropped_where_it_is_asked_for(world: Path) -> None:
    whole, entries = cache(world)
    assert set(entries["position"].to_list()) == set(range(LENGTH))
    made, kept = cache(world, skip_first=2)
    assert kept.equals(entries.filter(pl.col("position") >= 2))
    corpus = Freshness(load_study(world / "study.yaml"))
    assert corpus.own_state(corpus.assets["corpus"], None)[0] == "fresh"  # the text is what it was
    # Rates by hand: firings over the positions that count.
    tokens = tokens_matrix(make(world, "corpus").read("corpus", ["tokens"]))
    statistics = make(world, "latent_statistics", PLACE).read("statistics")
    counts = np.bincount(kept["latent"].to_numpy(), minlength=2 * HIDDEN)
    np.testing.assert_allclose(statistics["firing_rate"].to_numpy(), counts / (len(tokens) * (LENGTH - 2)))
    strongest = kept.group_by("latent").agg(pl.col("activation").max()).sort("latent")
    alive = statistics.filter(~pl.col("dead")).sort("latent")
    assert alive["max_activation"].to_list() == strongest["activation"].to_list()
    windows = make(world, "examples", PLACE).read("examples").filter(pl.col("start") == 0, pl.col("status") == "ok")
    assert len(windows)
    assert {value for row in windows["activations"].to_list() for value in row[:2]} == {0.0}
    # The warning names the sink, and is gone where it is skipped.
    warning = whole.metadata["warning"]
    assert warning.startswith("the first token of each context is an attention sink: ")
    assert warning.endswith("corpus.skip_first: 1 leaves it out")
    assert "warning" not in made.metadata
    changed(world / "study.yaml", {"corpus.skip_first": 0}, "study.yaml")


class WithoutDagster:
    def __init__(self, study: Study) -> None:
        self.study = study

    def materialize(self, asset: Asset, key: str | None, why: str) -> None:
        make_partition(self.study, asset.name, key, LoadedModels(), [PLACE])


def test_the_warning_is_a_line_of_a_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study(world / "study.yaml")
    runner = Runner(study, [PLACE])
    runner._dagster = WithoutDagster(study)  # type: ignore[assignment]
    assets = Freshness(study).assets
    for name, key in (("sae_weights", PLACE), ("corpus", None), ("activation_cache", PLACE)):
        runner.make(assets[name], key, name if key is None else f"{name}[{key}]", "asked for", False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(f"warning  activation_cache[{PLACE}]: the first token of each")]


def test_a_sink_is_measured_where_it_is() -> None:
    draw = torch.Generator().manual_seed(0)
    even = torch.rand(6 * 16, 8, generator=draw) + 0.5
    even[:, 4:] = 0
    assert attention_sink(even, 16) == {}
    by_hand = even.clone().view(6, 16, 8)
    by_hand[:, :2] *= 9
    found = attention_sink(by_hand.view(-1, 8), 16)
    assert found["tokens"] == 2
    assert found["mean_activation"] == pytest.approx(float(by_hand[:, :2, :4].mean()), abs=1e-3)
    assert found["elsewhere"] == pytest.approx(float(by_hand[:, 2:, :4].mean()), rel=0.1)
    by_hand[:, 1] /= 9  # a later one alone is none: it does not begin the context
    assert attention_sink(by_hand.view(-1, 8), 16)["tokens"] == 1


def test_contexts_begin_with_a_token_that_is_named(world: Path) -> None:
    assert "the tokenizer has no BOS token; set bos: false, or name the token" in refused_with(world, bos=True)
    assert refused_with(world, bos="<|endoftext|>").endswith(
        "'<|endoftext|>' is no token of the tokenizer; its special tokens are: <s>, <unk>"
    )
    _, without = cache(world, bos=False)
    made, entries = cache(world, bos="<s>")
    tokens = tokens_matrix(make(world, "corpus").read("corpus", ["tokens"]))
    assert (tokens[:, 0] == 0).all() and (tokens[:, 1:] != 0).all()
    assert entries["position"].min() == 1
    assert "warning" not in made.metadata  # the first position is the named token's now, and dropped with it
    assert not entries.equals(without)
    _, entries = cache(world, bos="<s>", skip_first=1)
    assert entries["position"].min() == 2
    changed(world / "study.yaml", {"corpus.bos": False, "corpus.skip_first": 0}, "study.yaml")


def refused_with(root: Path, **corpus: object) -> str:
    changed(root / "study.yaml", {f"corpus.{name}": value for name, value in corpus.items()}, "study.yaml")
    with pytest.raises(UnusableInput) as caught:
        make(root, "corpus")
    return str(caught.value)


def test_bos_of_a_tokenizer() -> None:
    tokenizer = make_tokenizer(VOCABULARY)
    assert [bos_id(tokenizer, value) for value in (True, False, "<s>", "<unk>", VOCABULARY[7])] == [0, None, 0, 1, 7]
    with pytest.raises(UnusableInput, match="is no token"):
        bos_id(tokenizer, "<s> <s>")


def test_skipped_tokens_count_behind_bos() -> None:
    of = [Corpus(path="c.txt", bos=bos, skip_first=n).left_out for bos, n in ((True, 0), ("<s>", 2), (False, 2))]
    assert of == [1, 3, 2]


# Blaizzy/mlx-vlm #293 and huggingface/transformers #36832: Gemma 3 leaves the range of float16.
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_token_that_leaves_the_range_of_float16_behind_the_proof_of_load(
    world: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word, which the text of the proof of load lacks, makes a value above 65,504."""
    root = world.parent / f"overflow-{dtype}"
    root.mkdir()
    for name in ("saes", "model"):
        (root / name).symlink_to(world / name)
    rare = VOCABULARY[-1]
    common = " ".join(VOCABULARY[2:-1])
    texts = [common] * 40 + [f"{common} {rare}"] + [common] * 40
    pl.DataFrame({"text": texts}).write_parquet(root / "corpus.parquet")
    (root / "study.yaml").write_text((world / "study.yaml").read_text())
    (root / "model").unlink()
    (root / "model").mkdir()
    for file in (world / "model").iterdir():
        (root / "model" / file.name).write_bytes(file.read_bytes())
    weights = load_file(root / "model" / "model.safetensors")
    weights["transformer.wte.weight"][len(VOCABULARY) - 1, 3] = 60_000.0
    # Whatever the position adds: 60,000 + 60,000 is infinite in float16.
    weights["transformer.wpe.weight"][1:, 3] = 0.0
    weights["transformer.h.0.mlp.c_proj.bias"][3] = 60_000.0
    save_file(weights, root / "model" / "model.safetensors", {"format": "pt"})
    changed(
        root / "study.yaml",
        {"subject_model.dtype": dtype, "proof_of_load.max_fvu": 100.0, "corpus.skip_first": 1},
        "study.yaml",
    )
    if dtype == "float32":  # control: the token is there, and can be held
        found = make(root, "activation_cache", PLACE).read("activations")
        assert found["activation"].max() > 65_504
        return
    tokens = tokens_matrix(make(root, "corpus").read("corpus", ["tokens"]))
    (context, position), *others = np.argwhere(tokens == len(VOCABULARY) - 1).tolist()
    assert not others and position > 0 and context * LENGTH > 512
    reason = refused(root, "activation_cache", PLACE)
    assert f"{PLACE} holds values that are NaN or infinite on 1 of the " in reason
    assert f"first on token {position} of context {context};" in reason
    assert reason.endswith("float16 ends at 65,504: set subject_model.dtype: bfloat16")
    # Control: unless it is looked for, the token is lost as if nothing fired on it.
    monkeypatch.setattr(harvest, "check_finite", lambda *_: None)
    changed(root / "study.yaml", {"proof_of_load.tokens": 448}, "study.yaml")
    on_it = pl.col("context").eq(context) & pl.col("position").eq(position)
    found = make(root, "activation_cache", PLACE).read("activations")
    assert len(found.filter(on_it)) < 0.2 * len(found.filter(pl.col("context") == context - 1)) / (LENGTH - 1)


# shap/shap #2930 and huggingface/transformers #530: an IndexError, on a GPU a failed assertion of the device.
def test_contexts_longer_than_the_table_of_positions_are_refused_before_anything_is_tokenized(world: Path) -> None:
    said = refused_with(world, context_length=64)
    changed(world / "study.yaml", {"corpus.context_length": LENGTH}, "study.yaml")
    assert said == (
        f"corpus.context_length: 64 is more than the subject model's {POSITIONS} positions; set it to {POSITIONS} or less"
    )


def fails(family: str, length: int) -> bool:
    config = AutoConfig.for_model(family, **SMALL[family])
    model = AutoModelForCausalLM.from_config(config).eval()
    try:
        with torch.no_grad():
            model.base_model(torch.ones(1, length, dtype=torch.long))
    except (IndexError, RuntimeError):
        return True
    return False


LOOKS_UP: list[tuple[str, Callable[[int], bool]]] = [(name, lambda n, name=name: fails(name, n)) for name in SMALL]  # type: ignore[misc]


@pytest.mark.parametrize(("family", "fails_at"), LOOKS_UP, ids=list(SMALL))
def test_what_fails_beyond_its_positions_is_refused_and_what_runs_is_warned_of(
    family: str, fails_at: Callable[[int], bool]
) -> None:
    """What is right is what the model itself does with one token more."""
    config = AutoConfig.for_model(family, **SMALL[family]).get_text_config()
    positions = 128 if family != "gemma3" else config.max_position_embeddings
    assert beyond_positions(config, positions) is None
    assert not fails_at(128)
    if fails_at(129):
        with pytest.raises(UnusableInput, match="more than the subject model's 128 positions"):
            beyond_positions(config, 129)
    else:
        assert "never seen in training" in str(beyond_positions(config, positions + 1))
