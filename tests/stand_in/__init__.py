"""Made-up stand-ins for what cannot be had everywhere: the released weights and the paper's validation sets."""
