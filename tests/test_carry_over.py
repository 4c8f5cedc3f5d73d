"""Finer than a partition: of what is made anew, only the rows whose inputs moved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from interp_assets.freshness import Freshness
from interp_assets.study import Study, load_study
from interp_assets.tables import NOT_CONTENT
from resources.partition_files import Partition
from tests.changed_study import changed
from tests.conftest import make_all
from tests.many_latents import LATENTS, change_some, make_many
from tests.oracle import OracleEngine, OracleModels


def asked_and_made(study: Study) -> tuple[int, dict[str, Partition]]:
    """How many prompts an oracle is asked, and what is made."""
    oracle = OracleEngine()
    made = make_all(study, OracleModels(oracle))
    return len(oracle.prompts), made


def assert_equal_tables(mine: dict[str, Partition], anew: dict[str, Partition]) -> None:
    """Equal rows; scores to 1e-5, all else exactly."""
    assert set(mine) == set(anew)
    for asset, partition in mine.items():
        for table in partition.tables:
            if table == "page":
                continue
            ours, theirs = (each[asset].read(table).drop(NOT_CONTENT, strict=False) for each in (mine, anew))
            numbers = [name for name, dtype in ours.schema.items() if dtype in (pl.Float32, pl.Float64)]
            assert ours.drop(numbers).equals(theirs.drop(numbers)), (asset, table)
            for name in numbers:
                assert ours[name].is_null().equals(theirs[name].is_null())
                difference = (ours[name] - theirs[name]).abs().max()
                assert difference is None or difference < 1e-5, (asset, table, name)  # type: ignore[operator]


def elsewhere(study: Study, folder: Path) -> Study:
    return study.model_copy(update={"storage": str(folder)})


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = make_many(tmp_path_factory.mktemp("many"), "jumprelu")
    asked_and_made(load_study(file))
    return file


def test_ten_changed_latents_of_a_jumprelu_sae(many: Path, tmp_path: Path) -> None:
    root = shutil.copytree(many.parent, tmp_path / "world")
    study = load_study(root / "study.yaml")
    all_prompts, _ = asked_and_made(elsewhere(study, tmp_path / "control"))
    change_some(root, "jumprelu")
    asked, made = asked_and_made(study)
    assert 20 <= asked <= 0.02 * all_prompts
    done: dict[str, Any] = {name: partition.metadata for name, partition in made.items()}
    few = 0.02 * LATENTS
    assert 10 <= LATENTS - done["latent_statistics"]["latents_carried_over"] <= few
    assert 10 <= done["examples"]["latents_drawn"] <= few
    assert 10 <= done["explanations"]["explanations_made"] <= 2 * few
    assert 10 <= done["scores/detection"]["explanations_tested"] <= 2 * few
    assert 10 <= done["scores/embedding"]["texts_embedded"] <= 0.02 * 4 * LATENTS
    # And it is what is made from nothing.
    _, anew = asked_and_made(elsewhere(study, tmp_path / "anew"))
    assert_equal_tables(made, anew)


def test_control_without_an_earlier_generation_all_is_made(many: Path, tmp_path: Path) -> None:
    root = shutil.copytree(many.parent, tmp_path / "world")
    study = load_study(root / "study.yaml")
    change_some(root, "jumprelu")
    for folder in (root / "store").glob("scores/detection/*/*"):
        shutil.rmtree(folder)
    (root / "store" / "replies.sqlite").unlink()
    asked, made = asked_and_made(study)
    assert (
        made["scores/detection"].metadata["explanations_tested"]
        == made["scores/detection"].read("scores").select("latent", "explainer", "control").n_unique()
    )
    assert asked > LATENTS


def test_on_a_topk_sae_only_latents_whose_examples_changed(tmp_path: Path) -> None:
    study = load_study(make_many(tmp_path, "topk"))
    _, before = asked_and_made(study)
    change_some(tmp_path, "topk")
    _, after = asked_and_made(study)
    old, new = (
        each["examples"]
        .read("examples")
        .filter(purpose="explain")
        .group_by("latent", maintain_order=True)
        .all()
        .drop("decile")
        for each in (before, after)
    )
    moved = len(new) - len(new.join(old, on=new.columns, how="semi"))
    made = after["explanations"].metadata["explanations_made"]
    print(f"TopK: the explain examples of {moved / LATENTS:.1%} of the latents changed")
    assert made == 2 * moved
    assert 10 <= moved < LATENTS // 2


def test_an_added_explainer_makes_its_own_rows_only(tiny_file: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_file.parent, tmp_path / "world", ignore=shutil.ignore_patterns("store"))
    study = load_study(root / "study.yaml")
    asked_and_made(study)
    brief = {"kind": "llm", "engine": "oracle", "n_examples": 3}
    more = load_study(
        changed(root / "study.yaml", {"explainers.brief": brief, "scorers.detection.explainers": ["llm"]})
    )
    asked, made = asked_and_made(more)
    explained = made["explanations"].read("explanations").filter(explainer="brief", status="ok")
    # The oracle says the same in fewer words, so that what judges were asked about it was asked before.
    assert asked == len(explained) > 40
    assert made["scores/fuzzing"].metadata["explanations_tested"] == 2 * len(explained)
    assert made["scores/detection"].metadata["explanations_tested"] == 0
    # Back to the earlier setting: what was made then lies ready.
    freshness = Freshness(study)
    assert {state.state for state in freshness.states()} == {"fresh"}
    asked, made = asked_and_made(study)
    assert asked == 0


def test_an_sae_with_other_decoders_and_the_same_examples(
    tiny_file: Path, tiny_tables: dict[str, Partition], tmp_path: Path
) -> None:
    """Only what reads the weights themselves is made anew."""
    assert tiny_tables
    root = shutil.copytree(tiny_file.parent, tmp_path / "world")
    study = load_study(root / "study.yaml")
    before = make_all(study)
    file = root / "saes" / "embed_tokens" / "sae.safetensors"
    weights = load_file(file)
    save_file(weights | {"W_dec": weights["W_dec"] * 1.01}, file)
    planned = {state.asset: state.state for state in Freshness(study).states()}
    assert planned["scores/fuzzing"] == "stale"  # as far as one can know before
    asked, made = asked_and_made(study)
    assert asked == 0
    remade = {name for name in made if made[name].manifest != before[name].manifest}
    assert remade == {"sae_weights", "activation_cache", "latent_statistics", "score_report"}
    assert made["activation_cache"].content_hash == before["activation_cache"].content_hash


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("scorers.detection.instructions", "Decide.", {"scores/detection"}),
        ("explainers.llm.instructions", "Say what it is.", {"explanations", "scores/detection", "scores/fuzzing"}),
        ("engines.oracle.price.input", 3.0, set()),
        ("budget.money", 7.0, set()),
        ("engines.oracle.batch_size", 2, set()),
    ],
)
def test_what_a_change_costs(
    tiny_file: Path, tiny_tables: dict[str, Partition], tmp_path: Path, key: str, value: object, stages: set[str]
) -> None:
    assert tiny_tables
    root = shutil.copytree(tiny_file.parent, tmp_path / "world")
    before = Freshness(load_study(root / "study.yaml"))
    study = load_study(changed(root / "study.yaml", {key: value}))
    asked, made = asked_and_made(study)
    # A prompt of other words gets the same answer from the oracle: what lies behind is not made anew.
    stages = stages - {"scores/detection", "scores/fuzzing"} if key.startswith("explainers") else stages
    remade = {
        name
        for name, each in made.items()
        if each.fingerprint != before.current(name, each.manifest["partition"]).fingerprint
    }  # type: ignore[union-attr]
    assert remade == stages
    assert (asked > 0) == bool(stages)
