"""Label map -> tidier label map. One function per operation, each on all the organs that it is given.

components.py drops connected components, morphology.py opens, closes and fills, tumours.py puts a tumour mask over the
organs and says where it lies, tidying.py does what a recipe's settings ask for. All of them take label maps in memory,
give new ones, and work on the organs' boxes only; inference/segment.py calls them on a scan in axial order.
"""
