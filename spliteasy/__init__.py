"""Split learning: cut any PyTorch network, train it across a device and a server, and see what crosses the wire."""

__version__ = "0.1.0"
