"""From a reference to a recording (a URL, `storage:bucket/path`, or a file) to its bytes.

`fetch` is the one way to them. `addresses` takes URLs apart and says which hosts are allowed; `guarded_get` makes the
request, so that neither a name nor a redirect can lead it to another host.

May use: audio, errors, observability, settings.
"""
