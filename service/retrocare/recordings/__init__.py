"""A reference to a recording comes in (a URL, `storage:bucket/path`, or a file); its bytes go out.

`fetch` is the one way to them. `addresses` takes URLs apart and says which hosts are allowed; `guard` makes the
request, so that neither a name nor a redirect can lead it to another host.

May use: audio, errors, observability, settings.
"""
