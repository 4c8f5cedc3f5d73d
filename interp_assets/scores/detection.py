"""Detection: is the latent active on this text? Nothing is marked."""

from __future__ import annotations

from interp_assets.scores.trials import TestExample, Trial


def trials(examples: list[TestExample]) -> list[Trial]:
    return [Trial(each.example, each.activating, each.tokens) for each in examples]
