"""From Python values to the rows, or the errors, of SQL functions.

`client` has one Python function per SQL function, `errors` makes PostgreSQL's errors ours, `connection` opens the
database that the settings name. `migrations` brings a database up to date and `releases` says which ones this service
works on. `embedded` is a PostgreSQL in a folder, run by the programs that
`programs` finds and made to look like hosted Supabase by `supabase_like.sql`.

May use: audio, errors, observability, settings.
"""
