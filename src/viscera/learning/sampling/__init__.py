"""Which slices or 3D patches are drawn, and as what: Batch, the order of an epoch, reading ahead. The entrance is index.py."""
