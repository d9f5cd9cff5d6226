"""Parameters that are spread over several processes."""
