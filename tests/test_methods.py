"""What holds of every scoring method: planted truths, nothing asked twice, nothing made that was not added."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.metrics import roc_auc_score

from interp_assets.engine_trial import made_up, roles
from interp_assets.examples.draws import first_latents
from interp_assets.forecast import forecast
from interp_assets.freshness import Freshness
from interp_assets.scores.methods import METHODS
from interp_assets.study import Study, load_study
from resources.partition_files import Partition
from tests.changed_study import LEFT_OUT, changed
from tests.conftest import make_all
from tests.methods_study import ADDED, make_methods
from tests.oracle import OracleEngine, OracleModels

STATISTIC = {
    "surprisal": ("auroc", 0.5),
    "simulation": ("pearson", 0.0),
    "generation": ("generation_rate", 0.0),
    "intruder": ("accuracy", 1 / 7),
    "example_embedding": ("auroc", 0.5),
    "token_embedding": ("auroc", 0.5),
    "token_fuzzing": ("auroc", 0.5),
}
"By which a method is judged here, and its chance."
CONTROLLED = [name for name, method in METHODS.items() if name in ADDED and name != "intruder"]
LEAST = {"example_embedding": 0.6, "intruder": 0.8}
"A random embedder sees one word among sixteen, but not clearly; by chance two texts lack a word that others have."
ASKING = [method for method, settings in ADDED.items() if "engine" in settings]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_methods(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def study(file: Path) -> Study:
    return load_study(file)


@pytest.fixture(scope="module")
def oracle() -> OracleEngine:
    return OracleEngine()


@pytest.fixture(scope="module")
def made(study: Study, oracle: OracleEngine) -> dict[str, Partition]:
    return make_all(study, OracleModels(oracle))


def mean(partition: Partition, control: str, statistic: str) -> float:
    wanted = (pl.col("control") == control) & (pl.col("statistic") == statistic)
    return partition.read("scores").filter(wanted)["value"].mean()


@pytest.mark.parametrize("method", STATISTIC)
def test_the_planted_truth_is_found_and_the_control_is_at_chance(made: dict[str, Partition], method: str) -> None:
    statistic, chance = STATISTIC[method]
    scores = made[f"scores/{method}"]
    assert mean(scores, "none", statistic) > LEAST.get(method, 0.99)
    if method in CONTROLLED:
        # Where wrong marks may stand on the other latent's word, its explanation fits them better than right ones.
        allowed = 0.15 if method == "token_fuzzing" else 0.08
        assert mean(scores, "shuffled", statistic) == pytest.approx(chance, abs=allowed)
    assert scores.read("scores").filter(pl.col("control") == "none")["latent"].n_unique() == 24
    assert scores.read("trials")["status"].unique().to_list() == ["ok"]


@pytest.mark.parametrize("method", ["surprisal", "example_embedding"])
def test_auroc_equals_scikit_learn(made: dict[str, Partition], method: str) -> None:
    trials, scores = made[f"scores/{method}"].read("trials"), made[f"scores/{method}"].read("scores")
    for (latent, control), group in trials.group_by("latent", "control"):
        (mine,) = scores.filter(latent=latent, control=control, statistic="auroc")["value"]
        assert mine == pytest.approx(roc_auc_score(group["expected"], group["probability"]))


@pytest.mark.parametrize("method", ADDED)
def test_adding_a_method_makes_that_method_only(
    file: Path, made: dict[str, Partition], tmp_path: Path, method: str
) -> None:
    assert made
    root = shutil.copytree(file.parent, tmp_path / "world")
    without = load_study(changed(root / "study.yaml", {f"scorers.{method}": LEFT_OUT}, "without.yaml"))
    make_all(without.model_copy(update={"name": "tiny"}), OracleModels())
    for folder in (root / "store" / "scores" / method, root / "store" / "pointers" / "tiny" / "scores" / method):
        shutil.rmtree(folder)
    states = {state.asset: state.state for state in Freshness(load_study(root / "study.yaml")).states()}
    assert states.pop(f"scores/{method}") == "missing"
    assert states.pop("score_report") in ("stale", "fresh")
    assert set(states.values()) == {"fresh"}


@pytest.mark.parametrize("method", ASKING)
def test_made_anew_from_the_log_alone(file: Path, made: dict[str, Partition], tmp_path: Path, method: str) -> None:
    root = shutil.copytree(file.parent, tmp_path / "world")
    shutil.rmtree(root / "store" / "scores" / method)
    study, oracle = load_study(root / "study.yaml"), OracleEngine()
    again = make_all(study, OracleModels(oracle))
    assert oracle.prompts == []
    assert again[f"scores/{method}"].content_hash == made[f"scores/{method}"].content_hash
    # Control: without the log it is asked.
    shutil.rmtree(root / "store" / "scores" / method)
    (root / "store" / "replies.sqlite").unlink()
    make_all(study, OracleModels(oracle))
    assert oracle.prompts


@pytest.mark.parametrize("method", ASKING)
def test_the_forecast_is_what_is_asked(file: Path, made: dict[str, Partition], tmp_path: Path, method: str) -> None:
    root = shutil.copytree(file.parent, tmp_path / "world")
    shutil.rmtree(root / "store" / "scores" / method)
    study = load_study(root / "study.yaml")
    (root / "store" / "replies.sqlite").unlink()
    freshness = Freshness(study)
    state = next(each for each in freshness.states() if each.asset == f"scores/{method}")
    told = forecast(freshness, state)
    oracle = OracleEngine()
    metadata = make_all(study, OracleModels(oracle))[f"scores/{method}"].metadata
    assert told.exact
    assert told.llm_calls == metadata["llm_calls"] == len(oracle.prompts) > 0


@pytest.mark.parametrize("method", ASKING)
def test_a_budget_leaves_the_rest_for_later(
    file: Path, made: dict[str, Partition], tmp_path: Path, method: str
) -> None:
    root = shutil.copytree(file.parent, tmp_path / "world")
    shutil.rmtree(root / "store" / "scores" / method)
    (root / "store" / "replies.sqlite").unlink()
    whole = made[f"scores/{method}"]
    half = whole.metadata["prompt_tokens"] // 2
    limited, free = OracleEngine(), OracleEngine()
    study = load_study(changed(root / "study.yaml", {"budget": {"tokens": half}, "name": "tiny"}, "limited.yaml"))
    part = make_all(study, OracleModels(limited))[f"scores/{method}"]
    statuses = set(part.read("trials")["status"])
    assert statuses == {"ok", "not_asked"}
    waiting = part.read("scores").filter(status="not_asked")
    assert len(waiting) and waiting["value"].null_count() == len(waiting)
    rest = make_all(load_study(changed(root / "study.yaml", {"name": "tiny"}, "free.yaml")), OracleModels(free))
    assert not set(limited.prompts) & set(free.prompts) or method == "surprisal"  # one prompt, many texts
    assert len(limited.prompts) + len(free.prompts) == whole.metadata["llm_calls"]
    assert rest[f"scores/{method}"].content_hash == whole.content_hash


@pytest.mark.parametrize("method", ASKING)
def test_an_engine_is_tried_with_prompts_of_the_method(file: Path, method: str) -> None:
    others = {f"scorers.{other}": LEFT_OUT for other in ADDED if other != method}
    alone = load_study(changed(file, others | {"explainers": {"quotes": {"kind": "extractive"}}}, f"{method}.yaml"))
    assert roles(alone, "oracle") == ["judging"]
    asked = made_up(alone, "oracle", "judging")
    assert len(asked) == 20
    # New ones each time, so that none is answered from the log.
    assert not set(map(repr, asked)) & set(map(repr, made_up(alone, "oracle", "judging")))


@pytest.mark.parametrize("method", ADDED)
def test_fewer_latents_are_the_first_ones_and_keep_what_was_scored(
    file: Path, made: dict[str, Partition], tmp_path: Path, method: str
) -> None:
    root = shutil.copytree(file.parent, tmp_path / "world")
    scored = {}
    for count in (5, 3):
        few = changed(root / "study.yaml", {f"scorers.{method}.latents": count, "name": "tiny"}, "few.yaml")
        oracle = OracleEngine()
        partition = make_all(load_study(few), OracleModels(oracle))[f"scores/{method}"]
        assert oracle.prompts == []
        assert partition.metadata["explanations_tested"] == 0
        scored[count] = partition.read("scores")
        # Of the latents that are left nothing has changed, their controls included.
        same = made[f"scores/{method}"].read("scores").filter(pl.col("latent").is_in(scored[count]["latent"].implode()))
        assert_frame_equal(scored[count], same, check_row_order=False)
    all_latents = sorted(set(made[f"scores/{method}"].read("scores")["latent"]))
    for count, table in scored.items():
        assert set(table["latent"]) == set(first_latents(0, all_latents, count))
    assert set(scored[3]["latent"]) < set(scored[5]["latent"])
