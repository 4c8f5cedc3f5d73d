"""The pipeline: explains the latents of sparse autoencoders and tests every explanation.

What a study is:        settings, setting_errors, study
What depends on what:   graph (every asset), models_read, tables (every column), freshness (fingerprints, states)
How it is made:         job (one partition), models, progress; then the stages, in the order in which data flows:
                        corpus, activations, examples, explanations, scores, report
How it is run:          dagster_assets, definitions (the code location), dagster_runs, running, cli, doctor
"""
