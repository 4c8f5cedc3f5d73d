"""The pipeline: explains the latents of sparse autoencoders and tests every explanation.

What a study is:        settings, setting_errors, study, study_checks, sae_sources, from_hub, layers, api_keys,
                        partitions (layers and pairs of layers)
What depends on what:   graph (every asset), models_read, tables (every column), proof_limits,
                        freshness (fingerprints, states), differences (reasons)
How it is made:         job (one partition), carry_over (rows that still hold), models, layer_sae, engine_needs, budget,
                        metering (calls, tokens, money), provenance, progress; then the
                        stages, in the order in which data flows: corpus, activations, examples, explanations, scores,
                        alignment, report
How it is run:          cli (begun by __main__ and ctrl_c), running, plan and forecast, upkeep (accept, retry, clean);
                        doctor, doctor_study and engine_trial; inspecting, new_study, sae_survey and model_names (init)
Under Dagster:          definitions (the code location), dagster_assets, dagster_runs, run_processes
By itself:              automation (sensors and schedule), due (what is due now), file_watcher
"""
