"""Random changes of what is learnt from: the draw, and apart from it the effect. The entrance is changes.py."""
