"""From a recording's bytes to the patient's speech, with what was measured of it.

`files` opens any audio file, `decode` takes the patient's channel from it, `stereo` finds out which channel that is,
`vad` finds where somebody speaks, and `speech` keeps enough of it, or says why the recording cannot be judged.
`features` measures how it is spoken, and `denoise` takes the noise out of what is kept.

May use: engine, errors.
"""
