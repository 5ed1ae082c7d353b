"""Releases of the database: what ``supabase/schemas`` says, as the migrations that bring a database to it."""
