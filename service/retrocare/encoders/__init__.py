"""From speech at 16 kHz to one unit vector.

`protocol` says what an encoder is, `embedding` cuts speech into windows and averages their vectors. `loading` chooses
an encoder by the table in `families`; `weights` finds its trained weights, `onnx` runs the network, which it exports
from torch (`ecapa`, `ge2e`, `spectrum`).

May use: audio, errors, observability.
"""
