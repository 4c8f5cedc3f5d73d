"""scores/intervention, from the choice of prompts to the tables, on latents whose effect is known."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from interp_assets.activations.cache_file import CacheReader, Entries
from interp_assets.corpus.contexts import tokens_matrix
from interp_assets.engine_trial import asked_in, made_up, roles
from interp_assets.forecast import forecast
from interp_assets.freshness import Freshness
from interp_assets.job import make_partition
from interp_assets.scores.intervention.prompts import SHORTEST_PROMPT, TooFewPrompts, choose_prompts, token_ids
from interp_assets.scores.intervention.search import MOST_STEPS, TOLERANCE, StrengthSearch
from interp_assets.setting_errors import StudyError
from interp_assets.settings import InterventionScorer
from interp_assets.study import Study, load_study
from resources.language_models.protocol import NOT_ASKED, GenerateRequest, LikelihoodRequest
from resources.partition_files import Partition
from resources.subject_model import SubjectModel
from tests.changed_study import changed
from tests.conftest import make_all
from tests.oracle import OracleEngine, OracleModels
from tests.planted_effects import HOOKPOINT, INTERVENTION, make_planted
from tests.test_interventions import distance
from tests.tiny import VOCABULARY

TARGETS = INTERVENTION["target_kl"]
NAME = "scores/intervention"


@pytest.fixture(scope="module")
def planted_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def planted(planted_file: Path) -> dict[str, Partition]:
    return make_all(load_study(planted_file))


@pytest.fixture
def world(planted_file: Path, planted: object, tmp_path: Path) -> Path:
    """A copy of the study with its tables."""
    return shutil.copytree(planted_file.parent, tmp_path / "world") / "study.yaml"


class Watched(OracleModels):
    """Counts how often the subject model is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.subjects = 0

    def get(self, identity: Any, load: Any) -> Any:
        self.subjects += identity[0] == "subject"
        return super().get(identity, load)


def remade(study: Study, models: OracleModels | None = None) -> Partition:
    return make_partition(study, NAME, HOOKPOINT, models or Watched()).partition


# --- what is found ---


def test_the_right_explanation_scores_and_a_shuffled_one_does_not(planted: dict[str, Partition]) -> None:
    scores = planted[NAME].read("scores").filter(pl.col("condition") != "zero_ablation")
    assert set(scores["statistic"]) == {"nats"}
    assert set(scores["status"]) == {"ok"}
    assert len(scores) == 2 * len(TARGETS) * INTERVENTION["latents"]
    right = scores.filter(pl.col("control") == "none")
    assert (right["value"] > 0).all()
    # At a KL of 0.1 a few words in eighty differ: ten prompts are not always enough to tell that from none.
    assert (right.filter(pl.col("condition") != "0.1")["low"] > 0).all()
    by_target = dict(right.group_by("condition").agg(pl.col("value").mean()).iter_rows())
    assert 0.5 < by_target["0.1"] < by_target["1"] < by_target["3"]
    shuffled = scores.filter(pl.col("control") == "shuffled")
    assert abs(float(shuffled["value"].mean())) < 0.5  # type: ignore[arg-type]


def test_the_explainer_sees_what_rises(planted: dict[str, Partition]) -> None:
    effects = planted[NAME].read("effects").filter(pl.col("condition") != "zero_ablation")
    for latent, text in effects.select("latent", "effect_explanation").iter_rows():
        assert text == f"the word {VOCABULARY[latent]}"


