"""A network that learns from trained ones: who may teach (teacher.py), and what is learnt of their probabilities (loss.py)."""
