"""RetroCare Voice: recordings become voice embeddings in PostgreSQL, and SQL functions judge them.

The order in which to read:

    errors      every error that a caller may see
    settings    what the environment decides
    audio       bytes -> the patient's channel
    speech      which samples are speech; what cannot be judged
    encoder     windows of speech -> one vector, by `ecapa` or `ge2e`
    pipeline    the order of those steps, from a claimed check to its end
    fetch       one way to get a recording's bytes
    database    one Python function per SQL function called; `refusals` what PostgreSQL says no to
    service     all of that, opened together
    app         the routes; `payloads` and `recordings` what goes in and out, `auth` who may call, `problems` errors
    cli         the command line, with `patients`, `console`, `demo`, `examination` and `serving`
    embedded    a PostgreSQL in a folder, from the `programs` of a wheel; `migrations` brings it up to date
"""

__version__ = "0.1.0"
