"""docs/models.md: what was seen of every family of models, small and with random weights.

python -m tests.family_page    (writes the page; `test_every_family` fails where it is out of date)
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

from interp_assets.study import PROJECT
from resources.causal_lm import CausalLM
from resources.errors import UnusableInput, one_line
from resources.hookpoints import FAMILIES as NAMED
from resources.interventions import keeps_all_it_needs
from resources.model_loading import load_language_model
from resources.subject_model import SubjectModel
from tests.every_family import FAMILIES, LAYERS, make_family

PAGE = PROJECT / "docs" / "models.md"
CONTINUED = {
    "pieces": "shared beginnings once",
    "tokens": "prompts whole, replies token by token",
    "none": "every token anew",
}
REFUSED, LEFT_OUT, NONE = "refused: ", "left out: ", "-"
SHORT = 110


class Row(NamedTuple):
    """What was seen of one family, as the page says it."""

    engine: str
    subject: str
    promoted_tokens: str
    intervention: str

    @property
    def left_out(self) -> bool:
        return self.engine.startswith(LEFT_OUT)

    @property
    def engine_refused(self) -> bool:
        return self.engine.startswith(REFUSED)

    @property
    def subject_refused(self) -> bool:
        return self.subject.startswith(REFUSED)

    @property
    def promoted(self) -> bool:
        return self.promoted_tokens.startswith("yes")

    @property
    def interventions(self) -> bool:
        return self.intervention.startswith("from")


def row_of(family: str, folder: Path) -> Row:
    """Build a family small in a folder, and look."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            make_family(family, folder)
            model = load_language_model(folder, None, "float32", "cpu")
    except Exception as error:
        return Row(LEFT_OUT + reason(error, folder), NONE, NONE, NONE)
    try:
        engine = CONTINUED[CausalLM(model, "cpu", family).abilities.continuation]
    except UnusableInput as error:
        engine = REFUSED + reason(error, folder)
    try:
        subject = SubjectModel(folder, None, "float32", "cpu")
    except UnusableInput as error:
        return Row(engine, REFUSED + reason(error, folder), NONE, NONE)
    layers = subject.structure.layers_path
    try:
        unreadable = subject.unreadable(torch.arange(4, 36).reshape(2, 16), [f"{layers}.{i}" for i in range(LAYERS)])
    except UnusableInput as error:
        return Row(engine, REFUSED + reason(error, folder), NONE, NONE)
    if unreadable:
        return Row(engine, REFUSED + reason(next(iter(unreadable.values())), folder), NONE, NONE)
    scale = None if subject.readout is None else subject.readout.scale
    promoted = NONE if scale is None else "yes" if scale == 1 else f"yes, x {scale:.4g}"
    intervention = "from keys and values" if keeps_all_it_needs(subject) else "from whole prompts"
    return Row(engine, f"`{layers}.N`", promoted, intervention)


def reason(error: object, folder: Path) -> str:
    text = str(error).split("; name a decoder")[0].replace(f"{folder}: ", "").replace(f"{folder.name}: ", "")
    return one_line(text.replace("|", "/").replace("<", "").replace(">", ""), SHORT)


def page_rows() -> dict[str, Row]:
    """As the page says it."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            family, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            rows[family.strip("` ")] = Row(*cells[:4])
    return rows


def text_of(rows: dict[str, Row]) -> str:
    left_out = sum(row.left_out for row in rows.values())
    refused = sum(row.engine_refused for row in rows.values())
    lines = [
        "# Models",
        "",
        "<!-- Made by `python -m tests.family_page`; a test fails where it is not up to date. -->",
        "",
        f"What was seen of the {len(rows)} families for which transformers {transformers.__version__} has a causal language "
        f"model. **Each was built with {LAYERS} small layers and random weights**, never with its real ones, except SmolLM2, "
        "on which the demo runs. So this says whether the arithmetic is right, not how good a model is.",
        "",
        "- *Engine* (explainer, judge): log-probabilities, choices, greedy and sampled texts equal the model's own forward "
        "pass, run whole, to 0.01 nats in float32. What a model's cache can do is measured when it is loaded: mostly the "
        "beginning that prompts share is computed once; where the cache cannot be continued by several tokens, prompts are "
        "run whole, and replies token by token or, where the cache forgets, by running everything anew. "
        f"{refused} are refused in one line.",
        "- *Subject*: what each layer puts out equals a plain forward pass with a hook. `N` counts layers from 0.",
        "- *Promoted tokens* equal the slope of the model's own logits; `x` is what it multiplies its logits with. Where "
        "logits are no multiple of the unembedding of what the last layer puts out, no tokens are given.",
        "- *Intervention*: a changed latent does what it does in a full pass with a hook, at the prompt's last token and "
        "at each token written after it.",
        "",
        f"{left_out} are left out, because they could not be built small, each with what was said. "
        f"For {', '.join(f'`{name}`' for name in NAMED)} TransformerLens names and what stands at each are compared too "
        "(`tests/test_families.py`).",
        "",
        "| family | engine | subject: layers | promoted tokens | intervention |",
        "|---|---|---|---|---|",
        *(f"| `{family}` | {' | '.join(row)} |" for family, row in rows.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    rows = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows[family] = row_of(family, Path(folder))
        print(family, *rows[family], f"{time.process_time():.0f}", sep=" | ", flush=True)
    PAGE.write_text(text_of(rows))


if __name__ == "__main__":
    main()
