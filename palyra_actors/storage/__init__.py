"""The only place with SQL. `port` is what the actors see, `journal` is SQLite behind it."""
