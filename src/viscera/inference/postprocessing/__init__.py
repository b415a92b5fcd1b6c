"""Label map -> tidier label map. One function per operation, each on all the organs that it is given.

components.py drops connected components, morphology.py opens, closes and fills, edges_by_hu.py moves edges to where the CT has
them, tumours.py puts a tumour mask over the organs and says where it lies, tidying.py does what a recipe's settings ask for.
All of them take label maps in memory and work where the organs are only: boxes.py says where, slabs.py finds connected pieces
some planes at a time, on all cores.
Functions give new label maps, but for those whose names end in _; inference/segment.py calls them on a scan in axial order.
"""
