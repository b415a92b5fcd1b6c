"""Pictures: overlays and montages of slices, training curves, scores per organ, mix-ups, statistics of a data set.

Functions that return a matplotlib figure draw only; ``save`` writes it as PNG, ``inline_svg`` puts it into a page.
"""
