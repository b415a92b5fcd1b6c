"""A study: one recipe trained once for every cell of a grid of settings, and scored on the same cases.

grid.py makes the cells, runs.py trains them, scoring.py scores them, results.py is what is known of them afterwards. The
command is cli/study.py, the page reports/study.py.
"""
