"""Detection: is the latent active on this text? Nothing is marked."""

from __future__ import annotations

from interp_assets.scores.judged import Judged
from interp_assets.scores.trials import TestExample, Trial, whole_texts


class Detection(Judged):
    name = "detection"
    description = "Whether an LLM that reads the explanation can tell on which windows the latent is active."

    def trials(self, latent: int, examples: list[TestExample]) -> list[Trial]:
        return whole_texts(examples)
