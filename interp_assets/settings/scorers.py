"""How explanations are tested.

What several scorers have in common:

    engine                       a name under `engines`: who answers
    explainers                   whose explanations are scored; all when left out
    latents                      at most so many of those that could be scored, the first in the keyed order
    activating, non_activating   test windows asked about, on which the latent fires and on which it does not
    shuffled_control             score another latent's explanation on the same windows as well, for comparison
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from interp_assets.settings.base import Dtype, Layout, Settings, device, identity, operational
from interp_assets.settings.examples import NegativeKinds

ListSize = Annotated[int, Field(ge=2)]


def first_latents() -> Any:
    """A field: at most so many of the latents that could be scored, the first in the keyed order; all when left out."""
    return identity(None, ge=1, where_set=True)


class EmbedderSettings(Settings):
    """Which sentence embedder compares texts, and where it runs."""

    model: str = operational()
    "A sentence-transformers folder or hub name."
    dtype: Dtype = identity("float32")
    device: str = device()
    batch_size: int = operational(64, ge=1)


class EmbeddingScorer(EmbedderSettings):
    """Cosine of explanation and example in the space of a sentence embedder; no LLM."""

    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    latents: int | None = first_latents()
    activating: int = identity(10, ge=1)
    non_activating: int = identity(10, ge=1)
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."
    shuffled_control: bool = identity(True)
    instruction: str = identity("")
    """Stands before each explanation in place of the embedder's own prompt for queries; for embedders that were trained
    with a retrieval instruction."""


class TokenEmbeddingScorer(EmbeddingScorer):
    """How near the tokens of an explanation lie to those of an example, in the space of a sentence embedder; no LLM."""

    reference_windows: int = identity(256, ge=2)
    "Windows of the corpus from which is told what all vectors of tokens have in common."


class TokenFuzzingScorer(TokenEmbeddingScorer):
    """The same of what is marked in an example: rightly, or where the latent is silent."""

    mark_threshold: float = identity(0.3, ge=0, lt=1)
    "Tokens above this share of an example's maximum are marked."


class RerankerScorer(EmbedderSettings):
    """What a sentence-transformers CrossEncoder, which reads explanation and example together, makes of the two."""

    model: str = operational()
    "A folder of a CrossEncoder, or its hub name."
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    latents: int | None = first_latents()
    activating: int = identity(10, ge=1)
    non_activating: int = identity(10, ge=1)
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."
    shuffled_control: bool = identity(True)


class ExampleEmbeddingScorer(EmbedderSettings):
    """Cosine of examples and the mean of others of the same latent; needs no explanation, as a mark for those that do."""

    latents: int | None = first_latents()
    examples: int = identity(10, ge=1)
    "Of the examples that explainers see: so many, spread over their strengths, stand for the latent."
    activating: int = identity(10, ge=1)
    non_activating: int = identity(10, ge=1)
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."
    shuffled_control: bool = identity(True)
    "Also with the examples of another latent."


class Sequential(Settings):
    """Ask no more about an explanation than it takes to know its balanced accuracy well enough."""

    half_width: float = identity(0.1, gt=0, lt=0.5)
    "Nothing more is asked once half the width of the interval is at most this."
    pairs_per_round: int = identity(5, ge=1)
    "So many activating and as many other examples are asked before the interval is looked at again."


class PromptSizes(Settings):
    """How many examples a prompt takes is tried on some explanations of each layer."""

    candidates: tuple[ListSize, ...] = identity((2, 5, 10), min_length=1)
    latents: int = identity(20, ge=1)
    "Explanations that are judged with single prompts and with each candidate, drawn by a keyed hash."
    tolerance: float = identity(0.02, ge=0, lt=0.5)
    "The largest candidate is used whose balanced accuracy differs on average by no more than this; else single prompts."


class JudgeScorer(Settings):
    """Detection or fuzzing: a language model judges single examples against the explanation."""

    engine: str = identity()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    "Which explainers are scored; all when left out."
    latents: int | None = first_latents()
    activating: int = identity(50, ge=1)
    non_activating: int = identity(50, ge=1)
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."
    protocol: Literal["single", "list"] = identity("single")
    "single: one example a prompt, answered by the probability of Yes. list: several a prompt, answered as a list."
    per_prompt: ListSize | PromptSizes = identity(5)
    "Examples in one prompt of the list protocol: a number, or how to find it."
    max_tokens: int | None = identity(None, ge=16, where_set=True)
    """Of one reply of the list protocol; when left out as many as the answers take, which leaves a model that thinks first no
    room to."""
    sequential: Sequential | None = identity(None)
    "With the single protocol: stop early where the answers allow it. Every example is asked when left out."
    mark_threshold: float = identity(0.3, ge=0, lt=1)
    "Fuzzing: tokens above this share of an example's maximum are marked."
    marks: Literal["pattern", "matched"] = identity("pattern")
    """Fuzzing: what wrong marks have in common with right ones. pattern: where they stand and how many there are, so that an
    explanation that names no more than a kind of token, as digits or commas, may tell them apart, as in the literature.
    matched: the kinds of the tokens as well, so that it has to say more. That takes silent tokens of the same kinds: trials
    of which there are none are left out, one in twenty to one in ten, mostly of latents that fire on every token of a kind or
    with many marks. As such latents would hardly be tested, and as a judge is not trained on what tells right marks from
    wrong ones whatever the latent, pattern is the default. `benchmarks.marks` measures what either gives away."""
    instructions: str | None = identity(None)
    "Stands in place of our own instructions and worked examples."
    layout: Layout | None = identity(None, where_set=True)
    """With the single protocol, where worked examples stand: as turns of user and assistant, the default, or inside the
    system message. `benchmarks.judge_prompts` measures both for a judge."""
    shuffled_control: bool = identity(True)

    @property
    def list_sizes(self) -> PromptSizes | None:
        """How to find the number of examples in a prompt, where the study does not name it."""
        return self.per_prompt if self.protocol == "list" and isinstance(self.per_prompt, PromptSizes) else None

    @property
    def list_size(self) -> int:
        """Of a scorer whose study names it, or of which it has been found."""
        assert isinstance(self.per_prompt, int)
        return self.per_prompt


class SurprisalScorer(Settings):
    """How much an explanation raises the probability of examples, in nats, for a base model that continues text."""

    engine: str = identity()
    "Best a base model."
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    latents: int | None = first_latents()
    activating: int = identity(50, ge=1)
    non_activating: int = identity(50, ge=1)
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."
    shuffled_control: bool = identity(True)


class SimulationScorer(Settings):
    """A language model that reads the explanation foresees how active each token is, from 0 to 10."""

    engine: str = identity()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    latents: int | None = first_latents()
    mode: Literal["all_at_once", "token_by_token"] = identity("all_at_once")
    """all_at_once: one prompt an example, answered by a list of numbers. token_by_token: one prompt a token, answered
    by the probabilities of the numbers, whose expectation is taken; finer, and costlier by the length of a window."""
    max_tokens: int | None = identity(None, ge=16, where_set=True)
    """Of one reply of all_at_once; when left out as many as the numbers take, which leaves a model that thinks first no room
    to."""
    activating: int = identity(10, ge=1)
    non_activating: int = identity(10, ge=0)
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."
    shuffled_control: bool = identity(True)


class GenerationScorer(Settings):
    """A language model writes texts that the explanation fits; on how many of them does the latent fire?"""

    engine: str = identity()
    explainers: tuple[str, ...] | None = identity(None, min_length=1)
    latents: int | None = first_latents()
    texts: int = identity(10, ge=1)
    max_tokens: int = identity(1000, ge=16)
    "Of the reply that holds all texts of one explanation."
    shuffled_control: bool = identity(True)


class IntruderScorer(Settings):
    """A language model finds among examples of a latent the one on which it is silent; no explanation is read."""

    engine: str = identity()
    latents: int | None = first_latents()
    shown: int = identity(4, ge=2, le=8)
    "Activating examples in one prompt, beside one intruder; chance is 1 / (shown + 1)."
    activating: int = identity(40, ge=2)
    "Each is shown once, so that there are activating / shown prompts of a latent."
    non_activating: int = identity(10, ge=1)
    "Each is the intruder once; there are no more prompts than these."
    negatives: NegativeKinds | None = identity(None, where_set=True)
    "Which of the negatives drawn are asked about; when left out random ones, or all where none are random."


class InterventionScorer(Settings):
    """What changing a latent does to what the model writes, and whether an explanation of that effect foresees it."""

    explainer: str = identity()
    "A name under `engines`: who explains the effect, from the tokens that become more probable."
    scorer: str = identity()
    "A name under `engines`: whose log-probability of the explanation is compared; best a base model."
    latents: int | None = identity(100, ge=1)
    "At most so many of the interpreted latents (the first in the keyed order); null for all."
    prompt_tokens: int = identity(64, ge=8)
    "Length of the windows that prompts are cut from."
    explain_prompts: int = identity(10, ge=1)
    score_prompts: int = identity(30, ge=2)
    target_kl: tuple[Annotated[float, Field(gt=0)], ...] = identity((0.1, 0.33, 1.0, 3.0), min_length=1)
    "How far the next-token distribution is moved, in nats: mean KL over prompts; a strength is found for each."
    zero_ablation: bool = identity(False)
    "Also take the latent away, where it is active."
    new_tokens: int = identity(8, ge=1)
    "Written behind each prompt, at temperature 1."
    shown_tokens: int = identity(5, ge=1)
    "How many of the largest increases in probability the explainer sees of each prompt."
    max_tokens: int = identity(64, ge=8)
    "Of the explanation."
    shuffled_control: bool = identity(True)
    batch_latents: int = operational(8, ge=1)
    "Latents whose prompts are run together."

    @property
    def conditions(self) -> tuple[str, ...]:
        """What is done to each latent, by the name that the tables use."""
        return (*(f"{target:g}" for target in self.target_kl), *((ZERO_ABLATION,) if self.zero_ablation else ()))


ZERO_ABLATION = "zero_ablation"

ExplanationScorer = (
    EmbeddingScorer | RerankerScorer | JudgeScorer | SurprisalScorer | SimulationScorer | GenerationScorer
)
"Scorers that test explanations of the study's explainers."

WindowScorer = (
    EmbeddingScorer
    | RerankerScorer
    | JudgeScorer
    | SurprisalScorer
    | SimulationScorer
    | IntruderScorer
    | ExampleEmbeddingScorer
)
"Scorers that look at test windows, on which a latent is active or not."

Scorer = ExplanationScorer | InterventionScorer | IntruderScorer | ExampleEmbeddingScorer


class Scorers(Settings):
    token_embedding: TokenEmbeddingScorer | None = identity(None)
    token_fuzzing: TokenFuzzingScorer | None = identity(None)
    embedding: EmbeddingScorer | None = identity(None)
    detection: JudgeScorer | None = identity(None)
    fuzzing: JudgeScorer | None = identity(None)
    surprisal: SurprisalScorer | None = identity(None)
    simulation: SimulationScorer | None = identity(None)
    generation: GenerationScorer | None = identity(None)
    intervention: InterventionScorer | None = identity(None)
    intruder: IntruderScorer | None = identity(None)
    example_embedding: ExampleEmbeddingScorer | None = identity(None)
    reranker: RerankerScorer | None = identity(None)

    def chosen(self) -> dict[str, Scorer]:
        return {name: scorer for name in type(self).model_fields if (scorer := getattr(self, name)) is not None}
