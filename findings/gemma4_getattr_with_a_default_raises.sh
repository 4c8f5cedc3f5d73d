#!/usr/bin/env bash
# transformers 5.19.0: `getattr(config, "head_dim", None)` on a Gemma 4 text configuration raises, default or not. The
# attribute differs from layer to layer, and what is raised is no AttributeError, so that neither getattr's default nor
# hasattr catches it. Code that asks every model's settings for `head_dim` breaks on this family alone.
#
# Seen: gemma3_text: 256 / gemma4_text: AmbiguousGlobalPerLayerAttributeError, an AttributeError: False
set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv env
env/bin/pip install -q transformers==5.19.0
cat > look.py <<'PY'
from transformers import AutoConfig

print("gemma3_text:", getattr(AutoConfig.for_model("gemma3_text"), "head_dim", None))
try:
    getattr(AutoConfig.for_model("gemma4_text"), "head_dim", None)
except Exception as error:
    print(f"gemma4_text: {type(error).__name__}, an AttributeError: {isinstance(error, AttributeError)}")
    assert not isinstance(error, AttributeError), "it has changed"
else:
    raise SystemExit("it has changed")
PY
env/bin/python look.py 2>/dev/null
