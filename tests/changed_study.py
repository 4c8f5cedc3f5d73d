"""Copies of a study file with some settings changed, and another value for every setting there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LEFT_OUT = object()

OPERATIONAL: dict[str, Any] = {
    "storage": "elsewhere",
    "subject_model.path": "./moved/model",
    "subject_model.device": "auto",
    "subject_model.device_map": "balanced",
    "subject_model.batch_tokens": 64,
    "saes.0.path": "moved/saes",
    "saes.0.format": "sparsify",
    "saes.0.revision": "main",
    "corpus.path": "moved/corpus.parquet",
    "engines.oracle.path": "moved/model",
    "engines.oracle.device": "auto",
    "engines.oracle.batch_size": 3,
    "engines.local.path": "moved/model",
    "engines.local.tensor_parallel_size": 2,
    "engines.local.gpu_memory_utilization": 0.5,
    "engines.local.kv_cache_gb": 1.0,
    "engines.local.enforce_eager": True,
    "engines.local.price.input": 1.0,
    "engines.local.price.cached": 0.5,
    "engines.local.price.output": 2.0,
    "engines.served.base_url": "https://elsewhere/v1",
    "engines.served.key_env": "OTHER_KEY",
    "engines.served.concurrency": 3,
    "engines.served.timeout_seconds": 5.0,
    "engines.served.wait_seconds": 5.0,
    "engines.served.allow_plain_http": True,
    "engines.served.price.input": 1.0,
    "engines.served.price.cached": 0.5,
    "engines.served.price.output": 2.0,
    "engines.oracle.price.input": 1.0,
    "engines.oracle.price.cached": 0.5,
    "engines.oracle.price.output": 2.0,
    "budget.tokens": 1000,
    "budget.money": 5.0,
    "alignment.pairs": None,
    "alignment.device": "cpu",
    "proof_of_load.max_fvu": 0.7,
    "proof_of_load.max_dimension_fvu": 1.1,
    "proof_of_load.l0_factor": 3,
    "scorers.intervention.batch_latents": 1,
    "examples.similar_text.model": "moved/embedder",
    "examples.similar_text.device": "auto",
    "examples.similar_text.batch_size": 3,
    "scorers.embedding.model": "moved/embedder",
    "scorers.embedding.device": "auto",
    "scorers.embedding.batch_size": 3,
    "scorers.example_embedding.model": "moved/embedder",
    "scorers.example_embedding.device": "auto",
    "scorers.example_embedding.batch_size": 3,
    **{
        f"scorers.{method}.{key}": value
        for method in ("token_embedding", "token_fuzzing", "reranker")
        for key, value in (("model", "moved/embedder"), ("device", "auto"), ("batch_size", 3))
    },
    "scorers.reranker.model": "moved/reranker",
    "automation.enabled": False,
    "automation.schedule": None,
    "automation.watch_seconds": 5,
}

JUDGE = {
    "explainers": ["llm"],
    "latents": 3,
    "activating": 9,
    "non_activating": 9,
    "negatives": "similar_text",
    "protocol": "list",
    "per_prompt.candidates": [2, 4],
    "per_prompt.latents": 3,
    "per_prompt.tolerance": 0.1,
    "sequential.half_width": 0.2,
    "sequential.pairs_per_round": 2,
    "mark_threshold": 0.4,
    "marks": "matched",
    "shuffled_control": False,
    "instructions": "Judge.",
    "layout": "system",
    "max_tokens": 200,
}
ON_WINDOWS = {
    "engine": "second",
    "explainers": ["llm"],
    "latents": 3,
    "activating": 9,
    "non_activating": 9,
    "negatives": "similar_text",
    "shuffled_control": False,
}
WITH_AN_EMBEDDER = {"dtype": "bfloat16", **{key: value for key, value in ON_WINDOWS.items() if key != "engine"}}
IDENTITY: dict[str, Any] = {
    "name": "other",
    "saes.0.hookpoints": ["layers.0"],
    "saes.0.label": "wide",
    "subject_model.revision": "main",
    "subject_model.dtype": "bfloat16",
    "subject_model.quantization": "8bit",
    "corpus.split": "test",
    "corpus.column": "words",
    "corpus.tokens": 4096,
    "corpus.context_length": 32,
    "corpus.bos": False,
    "corpus.skip_first": 2,
    "corpus.separator": "\n",
    "proof_of_load.tokens": 512,
    "proof_of_load.compare_layers": False,
    "examples.window": 8,
    "examples.placement": "centred",
    "examples.min_windows": 9,
    "examples.latents": 5,
    "examples.seed": 1,
    "examples.explain.sampler": "top",
    "examples.explain.n": 11,
    "examples.explain.pool": 100,
    "examples.test.activating": 20,
    "examples.test.non_activating": 36,
    "examples.test.negatives": ["similar_text", "neighbour"],
    "examples.test.neighbour_by": "encoder",
    "examples.similar_text.dtype": "bfloat16",
    "examples.similar_text.windows": 100,
    "engines.oracle.revision": "main",
    "engines.oracle.dtype": "float32",
    "engines.oracle.chat_template": {"enable_thinking": False},
    "engines.local.revision": "main",
    "engines.local.dtype": "float32",
    "engines.local.max_model_len": 512,
    "engines.local.chat_template": {"enable_thinking": False},
    "engines.served.request": {"reasoning_effort": "minimal"},
    "engines.served.model": "larger",
    "engines.served.revision": "2026-11",
    "explainers.quotes.words": 4,
    "explainers.quotes.phrases": 4,
    "explainers.llm.engine": "second",
    "explainers.llm.latents": 3,
    "explainers.llm.n_examples": 9,
    "explainers.llm.mark_threshold": 0.4,
    "explainers.llm.show_activations": True,
    "explainers.llm.promoted_tokens": True,
    "explainers.llm.chain_of_thought": True,
    "explainers.llm.max_tokens": 32,
    "explainers.llm.instructions": "Say what it is.",
    "explainers.llm.layout": "system",
    "scorers.embedding.dtype": "bfloat16",
    "scorers.embedding.explainers": ["llm"],
    "scorers.embedding.latents": 3,
    "scorers.embedding.activating": 9,
    "scorers.embedding.non_activating": 9,
    "scorers.embedding.negatives": "similar_text",
    "scorers.embedding.shuffled_control": False,
    "scorers.embedding.instruction": "Find: ",
    **{
        f"scorers.{method}.{key}": value
        for method in ("token_embedding", "token_fuzzing", "reranker")
        for key, value in WITH_AN_EMBEDDER.items()
    },
    **{
        f"scorers.{method}.{key}": value
        for method in ("token_embedding", "token_fuzzing")
        for key, value in (("instruction", "Find: "), ("reference_windows", 30))
    },
    "scorers.token_fuzzing.mark_threshold": 0.4,
    "scorers.intervention.explainer": "second",
    "scorers.intervention.scorer": "second",
    "scorers.intervention.latents": 3,
    "scorers.intervention.prompt_tokens": 16,
    "scorers.intervention.explain_prompts": 3,
    "scorers.intervention.score_prompts": 4,
    "scorers.intervention.target_kl": [0.2],
    "scorers.intervention.zero_ablation": False,
    "scorers.intervention.new_tokens": 3,
    "scorers.intervention.shown_tokens": 3,
    "scorers.intervention.max_tokens": 32,
    "scorers.intervention.shuffled_control": False,
    **{f"scorers.surprisal.{key}": value for key, value in ON_WINDOWS.items()},
    **{f"scorers.simulation.{key}": value for key, value in ON_WINDOWS.items()},
    "scorers.simulation.mode": "token_by_token",
    "scorers.simulation.max_tokens": 900,
    "scorers.generation.engine": "second",
    "scorers.generation.explainers": ["llm"],
    "scorers.generation.latents": 3,
    "scorers.generation.texts": 3,
    "scorers.generation.max_tokens": 90,
    "scorers.generation.shuffled_control": False,
    "scorers.intruder.engine": "second",
    "scorers.intruder.latents": 3,
    "scorers.intruder.shown": 3,
    "scorers.intruder.activating": 9,
    "scorers.intruder.non_activating": 9,
    "scorers.intruder.negatives": "similar_text",
    "scorers.example_embedding.dtype": "bfloat16",
    "scorers.example_embedding.latents": 3,
    "scorers.example_embedding.examples": 4,
    "scorers.example_embedding.activating": 9,
    "scorers.example_embedding.non_activating": 9,
    "scorers.example_embedding.negatives": "similar_text",
    "scorers.example_embedding.shuffled_control": False,
    "scorers.detection.engine": "second",
    "scorers.fuzzing.engine": "second",
    **{f"scorers.{method}.{key}": value for method in ("detection", "fuzzing") for key, value in JUDGE.items()},
}


def changed(file: Path, changes: dict[str, Any], name: str = "changed.yaml") -> Path:
    """A copy of a study beside it, with settings changed by their dotted keys."""
    settings = yaml.safe_load(file.read_text())
    for key, value in changes.items():
        *above, last = key.split(".")
        holder = settings
        for part in above:
            holder = holder[int(part)] if isinstance(holder, list) else holder.setdefault(part, {})
        if value is LEFT_OUT:
            del holder[last]
        else:
            holder[last] = value
    target = file.with_name(name)
    target.write_text(yaml.safe_dump(settings))
    return target