def test_scores_are_means_over_prompts(planted: dict[str, Partition]) -> None:
    trials, scores = planted[NAME].read("trials"), planted[NAME].read("scores")
    keys = ["latent", "control", "condition"]
    per_score = trials.group_by(keys).agg(pl.len(), pl.col("nats").mean(), pl.col("example").n_unique())
    joined = scores.join(per_score, on=keys)
    assert len(joined) == len(scores)
    assert (joined["len"] == INTERVENTION["score_prompts"]).all()
    assert (joined["example"] == joined["len"]).all()
    np.testing.assert_allclose(joined["value"], joined["nats"])
    one = trials.filter((pl.col("latent") == scores["latent"][0]) & (pl.col("condition") == "0.1"))
    nats = one.filter(pl.col("control") == "none")["nats"].to_numpy()
    row = scores.filter((pl.col("condition") == "0.1") & (pl.col("control") == "none")).row(0, named=True)
    half = 2.262157 * nats.std(ddof=1) / math.sqrt(len(nats))  # Student's t, 9 degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx((nats.mean() - half, nats.mean() + half))


def prompts_of(study: Study, planted: dict[str, Partition], latent: int, with_firing: bool = False) -> list[list[int]]:
    tokens = tokens_matrix(planted["corpus"].read("corpus", ["tokens"]))
    settings = study.scorers.intervention
    assert settings is not None
    chosen = choose_prompts(
        CacheReader(planted["activation_cache"]).latent(latent), tokens.shape[1], settings, study.examples.seed
    )
    return [token_ids(tokens, place, 0, with_firing) for place in chosen.all]


