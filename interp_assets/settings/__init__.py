"""The settings that a study file may hold, section by section.

Each field is marked *identity* (it decides what the results are: it enters the fingerprints of the assets that read
it) or *operational* (it decides how they are reached: device, batch sizes, paths; it never does). Paths are
operational because files enter by their content.
"""

from interp_assets.settings.alignment import Alignment
from interp_assets.settings.automation import Automation, is_cron
from interp_assets.settings.base import Layout, Settings, device, identity, mark, operational
from interp_assets.settings.controls import Controls, NeuronsControl, RandomControl, UntrainedControl
from interp_assets.settings.engines import (
    Budget,
    Engine,
    LocalModel,
    OpenAIEngine,
    Price,
    TransformersEngine,
    VllmEngine,
)
from interp_assets.settings.examples import (
    Examples,
    ExplainExamples,
    NegativeKind,
    SimilarText,
    TestExamples,
    kinds_in,
)
from interp_assets.settings.explainers import (
    EFFECT_EXPLAINER,
    NO_EXPLAINER,
    Explainer,
    ExtractiveExplainer,
    LlmExplainer,
)
from interp_assets.settings.scorers import (
    EmbedderSettings,
    EmbeddingScorer,
    ExampleEmbeddingScorer,
    ExplanationScorer,
    GenerationScorer,
    InterventionScorer,
    IntruderScorer,
    JudgeScorer,
    RerankerScorer,
    Scorer,
    Scorers,
    Sequential,
    SimulationScorer,
    SurprisalScorer,
    TokenEmbeddingScorer,
    TokenFuzzingScorer,
    WindowScorer,
)
from interp_assets.settings.subject import Corpus, ProofOfLoad, SaeSource, SubjectModel

__all__ = [
    "EFFECT_EXPLAINER",
    "NO_EXPLAINER",
    "Alignment",
    "Automation",
    "Budget",
    "Controls",
    "Corpus",
    "EmbedderSettings",
    "EmbeddingScorer",
    "Engine",
    "ExampleEmbeddingScorer",
    "Examples",
    "ExplainExamples",
    "Explainer",
    "ExplanationScorer",
    "ExtractiveExplainer",
    "GenerationScorer",
    "InterventionScorer",
    "IntruderScorer",
    "JudgeScorer",
    "Layout",
    "LlmExplainer",
    "LocalModel",
    "NegativeKind",
    "NeuronsControl",
    "OpenAIEngine",
    "Price",
    "ProofOfLoad",
    "RandomControl",
    "RerankerScorer",
    "SaeSource",
    "Scorer",
    "Scorers",
    "Sequential",
    "Settings",
    "SimilarText",
    "SimulationScorer",
    "SubjectModel",
    "SurprisalScorer",
    "TestExamples",
    "TokenEmbeddingScorer",
    "TokenFuzzingScorer",
    "TransformersEngine",
    "UntrainedControl",
    "VllmEngine",
    "WindowScorer",
    "device",
    "identity",
    "is_cron",
    "kinds_in",
    "mark",
    "operational",
]
