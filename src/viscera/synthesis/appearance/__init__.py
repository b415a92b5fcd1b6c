"""How tissues look: HU by phase, enhancement, lesions, tumours: the image of an ideal scanner."""
