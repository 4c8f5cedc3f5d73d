"""What share of a judge's prompts its prefix cache can serve, shown beside the scores."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from interp_assets.models_read import engine_tokenizer
from interp_assets.settings import LocalModel
from interp_assets.study import Study
from resources.errors import NotNow, UnusableInput
from resources.language_models.prefix_share import prefix_share
from resources.language_models.prompts import Prompts
from resources.language_models.protocol import Request

SAMPLE = 200
"The first prompts of a layer: two latents of 100 examples, which takes a fraction of a second."


def cacheable_share(study: Study, engine: str, requests: Iterable[Request]) -> dict[str, float]:
    """Metadata; empty where nothing is asked or the engine's tokenizer is not on this machine.

    Args:
        requests: in the order in which they are asked; no more than SAMPLE are taken.
    """
    settings, asked = study.engines[engine], list(islice(requests, SAMPLE))
    if not asked or not isinstance(settings, LocalModel):
        return {}
    try:
        prompts = Prompts(engine_tokenizer(study, engine), settings.chat_template)
    except (NotNow, UnusableInput):
        # What was answered from the log needs no tokenizer, and no figure is worth a failure.
        return {}
    found = prefix_share(prompts.of_request(request) for request in asked)
    return {"cacheable_share": round(found.cacheable_share, 4)}
