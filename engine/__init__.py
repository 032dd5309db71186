"""Training that can be left alone: configuration, loop, checkpoints, distribution and evaluation.

This module imports nothing heavy, so that an entry point can watch for signals before torch loads.
"""
