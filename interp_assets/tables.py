"""The schema of every table, in one place. Writers conform to it; a missing or extra column is a bug, not a surprise."""

from __future__ import annotations

import polars as pl

U16, U32, U64, I8 = pl.UInt16, pl.UInt32, pl.UInt64, pl.Int8
F32, F64, TEXT, BOOL = pl.Float32, pl.Float64, pl.String, pl.Boolean

Schema = dict[str, "type[pl.DataType] | pl.DataType"]

NOT_CONTENT = (
    "inputs_hash",
    "model",
    "prompt_hash",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "tokens_per_trial",
    "raw_reply",
)
"Columns that tell how a row came about. They enter no content hash: what lies behind need not be made anew for them."

AUXILIARY = ("index", "latents", "draws", "shortfalls", "page", "calibration")
"Tables that help to read the others."

SAE_WEIGHTS: Schema = {"file": TEXT, "bytes": U64, "sha256": TEXT}

CORPUS: Schema = {
    "context": U32,
    "tokens": pl.List(U32),  # context_length of them
    "documents": pl.List(U32),  # positions at which a document starts
}

# The activation cache, latent, context, position and activation, is described where it is written: `activations.cache_file`.

LATENT_STATISTICS: Schema = {
    "latent": U32,
    "firing_rate": F64,  # share of tokens, BOS left out
    "context_rate": F64,  # share of contexts with at least one firing
    "max_activation": F32,
    "mean_activation": F32,  # over firings
    "quantiles": pl.List(F32),  # of firings, at tables.QUANTILES
    "dead": BOOL,  # never fired on the corpus
    "position_information": F64,  # nats; mutual information of firing and position
    "top_tokens": U32,  # distinct tokens in the top 80 % of activations
    "promoted_tokens": pl.List(TEXT),
    "promoted_logits": pl.List(F32),
    "suppressed_tokens": pl.List(TEXT),
    "suppressed_logits": pl.List(F32),
    "inputs_hash": U64,
}
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
DECILES = 10
"Into as many groups a latent's windows are sorted by their peak activation."

EXAMPLES: Schema = {
    "latent": U32,
    "example": U32,  # number within latent, purpose and sign; test examples in the order in which scorers take them
    "purpose": TEXT,  # explain | test
    "kind": TEXT,  # activating | random | neighbour | similar_text
    "neighbour": U32,  # which similar latent fires here
    "neighbour_by": TEXT,  # decoder_cosine | encoder_cosine | cooccurrence
    "decile": I8,  # 0 weakest .. 9 strongest of the latent's windows, by peak activation
    "context": U32,
    "start": U16,
    "tokens": pl.List(U32),
    "activations": pl.List(F32),
    "peak_activation": F32,
    "status": TEXT,  # ok | too_few_examples | dead
    "reason": TEXT,
}

# Windows of the corpus, sorted by context and start, by what they say.
TEXT_INDEX: Schema = {
    "context": U32,
    "start": U16,
    "vector": pl.List(F32),
    "crowding": F32,  # mean cosine with the windows nearest to it
}

# One row for each latent of the SAE: what it takes to know whether its examples still hold.
EXAMPLE_LATENTS: Schema = {
    "latent": U32,
    "windows": U32,  # on which it fires, of different text
    "repeated": U32,  # further windows on which it fires, left out since one of `windows` has their text
    "smaller_side": U32,  # of `windows`, in explain or in test contexts, whichever are fewer
    "inputs_hash": U64,
}

# Where latents are drawn along an alignment: those with enough windows, in the order in which they are taken.
LATENT_DRAWS: Schema = {
    "latent": U32,
    "number": U64,  # uniform; matched latents of different layers share it
}

# Where an interpreted latent has fewer windows of a kind than the study asks for.
SHORTFALLS: Schema = {
    "latent": U32,
    "purpose": TEXT,  # as in EXAMPLES
    "kind": TEXT,
    "wanted": U32,
    "drawn": U32,
    "reason": TEXT,
}

EXPLANATIONS: Schema = {
    "latent": U32,
    "explainer": TEXT,
    "explanation": TEXT,
    "status": TEXT,  # ok | failed | not_asked (the budget was reached) | too_few_examples | dead
    "reason": TEXT,
    "model": TEXT,
    "prompt_hash": TEXT,  # keys of its calls in the reply log, separated by a space where it was asked twice
    "prompt_tokens": U32,
    "cached_tokens": U32,
    "completion_tokens": U32,
    "raw_reply": TEXT,
    "inputs_hash": U64,
}

TRIALS: Schema = {
    "latent": U32,
    "explainer": TEXT,
    "control": TEXT,  # none | shuffled
    "example": U32,
    "expected": BOOL,
    "marked": pl.List(BOOL),
    "probability": F64,  # of Yes; of methods without an LLM: how alike; surprisal: log ratio in nats
    "predicted": BOOL,
    "status": TEXT,  # ok | failed | not_asked (the budget was reached) | left_out
    "reason": TEXT,
    "prompt_hash": TEXT,  # keys of its calls in the reply log, separated by a space where it was asked twice
    "prompt_tokens": U32,
    "cached_tokens": U32,
    "completion_tokens": U32,
    "raw_reply": TEXT,  # where the reply was text
    "inputs_hash": U64,
}

