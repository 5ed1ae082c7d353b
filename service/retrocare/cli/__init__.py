"""From commands to tables or JSON on standard output, everything else on standard error.

`main` has the commands about recordings and puts the others together, one module a group; `server` runs the service,
`doctor` checks the set-up, `demo` shows the main job, and `console` has what all commands share.

May use: api, audio, calibration, checks, database, encoders, errors, observability, recordings, settings.
"""
