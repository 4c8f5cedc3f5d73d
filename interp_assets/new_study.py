"""What `interp init` writes and says: the study file as text, and what was found and assumed, for the terminal."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from interp_assets.context_survey import choose_contexts
from interp_assets.layers import names_control
from interp_assets.sae_survey import CHANGE, DEMO_EMBEDDER, HUB_EMBEDDER, UNKNOWN_PLACE, Found, file_for, look, relative
from interp_assets.setting_errors import StudyError
from interp_assets.settings import Examples
from interp_assets.study import Study, load_study, studies_folder
from resources.errors import one_line
from resources.sparse_autoencoders.location import SaeLocation


def write_study(path: str, output: str | None, model: str | None, corpus: str | None) -> tuple[Study, Found]:
    """Write a study file for the SAEs in a folder or hub repository; nothing is ever written over another file.

    Args:
        model: the subject model, corpus: the text; they are looked for where None.

    Raises:
        StudyError, UnusableInput: there are no SAEs, the study's file is there already, or what was given does not fit.
        NotNow: the hub is not reached.
    """
    file = file_for(path, output)
    root = file.parent.parent if file.parent.name == "studies" else file.parent
    found = look(path, root, model, corpus)
    choose_contexts(found, root)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8") as opened:
        opened.write(text_of(found, root))
    try:
        return load_study(file), found
    except StudyError:
        file.unlink()
        raise


def sources_of(found: Found) -> list[dict[str, Any]]:
    """The entries under `saes`: one for all, or one for each SAE where several read one place."""
    places = [sae.hookpoint for sae in found.saes]
    if len(set(places)) == len(places) and (None not in places):
        return [{"path": found.path, "hookpoints": places}]
    return [
        {
            "path": "/".join(filter(None, [found.path, below(sae, found)])),
            "hookpoints": [sae.hookpoint or UNKNOWN_PLACE],
            **({"label": label_of(sae, found)} if places.count(sae.hookpoint) > 1 else {}),
        }
        for sae in found.saes
    ]


def below(sae: SaeLocation, found: Found) -> str:
    inside = os.path.relpath(sae.folder, found.folder)
    return "" if inside == "." else inside


def label_of(sae: SaeLocation, found: Found) -> str:
    """Of SAEs that read one place, the parts of their paths that are not the same for all of them."""
    rivals = [Path(below(each, found)).parts for each in found.saes if each.hookpoint == sae.hookpoint]
    own = [part for part in Path(below(sae, found)).parts if not all(part in parts for parts in rivals)]
    label = re.sub(r"[^A-Za-z0-9_.-]|\.(?=\.)", "-", "-".join(own)).lstrip(".") or "sae"
    return f"{label}-sae" if names_control(label) else label


def scalar(value: Any) -> str:
    """A value as it stands in YAML, whatever is in it: on one line, quoted where it must be."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("...\n").strip()


def text_of(found: Found, root: Path) -> str:
    """The study file."""

    def why(key: str) -> str:
        return f"  # {one_line(found.assumed[key])}" if key in found.assumed else ""

    entries = "\n".join(
        f"  - {in_one_line(entry)}" + ("" if sae.hookpoint else f"  # {CHANGE}: what it reads, the files do not say")
        for sae, entry in zip(found.saes, sources_of(found), strict=False)
    )
    whole = found.tokens == Found.tokens
    tokens = "to begin with; ten million show rare latents too" if whole else "all that the text holds"
    # Whether it is one, the proof of load shows.
    skipped = (
        ""
        if found.bos
        else "  skip_first: 1  # without BOS the first token of each context is mostly an attention sink\n"
    )
    usual = Examples().window
    window = "" if found.context_length >= usual else f"  window: {found.context_length}\n"
    embedder = relative(DEMO_EMBEDDER, root) if DEMO_EMBEDDER.exists() else HUB_EMBEDDER
    return f"""\
# Written by `interp init {one_line(found.path)}`. Every key is explained in interp_assets/settings.
# Paths start at the folder above `studies`, or at this file's own folder elsewhere.

subject_model:
  path: {scalar(found.model)}{why("subject_model.path")}
  dtype: bfloat16
  # device_map: auto    # a model too large for one device
  # quantization: 8bit  # or for its memory

saes:
{entries}

corpus:
  path: {scalar(found.corpus)}{why("corpus.path")}
  tokens: {found.tokens}  # {tokens}
  context_length: {found.context_length}{why("corpus.context_length")}
  bos: {scalar(found.bos)}{why("corpus.bos")}
{skipped}
examples:
{window}  latents: 100  # of each layer, chosen at random; leave it out for all

# What explains and judges in words: a server with OpenAI's interface, or a model on this machine.
# engines:
#   judge: {{kind: openai, base_url: http://127.0.0.1:8000/v1, model: my-model, key_env: JUDGE_KEY}}

explainers:
  extractive: {{kind: extractive}}  # quotes what the latent fires on; needs no language model
  # llm: {{kind: llm, engine: judge}}

scorers:
  token_embedding: {{model: {scalar(embedder)}}}
  embedding: {{model: {scalar(embedder)}}}
  # detection: {{engine: judge}}
  # fuzzing: {{engine: judge}}

# alignment: {{}}           # matches the latents of neighbouring layers
# controls: {{random: {{}}}}  # a random SAE, to be compared with
"""


def in_one_line(entry: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {scalar(value)}" for key, value in entry.items()) + "}"


def told(study: Study, found: Found) -> list[str]:
    """What was found, assumed and written, for the terminal."""
    lines = []
    for sae in found.saes:
        facts = sae.declared()
        place = f"{sae.hookpoint or '(its files do not say)'}" + (f" -> {sae.writes}" if sae.writes else "")
        if [each.hookpoint for each in found.saes].count(sae.hookpoint) > 1:
            place += f" in {os.path.relpath(sae.path, found.folder)}"
        l0 = f", L0 {facts.l0:g}" if facts.l0 is not None else ""
        lines.append(
            f"found    {one_line(place)}: {facts.n_latents:,} latents of {facts.d_in:,} dimensions{l0} "
            f"({sae.format}, {one_line(facts.architecture)})"
        )
    lines += [one_line(f"left out {problem}") for problem in found.unreadable.values()]
    lines += [f"assumed  {key}: {one_line(why)}" for key, why in found.assumed.items()]
    lines.append(f"written  {study.file}")
    command = study.name if study.file.parent == studies_folder() else study.file
    lines.append(f"next     interp run {command} --until activation_cache")
    return lines
