"""What share of a judge's prompts its prefix cache can serve, shown beside the scores."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from interp_assets.models_read import engine_tokenizer
from interp_assets.study import Study
from resources.errors import NotNow, UnusableInput
from resources.language_models.prefix_share import prefix_share
from resources.language_models.protocol import Request
from resources.tokenizers import request_texts, token_ids

SAMPLE = 200
"The first prompts of a layer: two latents of 100 examples, which takes a fraction of a second."


def cacheable_share(study: Study, engine: str, requests: Iterable[Request]) -> dict[str, float]:
    """Metadata; empty where nothing is asked or the engine's tokenizer is not on this machine.

    Args:
        requests: in the order in which they are asked; no more than SAMPLE are taken.
    """
    sample = list(islice(requests, SAMPLE))
    try:
        tokenizer = engine_tokenizer(study, engine) if sample else None
    except (NotNow, UnusableInput):
        # What was answered from the log needs no tokenizer, and no figure is worth a failure.
        tokenizer = None
    if tokenizer is None:
        return {}
    found = prefix_share(token_ids(tokenizer, request_texts(tokenizer, sample)))
    return {"cacheable_share": round(found.cacheable_share, 4)}
