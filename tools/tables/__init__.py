"""The paper's tables as data: schema, costs, measured results and pages. `tools/make_tables.py` is their command."""
