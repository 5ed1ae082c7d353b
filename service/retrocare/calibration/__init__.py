"""From recordings of people who are known to the parameters of an encoder, and to how well it tells voices apart.

`formulas` is the judgement over arrays, which SQL must agree with; `document` holds its parameters as JSON, and those
that come with the package. `corpus` reads folders of recordings, a folder a person, and `telephone` passes them on as
a telephone with noise would. `fitting` estimates the parameters; `making` does so from folders, and tests what it
fitted. `evaluation` counts who is flagged, `simulation` adds days that nobody recorded, `trial` does both for a folder,
and `report` shows it as a page.

May use: audio, encoders, errors.
"""
