"""From a check on the work list to its one end.

`pipeline` runs one check: it reads the recording, makes the `voiceprint` in the one `inference` thread, within the
caller's `budget`, and calls the SQL function that judges it. `worker` claims checks and runs them, `scheduler` runs
what has become due, `backfill` embeds again what is kept. `service` holds what they share, opened together;
`retry` is how they try again, and
`explanations` says why a recording was not judged.

May use: audio, calibration, database, encoders, errors, observability, recordings, settings.
"""
