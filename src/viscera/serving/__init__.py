"""A server for 3D Slicer: MONAI Label's REST protocol, so that its clients segment with viscera as they are.

    app.py           Which route does what; errors become a status and a sentence
    routes_data.py   Routes of what is kept: the token, sessions, scans, labels
    routes_infer.py  Routes of segmenting: what is offered, the next scan, a label map
    routes_tasks.py  Routes of what goes on in the background: learning, many scans, scoring
    routes_pages.py  The status page, metrics, the last result, the log
    service.py       What the routes work with
    running.py       The application on a socket
    guard.py         Who may ask, how much may be sent and how fast, before anything is read
    protocol.py      What the answers look like: info, samples, the parts of a segmentation, requests' parameters
    segmenting.py    The networks, each loaded once, and the queue in which scans wait for them
    datastore.py     The studies' folder: scans, and the labels that people corrected, of which none is overwritten
    sessions.py      Scans that a client sends for a while
    uploads.py       Forms and their files, put on disk
    names.py         Names from the net: none leads out of its folder
    nrrd.py          Label maps as 3D Slicer and OHIF read them
    background.py    Tasks in the background, one of a kind at a time
    batch.py         Many scans segmented, and measured against corrections
    improving.py     Learning, seen from the server: the process that learns, and who serves then
    tuning.py        That process: corrections -> weights
    corrections.py   Corrections as cases to train on: what they do not name is filled in
    comparing.py     Is a new version better, on corrections that were held back?
    versions.py      The versions of a model: none is removed, and any can serve again
    meter.py         Counts of requests and times, as Prometheus reads them
    last_result.py   The last result, small

The flow: app.py -> routes_infer.py -> segmenting.py -> nrrd.py -> protocol.py; in the background routes_tasks.py -> improving.py ->
tuning.py -> versions.py. `viscera serve` (cli/serve.py) loads the networks and runs it.
"""
