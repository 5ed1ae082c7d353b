"""Python values come in; SQL functions are called by the names of their arguments; rows, or our errors, go out.

`client` has one Python function per SQL function, `errors` makes PostgreSQL's errors ours, `connection` opens the
database that the settings name. `migrations` brings a database up to date and `releases` says which ones this service
works on. `embedded` is a PostgreSQL in a folder, run by the programs that `programs` finds.

May use: audio, errors, settings.
"""
