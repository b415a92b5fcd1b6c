"""Networks: architectures, their weights and cards, the runtimes that run them and the device. Import build.py to make one."""
