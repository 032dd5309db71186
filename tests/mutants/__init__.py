"""Mutation tests: small faults are written into the code, and the tests must notice each."""
