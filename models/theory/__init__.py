"""The paper's theory, executable: what it says about an operator is measured on the operator (sections 2, A to C)."""
