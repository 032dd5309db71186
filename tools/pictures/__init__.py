"""Predictions of the three tasks on images, and drawings of them."""
