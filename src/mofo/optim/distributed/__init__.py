"""Parameters that are spread over several processes: `step.py` updates shards, `flat_params.py` refuses flat pieces."""
