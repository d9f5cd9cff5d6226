from reference.workbench import tiny_model  # noqa: F401
