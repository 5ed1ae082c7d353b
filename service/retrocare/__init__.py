"""RetroCare Voice: recordings become voice embeddings in PostgreSQL, and SQL functions judge them.

A house of seven rooms, each a package. A room uses rooms below it and never one above:

    cli          the command `retrocare`
    api          the HTTP service
    checks       the way of one recording from a leased check to its end, and what runs it again and again
    database     one Python function per SQL function called; migrations; the embedded PostgreSQL
    recordings   the bytes behind an address, fetched without being led elsewhere
    encoders     speech -> one unit vector
    audio        bytes -> the patient's channel -> the samples that are speech

On the ground, for all of them: `errors`, `settings`, `observability`, `engine`. Each room's first lines say what comes
in, what goes out, and which rooms it may use; a test holds them to it.
"""

__version__ = "1.0.0.dev0"
