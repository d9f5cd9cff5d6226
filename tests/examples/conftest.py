from reference.workbench import sums, tiny_model  # noqa: F401
