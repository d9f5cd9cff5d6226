"""Tasks of lm-evaluation-harness as probes: what the field measures forgetting by, on the model that is in memory."""