@torch.inference_mode()
def next_token(
    subject: SubjectModel, prompts: list[list[int]], change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Logits behind each prompt by itself, from a full pass whose last position is changed at the hookpoint."""

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :-1], change(output[:, -1:])], dim=1)

    handle = subject.modules[HOOKPOINT].register_forward_hook(hook)
    try:
        return torch.stack([subject.model(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in prompts])
    finally:
        handle.remove()


def test_strengths_reach_their_targets(planted_file: Path, planted: dict[str, Partition]) -> None:
    """By full passes of their own; and the KL grows with the strength."""
    study = load_study(planted_file)
    subject = SubjectModel(planted_file.parent / "model", None, "float32", "cpu")
    effects = planted[NAME].read("effects").filter(pl.col("condition") != "zero_ablation")
    latents = effects["latent"].unique().sort().to_list()[:2]
    for latent, condition, strength, kl in effects.select("latent", "condition", "strength", "kl").iter_rows():
        if latent not in latents:
            continue
        prompts, row = prompts_of(study, planted, latent), torch.eye(len(VOCABULARY), 56)[latent]
        clean = next_token(subject, prompts, lambda x: x)
        curve = [
            float(distance(clean, next_token(subject, prompts, lambda x, step=s * row: x + step)).mean())  # type: ignore[misc]
            for s in (strength / 3, strength, strength * 3)
        ]
        assert curve[1] == pytest.approx(float(condition), rel=TOLERANCE)
        assert curve[1] == pytest.approx(kl, rel=1e-3)
        assert curve == sorted(curve)


def test_zero_ablation_takes_away_what_is_there(planted_file: Path, planted: dict[str, Partition]) -> None:
    """On prompts that end with the token on which the latent fires; before it there would be nothing to take away."""
    study = load_study(planted_file)
    subject = SubjectModel(planted_file.parent / "model", None, "float32", "cpu")
    effects = planted[NAME].read("effects").filter(pl.col("condition") == "zero_ablation")
    latent, kl = effects.select("latent", "kl").row(0)
    prompts = prompts_of(study, planted, latent, with_firing=True)
    assert {ids[-1] for ids in prompts} == {latent}

    def without(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[..., latent] = 0.0  # its direction is this axis alone, on which b_dec is 0
        return x

    clean, ablated = next_token(subject, prompts, lambda x: x), next_token(subject, prompts, without)
    assert float(distance(clean, ablated).mean()) == pytest.approx(kl, rel=1e-3)
    assert kl > 0.5
    assert effects["strength"].null_count() == len(effects)
    assert (ablated[:, latent] < clean[:, latent] - 1).all()


def test_passages_go_on_from_their_prompt_with_common_noise(planted: dict[str, Partition]) -> None:
    passages = planted[NAME].read("passages")
    for prompt, clean, other in passages.select("prompt", "clean", "changed").iter_rows():
        for text in (clean, other):
            assert text.startswith(prompt)
            # BOS is no part of a text, so where the model writes it there are fewer words.
            assert 0 < len(text.split()) - len(prompt.split()) <= 8
    by_prompt = passages.filter(pl.col("condition") != "zero_ablation").group_by("latent", "example")
    assert set(by_prompt.agg(pl.col("clean").n_unique())["clean"]) == {1}
    # What is moved little goes on alike nearly always; from seeds of their own half of them would differ at once.
    weak = passages.filter(pl.col("condition") == "0.1")
    pairs = [(prompt, clean, other) for prompt, clean, other in weak.select("prompt", "clean", "changed").iter_rows()]
    first = [[text.removeprefix(prompt).split()[:1] for text in (clean, other)] for prompt, clean, other in pairs]
    assert np.mean([clean == other for clean, other in first]) > 0.8


# --- latents without a score ---


def test_latents_that_cannot_be_scored_have_a_reason(world: Path) -> None:
    changes = {"examples.latents": [0, 20], "scorers.intervention.target_kl": [0.1, 50.0]}
    made = remade(load_study(changed(world, changes)))
    effects = made.read("effects")
    assert len(effects) == 2 * 3
    rows = {(row["latent"], row["condition"]): row for row in effects.iter_rows(named=True)}
    for condition in ("0.1", "50", "zero_ablation"):
        assert rows[0, condition]["status"] == "too_few_prompts"
        assert rows[0, condition]["reason"].startswith("0 contexts with 8 or more tokens before the latent fires; ")
    assert rows[20, "0.1"]["status"] == "ok"
    assert rows[20, "50"]["status"] == "out_of_reach"
    assert rows[20, "50"]["reason"].startswith("a KL of 50 is not reached: it is ")
    scores = made.read("scores").filter(pl.col("status") != "ok")
    assert len(scores) == 4
    assert scores["value"].null_count() == 4
    assert set(scores["reason"]) == set(effects.filter(pl.col("status") != "ok")["reason"])


def test_a_reply_that_is_no_explanation_is_a_row(world: Path) -> None:
    class Mute(OracleEngine):
        identity = "mute"

        def answer(self, messages: Any, asked: str) -> str:
            return "no"

    shutil.rmtree(world.parent / "store" / NAME)
    for file in world.parent.glob("store/replies.sqlite*"):
        file.unlink()
    study = load_study(world)
    made = remade(study, OracleModels(Mute()))
    assert set(made.read("effects")["status"]) == {"failed"}
    assert set(made.read("effects")["raw_reply"]) == {"no"}
    assert made.read("trials").is_empty()
    assert set(made.read("scores")["status"]) == {"failed"}


def test_a_budget_leaves_the_rest_for_later(world: Path, planted: dict[str, Partition]) -> None:
    shutil.rmtree(world.parent / "store" / NAME)
    for file in world.parent.glob("store/replies.sqlite*"):
        file.unlink()
    made = remade(load_study(changed(world, {"budget": {"tokens": 60_000}})))
    waiting = made.metadata["not_asked"]
    assert 0 < waiting < len(planted[NAME].read("trials"))
    assert set(made.read("trials").filter(pl.col("status") == "not_asked")["reason"]) == {NOT_ASKED}
    oracle = Watched()
    more = remade(load_study(changed(world, {"budget": {"tokens": 10_000_000}})), oracle)
    assert more.metadata["not_asked"] == 0
    assert more.read("scores").equals(planted[NAME].read("scores"))
    assert oracle.subjects == 0


# --- what is made anew ---


def test_batches_of_latents_change_nothing(world: Path, planted: dict[str, Partition]) -> None:
    shutil.rmtree(world.parent / "store" / NAME)
    made = remade(load_study(changed(world, {"scorers.intervention.batch_latents": 1})))
    for table in ("passages", "trials", "scores"):
        assert made.read(table).drop("inputs_hash").equals(planted[NAME].read(table).drop("inputs_hash")), table


def test_only_what_changed_is_made_anew(world: Path, planted: dict[str, Partition]) -> None:
    models = Watched()
    made = remade(load_study(changed(world, {"scorers.intervention.shuffled_control": False})), models)
    assert (models.subjects, models.oracle.prompts) == (0, [])
    real = planted[NAME].read("scores").filter(pl.col("control") == "none")
    assert made.read("scores").equals(real)

    more = INTERVENTION["latents"] + 2
    grown = remade(load_study(changed(world, {"scorers.intervention.latents": more})), models)
    assert grown.metadata["latents_carried_over"] == INTERVENTION["latents"]
    assert models.subjects == 1
    assert set(grown.read("effects")["latent"]) > set(real["latent"])
    kept = grown.read("scores").filter((pl.col("control") == "none") & pl.col("latent").is_in(real["latent"].implode()))
    assert kept.equals(real)


def test_another_strength_is_another_effect(world: Path) -> None:
    models = Watched()
    made = remade(load_study(changed(world, {"scorers.intervention.new_tokens": 4})), models)
    assert made.metadata["latents_carried_over"] == 0
    assert models.subjects == 1


def test_the_plan_is_an_upper_bound(world: Path, planted: dict[str, Partition]) -> None:
    shutil.rmtree(world.parent / "store" / NAME)
    freshness = Freshness(load_study(world))
    state = next(each for each in freshness.states() if each.asset == NAME)
    bound = forecast(freshness, state)
    assert not bound.exact
    assert bound.llm_calls is not None and bound.prompt_tokens is not None
    assert bound.llm_calls >= planted[NAME].metadata["llm_calls"]
    assert bound.prompt_tokens > 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scorers.intervention.explainer": "nobody"}, "scorers.intervention.explainer: 'nobody' is not under engines"),
        ({"scorers.intervention.scorer": "nobody"}, "scorers.intervention.scorer: 'nobody' is not under engines"),
        (
            {"scorers.intervention.prompt_tokens": 65},
            "scorers.intervention.prompt_tokens: 65 is more than corpus.context_length, 64",
        ),
    ],
)
def test_settings_that_do_not_fit(world: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(StudyError) as error:
        load_study(changed(world, changes))
    assert told in str(error.value)


# --- prompts ---

SETTINGS = InterventionScorer(explainer="a", scorer="b", prompt_tokens=32, explain_prompts=10, score_prompts=30)


def random_entries(contexts: int = 120, length: int = 64, rate: float = 0.02) -> Entries:
    draw = np.random.default_rng(0)
    context, position = np.nonzero(draw.random((contexts, length)) < rate)
    activation = draw.gamma(2.0, size=len(context)).astype(np.float32)
    return Entries(
        np.full(len(context), 7, np.uint32), context.astype(np.uint32), position.astype(np.uint16), activation
    )


def test_prompts_end_before_the_latent_fires_and_share_no_context() -> None:
    entries = random_entries()
    chosen = choose_prompts(entries, 64, SETTINGS, seed=0)
    assert (len(chosen.explain), len(chosen.score)) == (10, 30)
    assert len({place.context for place in chosen.all}) == 40
    fires = set(zip(entries.context.tolist(), entries.position.tolist(), strict=True))
    for context, start, first in chosen.all:
        assert start % 32 == 0
        assert start + SHORTEST_PROMPT <= first < start + 32
        assert (context, first) in fires
        assert not fires & {(context, position) for position in range(start, first)}


def test_prompts_come_evenly_from_quintiles() -> None:
    entries = random_entries(contexts=400)
    chosen = choose_prompts(entries, 64, SETTINGS, seed=0)
    strongest = {}
    for context, position, activation in zip(entries.context, entries.position, entries.activation, strict=True):
        key = (int(context), int(position) // 32 * 32)
        strongest[key] = max(strongest.get(key, 0.0), float(activation))
    peaks = [[strongest[place.context, place.start] for place in side] for side in (chosen.explain, chosen.score)]
    limits = np.quantile(list(strongest.values()), [0.2, 0.4, 0.6, 0.8])
    for side, per_quintile in zip(peaks, (2, 6), strict=True):
        counts = np.bincount(np.searchsorted(limits, side), minlength=5)
        # The quintiles are those of one window of each context; all windows together have nearly the same.
        assert np.abs(counts - per_quintile).max() <= 2
    assert chosen == choose_prompts(entries, 64, SETTINGS, seed=0)
    assert chosen != choose_prompts(entries, 64, SETTINGS, seed=1)


def test_a_latent_that_fires_too_early_has_no_prompts() -> None:
    entries = random_entries(rate=0.5)
    with pytest.raises(TooFewPrompts, match="explain_prompts and score_prompts are 40 together"):
        choose_prompts(entries, 64, SETTINGS, seed=0)


# --- the search ---

CURVES: dict[str, Callable[[float], float]] = {
    "square": lambda s: 0.01 * s**2,
    "saturating": lambda s: 8 * s**2 / (400 + s**2),
    "steep": lambda s: 6 / (1 + math.exp(-8 * (math.log10(s) - 1.3))),
    "tiny units": lambda s: (300 * s) ** 2,
    "huge units": lambda s: (s / 700) ** 1.5,
}


@pytest.mark.parametrize("curve", CURVES.values(), ids=[*CURVES])
@pytest.mark.parametrize("begin_at", [0.0, 0.01, 5.0, 1e6])
def test_every_target_is_found_in_few_steps(curve: Callable[[float], float], begin_at: float) -> None:
    search, steps = StrengthSearch((0.1, 0.33, 1.0, 3.0), begin_at), 0
    while (strength := search.strength) is not None:
        assert 1e-3 <= strength <= 1e4 * (1 + 1e-9)
        search.tell(curve(strength))
        steps += 1
    assert not search.failed
    for target, strength in search.found.items():
        assert abs(curve(strength) - target) <= TOLERANCE * target
    assert steps <= 24


@pytest.mark.parametrize(
    ("curve", "told"),
    [
        (lambda s: 0.5 * s / (1 + s), "a KL of 3 is not reached: it is 0.5 at strength 1e4"),
        (lambda s: 9.0, "the KL is 9 already at strength 1e-3, more than 3"),
        (lambda s: 0.0 if s < 7 else 9.0, f"after {MOST_STEPS} steps of the search the KL is "),
        (lambda s: 0.0, "a KL of 3 is not reached: it is 1e-12 at strength 1e4"),
    ],
)
def test_a_search_without_end_ends(curve: Callable[[float], float], told: str) -> None:
    search, steps = StrengthSearch((3.0,), 1.0), 0
    while (strength := search.strength) is not None:
        search.tell(curve(strength))
        steps += 1
    assert search.failed[3.0].startswith(told)
    assert steps <= MOST_STEPS


@pytest.mark.parametrize(
    ("engine", "kinds"),
    [("oracle", {GenerateRequest, LikelihoodRequest}), ("reads", {LikelihoodRequest}), ("writes", {GenerateRequest})],
)
def test_its_engines_are_tried_with_what_they_will_be_asked(world: Path, engine: str, kinds: set[type]) -> None:
    one = {"kind": "transformers", "path": "./model"}
    both = (
        {"explainer": "oracle", "scorer": "oracle"}
        if engine == "oracle"
        else {"explainer": "writes", "scorer": "reads"}
    )
    settings = {f"scorers.intervention.{name}": value for name, value in (both | {"max_tokens": 40}).items()}
    study = load_study(changed(world, settings | {"engines": dict.fromkeys(("oracle", "reads", "writes"), one)}))
    assert roles(study, engine) == ["intervening"]
    asked = made_up(study, engine, "intervening")
    assert len(asked) == 20
    assert {type(request) for request in asked} == kinds
    assert not set(map(repr, asked)) & set(map(repr, made_up(study, engine, "intervening")))
    assert [state.asset for state in asked_in(Freshness(study), engine, "intervening")] == ["scores/intervention"]