# Beside the scores where a layer's judge was tried with prompts of several sizes.
CALIBRATION: Schema = {
    "size": U32,  # examples in one prompt; 1 is the single protocol
    "subjects": U32,
    "mean_difference": F64,  # mean absolute difference of balanced accuracy from the single protocol, over subjects
    "tokens_per_trial": F64,  # prompt and reply
    "chosen": BOOL,
}

# `probability` = log_likelihood - unrelated_log_likelihood, all in nats, summed over the text's tokens.
SURPRISAL_TRIALS: Schema = {
    **TRIALS,
    "log_likelihood": F64,  # of the text behind the explanation
    "unrelated_log_likelihood": F64,  # behind a description that says nothing
}

# One row for each test window; the lists have one entry for each token that is shown, so none for BOS.
SIMULATION_TRIALS: Schema = {
    **TRIALS,
    "predicted_activations": pl.List(F32),  # 0..10
    "activations": pl.List(F32),  # what the latent did
}

# One row for each text that was written; `predicted` says whether the latent fires on it.
GENERATION_TRIALS: Schema = {
    **TRIALS,
    "text": TEXT,
    "max_activation": F32,
    "share_of_maximum": F32,  # of the latent's strongest activation on the corpus
}

# `probability` is the similarity; the tokens are those of window and explanation that lie nearest to one another.
TOKEN_TRIALS: Schema = {
    **TRIALS,
    "window_token": TEXT,
    "window_character": U32,  # where in the text that is shown it begins
    "explanation_token": TEXT,
}

# One row for each prompt: `predicted` says whether the intruder was found, `probability` what was given to it.
INTRUDER_TRIALS: Schema = {
    **TRIALS,
    "place": U32,  # of the intruder, from 1
    "chosen": U32,
}

SCORES: Schema = {
    "latent": U32,
    "explainer": TEXT,
    "control": TEXT,
    # auroc, balanced_accuracy ...: `scores.statistics` says what each is; the modules of other methods what theirs are:
    # pearson, ev; generation_rate, strength; accuracy, chance; nats
    "statistic": TEXT,
    "condition": TEXT,  # sequential: trials were asked until the interval was narrow enough; intervention: as in EFFECTS
    "value": F64,
    "low": F64,
    "high": F64,
    "n_trials": U32,
    "n_failed": U32,
    "status": TEXT,
    "reason": TEXT,
    "inputs_hash": U64,
}

# scores/intervention: what each latent was made to do, and how its effect was explained.
EFFECTS: Schema = {
    "latent": U32,
    "condition": TEXT,  # a target KL in nats, or zero_ablation
    "strength": F64,  # added to the latent's activation; null for zero_ablation
    "kl": F64,  # nats; mean over prompts of KL(clean || changed) of the next token
    "effect_explanation": TEXT,
    "status": TEXT,  # ok | failed | not_asked (the budget was reached) | out_of_reach | too_few_prompts
    "reason": TEXT,
    "model": TEXT,
    "prompt_hash": TEXT,
    "prompt_tokens": U32,
    "cached_tokens": U32,
    "completion_tokens": U32,
    "raw_reply": TEXT,
    "inputs_hash": U64,
}

# What the model wrote behind each prompt that is scored.
PASSAGES: Schema = {
    "latent": U32,
    "condition": TEXT,  # as in EFFECTS
    "example": U32,  # number of the prompt within the latent
    "prompt": TEXT,
    "clean": TEXT,  # the prompt and what the model as it is wrote
    "changed": TEXT,  # the prompt and what it wrote with the latent changed, from the same seed
    "inputs_hash": U64,
}

# One row for each prompt; `nats` is log p(explanation | changed passage) - log p(explanation | clean passage).
INTERVENTION_TRIALS: Schema = {**TRIALS, "condition": TEXT, "nats": F64}

LAYER_MATCHING: Schema = {
    "latent_a": U32,
    "latent_b": U32,
    "similarity": F64,
    "mutual_nearest": BOOL,
    "rank": U32,  # of latent_b among all that latent_a could have been matched with, 1 the most similar
}

# Latents without a match.
LEFT_OVER: Schema = {
    "side": TEXT,  # a | b
    "latent": U32,
    "reason": TEXT,
}

# The most similar latents of the other side, matched or not.
NEXT_BEST: Schema = {
    "side": TEXT,  # a | b: whose latent it is
    "latent": U32,
    "place": U32,  # 1 the most similar
    "other": U32,
    "similarity": F64,
}

# The greedy matching beside it: the most similar pair first, then the most similar of those left.
GREEDY_MATCHING: Schema = {"latent_a": U32, "latent_b": U32, "similarity": F64}

