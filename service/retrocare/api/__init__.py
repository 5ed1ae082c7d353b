"""From HTTP requests to JSON, or a problem with a stable code.

`app` has the routes, `payloads` what they take and give, `uploads` recordings in a request. `middleware` authenticates
(`auth`) and bounds every request before it is parsed, `admission` bounds the work in hand, `problems` turns errors
into answers, `metrics` is what Prometheus reads.

May use: audio, checks, database, errors, observability, recordings, settings.
"""
