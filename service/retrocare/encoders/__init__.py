"""From speech at 16 kHz to one unit vector.

`protocol` says what an encoder is, `embedding` cuts speech into windows and averages their vectors. `loading` chooses
an encoder by the table in `families`; `weights` finds its trained weights, `ge2e` and `ecapa` hold the networks
(`checkpoint` reads the weights of the first without torch, `conversion` brings the second from torch to OpenVINO once;
`spectrum` is what both hear), `network` compiles them and compares them with what they must say.

May use: audio, engine, errors, observability.
"""