SEMANTIC_OVERLAP: Schema = {
    "explainer": TEXT,
    "matching": TEXT,  # optimal | greedy | random
    "statistic": TEXT,  # mean_cosine of the explanations; above_random: less that of random matchings
    "n_latents": U32,  # of the first layer, matched with an explained one
    "value": F64,
    "low": F64,
    "high": F64,
}
OVERLAP_PAIRS: Schema = {
    "explainer": TEXT,
    "matching": TEXT,
    "latent_a": U32,
    "latent_b": U32,
    "cosine": F64,
}

# Latents that persist from layer to layer: one row for each layer of a chain.
CHAINS: Schema = {
    "row": U32,  # of pairs of layers that follow one another
    "chain": U32,
    "step": U32,  # 1 in the layer in which it begins
    "layer": TEXT,
    "latent": U32,
    "similarity": F64,  # with the latent of the step before
    "splits": U32,  # latents of the next layer that are nearest to this one and nearly as similar as its match
    "length": U32,  # layers of the whole chain
    "end": TEXT,  # in its last row why it ends
}

# Beside the report, where layers are matched.
SIMILARITY_OF_PAIRS: Schema = {
    "layer_a": TEXT,
    "layer_b": TEXT,
    "site": TEXT,  # the kind of place: the first layer's key without its numbers
    "matched": U32,
    "left_over": U32,
    "mean": F64,
    "lower_quartile": F64,
    "median": F64,
    "upper_quartile": F64,
    "mutual_nearest": F64,  # share of matches
    "certified_gap": F64,
}
OVERLAP_OF_PAIRS: Schema = {"layer_a": TEXT, "layer_b": TEXT, **SEMANTIC_OVERLAP}

SCORE_REPORT: Schema = {
    "layer": TEXT,
    "method": TEXT,
    "explainer": TEXT,
    "control": TEXT,
    "statistic": TEXT,
    "condition": TEXT,
    "n_latents": U32,
    "n_failed_trials": U32,
    "mean": F64,
    "mean_low": F64,
    "mean_high": F64,
    "median": F64,
    "median_low": F64,
    "median_high": F64,
    "lower_quartile": F64,
    "lower_quartile_low": F64,
    "lower_quartile_high": F64,
    "upper_quartile": F64,
    "upper_quartile_low": F64,
    "upper_quartile_high": F64,
}

# Beside the report, one table behind each part of the page.
DIFFERENCES: Schema = {
    "layer": TEXT,
    "control": TEXT,  # shuffled, or the layer of a control subject
    "method": TEXT,
    "explainer": TEXT,
    "statistic": TEXT,
    "condition": TEXT,  # of an intervention, compared at equal KL; null where there is one, or the mean of all
    "n_latents": U32,
    "mean": F64,
    "low": F64,  # of the plain 95 % interval; null where nothing is said of the difference
    "high": F64,
    "p_value": F64,
    "p_corrected": F64,  # for the number of verdicts in the report
    "verdict": TEXT,
}
CORRELATIONS: Schema = {
    "score": TEXT,  # a method, with its condition where it has several
    "other": TEXT,
    "n_latents": U32,
    "pearson": F64,
    "pearson_low": F64,
    "pearson_high": F64,
    "spearman": F64,
    "spearman_low": F64,
    "spearman_high": F64,
}
COSTS: Schema = {
    "step": TEXT,  # explanations, or a scoring method; its controls included
    "explainer": TEXT,
    "latents": U32,
    "calls": U32,
    "prompt_tokens": U64,
    "cached_tokens": U64,  # of the prompt tokens
    "completion_tokens": U64,
    "money": F64,  # at the study's prices; null where its engine has none
}
BY_DECILE: Schema = {
    "method": TEXT,
    "explainer": TEXT,
    "control": TEXT,
    "decile": I8,
    "statistic": TEXT,
    "n_latents": U32,
    "n_trials": U32,
    "value": F64,
    "low": F64,
    "high": F64,
}
BY_NEGATIVES: Schema = {
    "method": TEXT,
    "explainer": TEXT,
    "control": TEXT,
    "kind": TEXT,  # as in EXAMPLES
    "statistic": TEXT,
    "n_latents": U32,
    "n_trials": U32,
    "value": F64,
    "low": F64,
    "high": F64,
}
OUTCOMES: Schema = {
    "method": TEXT,
    "explainer": TEXT,
    "control": TEXT,
    "trials": U32,
    "ok": U32,
    "failed": U32,
    "not_asked": U32,
    "left_out": U32,
}


def conform(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The frame with its columns in order and cast to the schema; columns left out become null.

    Raises:
        ValueError: a column that the schema does not have.
    """
    if extra := set(frame.columns) - set(schema):
        raise ValueError(f"columns not in the schema: {sorted(extra)}; it has: {list(schema)}")
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    return frame.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def calls_behind(rows: pl.DataFrame) -> set[str]:
    """The keys in the reply log of all calls that some rows were made from."""
    return set(rows["prompt_hash"].drop_nulls().str.split(" ").explode())
