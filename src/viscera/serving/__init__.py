"""A server for 3D Slicer: MONAI Label's REST protocol, so that its clients segment with viscera as they are.

    app.py        The routes: requests in, answers out; errors become a status and a sentence
    running.py    The application on a socket
    guard.py      Who may ask, how much may be sent and how long a sender may be silent, before anything is read
    protocol.py   What the answers look like: info, samples, the parts of a segmentation, requests' parameters
    segmenting.py The networks, each loaded once, and the queue in which scans wait for them
    datastore.py  The studies' folder: scans, and the labels that people corrected, of which none is overwritten
    sessions.py   Scans that a client sends for a while
    uploads.py    Forms and their files, put on disk
    names.py      Names from the net: none leads out of its folder
    nrrd.py       Label maps as 3D Slicer reads them

The flow: app.py -> segmenting.py -> protocol.py -> nrrd.py. `viscera serve` (cli/serve.py) loads the networks and runs it.
"""
