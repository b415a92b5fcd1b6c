"""A hospital's archive (PACS): series come in by DICOM or DICOMweb, results go back the same way.

spool.py       The queue on disk: one folder per series, moved from state to state by renames
receiving.py   C-ECHO and C-STORE: what is taken, what is ignored, who is refused
address.py     Where results go: AET@HOST:PORT, or http://...
sending.py     C-STORE or STOW of results, each answer counted
dicomweb.py    QIDO, WADO and STOW by the standard library's HTTP
node.py        From a series that is complete to its results in the archive
status.py      What the queue holds: JSON, a page and Prometheus' text
"""
