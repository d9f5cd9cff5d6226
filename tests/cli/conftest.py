from reference.workbench import sums, tiny_data, tiny_model  # noqa: F401
