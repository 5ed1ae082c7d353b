"""RetroCare Voice: recordings become voice embeddings in PostgreSQL, and SQL functions judge them.

The order in which to read:

    errors      every error that a caller may see
    settings    what the environment decides
    audio       bytes -> the patient's channel; `sources` opens any file, `channels` finds the patient in stereo
    speech      which samples are speech; what cannot be judged; `listening` hears where people speak
    encoder     windows of speech -> one vector; `weights` are found, and run by `onnx`, exported from `ecapa` or `ge2e`
                in torch, whose front end is in `spectrum`
    pipeline    the order of those steps, from a claimed check to its end
    inference   the one thread in which they are taken
    fetch       one way to get a recording's bytes; `guard` and `addresses` what may be fetched
    database    one Python function per SQL function called, the operator's in `care_actions`; `connection` opens it,
                `refusals` are PostgreSQL's
    service     all of that, opened together
    worker      claim, judge, complete, again and again; `rounds` what time makes due; `backfill` another encoder's turn
    app         the routes; `payloads` and `recordings` what goes in and out, `gate`, `auth` and `admission` who gets
                in, `problems` errors, `events` and `metrics` what is seen
    cli         the command line, with `patients`, `baselines`, `caregivers`, `alerts`, `policies`, `operations`,
                `console`, `enrolling`, `explanations`, `demo`, `examination` and `serving`
    embedded    a PostgreSQL in a folder, from the `programs` of a wheel; `migrations` brings it up to date
    releases    which databases this service works on
"""

__version__ = "1.0.0.dev0"
