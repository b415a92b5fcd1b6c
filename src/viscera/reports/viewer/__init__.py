"""The interactive page of ``viscera view``: a scan with its labels in one HTML file, drawn by NiiVue.

scene.py decides what is shown and counts it, page.py packs it into a page that loads nothing from elsewhere, serve.py
hands a page and its volumes to the browser on the same machine. static/ holds the page's own HTML, CSS and JavaScript,
and NiiVue as its authors built it (README.md and THIRD_PARTY.md there say where it comes from).
"""
