"""A trained network elsewhere: ONNX and OpenVINO export, int8, how fast it is on this machine, bundled weights."""
