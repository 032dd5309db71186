"""The parts of the theory page: its figures, the trained weights that it shows, and its HTML."""
